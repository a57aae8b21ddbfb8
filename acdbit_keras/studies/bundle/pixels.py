"""A lossless code for many small images, written and read with numpy alone.

All images of a chunk go forward together, one sample (row, column, channel) at a time: what numpy is slow at, a loop, is as long
as one image, and what it is fast at, as wide as the chunk. A sample is predicted by a linear map of what is known before it: two
pixels to the left, five above, three two above, the channels before it at its own place. What the prediction misses is coded by
rANS (Duda, arXiv:1311.2540) with one fixed table for each context, which says how far the predictions around it were off.

The maps are fitted, and the tables counted, once per set of images. Their coefficients are integers and every sum stays below
2^24, so that single precision is exact in any order: what one machine wrote, another reads.
"""

import math
import zlib

import numpy as np

CHUNK = 5000  # images; enough for numpy, and few enough that many processes have something to read

_RADIUS = 2
_POINT = 11  # bits behind the binary point of a coefficient
_LARGEST = 2**24 - 1
_BITS = 14  # of a probability
_ONE = 1 << _BITS
_WORD = 16  # bits that a state of the coder gives off at once
_FITTED = 4000  # images that the maps are fitted to
_LEVELS_AROUND, _LEVELS_BESIDE = 20, 14


def encode(images):
    """Codes images.

    Args:
        images: (N, side, side, channels) uint8, N at least 1.

    Returns:
        `(header, chunks)`: a dict of arrays, and the bytes of `CHUNK` images each.
    """
    images = np.ascontiguousarray(images)
    model = _Model(images.shape[1], images.shape[3])
    model.fit(images[:: max(len(images) // _FITTED, 1)])
    counts = np.zeros((model.contexts, 256), np.int64)
    coded = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        symbols, contexts = model.symbols(chunk)
        counts += np.bincount((contexts.astype(np.int32) * 256 + symbols).reshape(-1), minlength=counts.size).reshape(
            counts.shape
        )
        coded.append((symbols, contexts, zlib.crc32(chunk)))
    frequencies = _frequencies(counts)
    header = {
        "shape": np.array(images.shape, np.int64),
        "coefficients": model.coefficients,
        "frequencies": frequencies.astype(np.uint16),
        "checksums": np.array([checksum for _, _, checksum in coded], np.uint32),
    }
    return header, [_write(symbols, contexts, frequencies) for symbols, contexts, _ in coded]


def decode(header, index, content):
    """The images of a chunk.

    Args:
        header: what `encode` returned.
        index: of the chunk.
        content: its bytes.

    Returns:
        (n, side, side, channels) uint8.

    Raises:
        ValueError: the content is damaged.
    """
    count, side, _, channels = (int(number) for number in header["shape"])
    first = index * CHUNK
    model = _Model(side, channels, header["coefficients"])
    try:
        images = model.images(min(CHUNK, count - first), _Reader(content, header["frequencies"].astype(np.int64)))
    except (ValueError, IndexError):
        images = None
    if images is None or zlib.crc32(images) != int(header["checksums"][index]):
        raise ValueError(f"images {first} to {min(first + CHUNK, count) - 1} are damaged; bring them once more")
    return images


class _Model:
    """What is expected of a sample, from those before it."""

    def __init__(self, side, channels, coefficients=None):
        self.side = side
        self.channels = channels
        # Green says most of the others.
        self.order = (1, 0, 2) if channels == 3 else tuple(range(channels))
        self.contexts = channels * _LEVELS_AROUND * _LEVELS_BESIDE
        self.coefficients = coefficients
        self._around = _levels(12 * 255, _LEVELS_AROUND)
        self._beside = _levels(4 * 255, _LEVELS_BESIDE)

    @property
    def places(self):
        """Every sample in order, `(row, column, channel)`; channels are counted in the model's order."""
        return ((y, x, c) for y in range(self.side) for x in range(self.side) for c in range(self.channels))

    def fit(self, images):
        """Least squares, apart for each channel and for the borders, where samples are missing."""
        planes = self._planes(len(images))
        self._inside(planes)[...] = self._transposed(images)
        size = 11 * self.channels
        squares = np.zeros((27, self.channels, size, size))
        products = np.zeros((27, self.channels, size))
        for y, x, c in self.places:
            known = np.concatenate(
                [*self._known(planes, y, x, c), np.zeros((self.channels - c, len(images)), np.float32)], dtype=np.float64
            )
            # The last row is always free and takes the constant.
            known[-1] = 1.0
            at = self._border(y, x), c
            squares[at] += known @ known.T
            products[at] += known @ planes[y + _RADIUS, x + _RADIUS, c]
        solved = np.linalg.solve(squares + np.eye(size), products[..., None])[..., 0]
        coefficients = np.rint(solved * 2**_POINT)
        # Far from what fits images; sums must stay exact whatever the images are.
        reach = np.abs(coefficients[..., :-1]).sum(-1) * 255 + np.abs(coefficients[..., -1]) + 2**_POINT
        coefficients[reach > _LARGEST] = 0
        self.coefficients = coefficients.astype(np.int32)

    def symbols(self, images):
        """What the predictions miss, (samples, n) uint8, and in which context, uint16."""
        planes, errors = self._planes(len(images)), self._planes(len(images))
        inside = self._inside(planes)
        inside[...] = self._transposed(images)
        shape = (self.side**2 * self.channels, len(images))
        symbols, contexts = np.empty(shape, np.uint8), np.empty(shape, np.uint16)
        for place, (y, x, c) in enumerate(self.places):
            predicted = self._predicted(planes, y, x, c)
            contexts[place] = self._context(errors, y, x, c)
            missed = inside[y, x, c] - predicted
            errors[y + _RADIUS, x + _RADIUS, c] = np.abs(missed)
            symbols[place] = missed.astype(np.int16).astype(np.uint8)
        return symbols, contexts

    def images(self, count, reader):
        """The images whose symbols a reader gives."""
        planes, errors = self._planes(count), self._planes(count)
        reader.start(count)
        for y, x, c in self.places:
            predicted = self._predicted(planes, y, x, c)
            symbols = reader.read(self._context(errors, y, x, c))
            values = (predicted.astype(np.uint8) + symbols).astype(np.float32)
            errors[y + _RADIUS, x + _RADIUS, c] = np.abs(values - predicted)
            planes[y + _RADIUS, x + _RADIUS, c] = values
        images = self._inside(planes)[:, :, list(np.argsort(self.order))]
        return np.ascontiguousarray(images.transpose(3, 0, 1, 2).astype(np.uint8))

    def _planes(self, count):
        # Two rows above and two columns at both sides of the images, all zero.
        return np.zeros((self.side + _RADIUS, self.side + 2 * _RADIUS, self.channels, count), np.float32)

    def _inside(self, planes):
        return planes[_RADIUS:, _RADIUS:-_RADIUS]

    def _transposed(self, images):
        return images.transpose(1, 2, 3, 0)[:, :, list(self.order)]

    def _border(self, y, x):
        return (min(y, 2) * 3 + min(x, 2)) * 3 + min(self.side - 1 - x, 2)

    def _known(self, planes, y, x, c):
        """What a sample is predicted from: views of (rows, n)."""
        y, x, count = y + _RADIUS, x + _RADIUS, planes.shape[-1]
        parts = planes[y, x - 2 : x], planes[y - 1, x - 2 : x + 3], planes[y - 2, x - 1 : x + 2]
        return *(part.reshape(-1, count) for part in parts), planes[y, x, :c]

    def _predicted(self, planes, y, x, c):
        coefficients = self.coefficients[self._border(y, x), c].astype(np.float32)
        total, used = coefficients[-1], 0
        for rows in self._known(planes, y, x, c):
            if len(rows):
                total = total + coefficients[used : used + len(rows)] @ rows
                used += len(rows)
        return np.clip(np.floor(total * np.float32(2.0**-_POINT) + np.float32(0.5)), 0, 255)

    def _context(self, errors, y, x, c):
        y, x = y + _RADIUS, x + _RADIUS
        near, row = errors[y], errors[y - 1]
        around = 2 * (near[x - 1, c] + row[x, c]) + row[x - 1, c] + row[x + 1, c]
        if c:
            beside = 2 * near[x, c - 1] + (near[x, c - 2] if c > 1 else near[x - 1, c - 1])
        else:
            beside = near[x - 2, c] + errors[y - 2, x, c] + near[x - 1, -1]
        levels = self._around[around.astype(np.int32)] * _LEVELS_BESIDE + self._beside[beside.astype(np.int32)]
        return levels + c * _LEVELS_AROUND * _LEVELS_BESIDE


def _levels(largest, count):
    """A table from 0 to `largest` to levels that grow with the logarithm."""
    table = np.log1p(np.arange(largest + 1)) / math.log(largest / 6 + 1) * count
    return np.minimum(table, count - 1).astype(np.int32)


def _frequencies(counts):
    """Probabilities of the symbols in each context as integers of sum `_ONE`; whatever occurs has at least 1."""
    counts = counts.copy()
    counts[counts.sum(1) == 0, 0] = 1
    share = counts / counts.sum(1, keepdims=True)
    kept = np.where(counts > 0, np.maximum(np.rint(share * _ONE), 1), 0).astype(np.int64)
    for row in kept:
        # Rounding is made good where it matters least.
        while (surplus := int(row.sum()) - _ONE) != 0:
            largest = int(row.argmax())
            row[largest] -= surplus if surplus < 0 else min(surplus, max(row[largest] // 2, 1))
    return kept


def _write(symbols, contexts, frequencies):
    """The bytes of a chunk; a decoder reads them from the first sample on, so they are written from the last."""
    starts = np.cumsum(frequencies, axis=1) - frequencies
    state, words = np.full(symbols.shape[1], 1 << _WORD, np.uint64), []
    for symbol, context in zip(symbols[::-1], contexts[::-1], strict=True):
        frequency = frequencies[context, symbol].astype(np.uint64)
        full = state >= frequency << np.uint64(2 * _WORD - _BITS)
        words.append(state[full].astype(np.uint16)[::-1])
        state = np.where(full, state >> np.uint64(_WORD), state)
        quotient = state // frequency
        state = (quotient << np.uint64(_BITS)) + (state - quotient * frequency) + starts[context, symbol].astype(np.uint64)
    stream = np.concatenate(words)[::-1] if words else np.empty(0, np.uint16)
    return state.astype("<u4").tobytes() + stream.astype("<u2").tobytes()


class _Reader:
    """Gives the symbols that `_write` wrote, those of all images of a sample at once."""

    def __init__(self, content, frequencies):
        self._content = content
        self._frequencies = frequencies.astype(np.uint32)
        self._starts = (np.cumsum(frequencies, axis=1) - frequencies).astype(np.uint32)
        self._symbols = np.repeat(np.tile(np.arange(256, dtype=np.uint8), len(frequencies)), frequencies.reshape(-1))

    def start(self, count):
        self._state = np.frombuffer(self._content, "<u4", count).astype(np.uint32)
        self._words = np.frombuffer(self._content, "<u2", offset=4 * count).astype(np.uint32)
        self._next = 0

    def read(self, contexts):
        slots = self._state & np.uint32(_ONE - 1)
        symbols = self._symbols[(contexts << _BITS) + slots]
        at = contexts * 256 + symbols
        state = self._frequencies.reshape(-1)[at] * (self._state >> np.uint32(_BITS)) + slots - self._starts.reshape(-1)[at]
        low = np.flatnonzero(state < 1 << _WORD)
        state[low] = (state[low] << np.uint32(_WORD)) | self._words[self._next : self._next + len(low)]
        self._next += len(low)
        self._state = state
        return symbols
