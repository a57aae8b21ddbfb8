"""From a picture as a camera or a file gives it to the input of a model, without TensorFlow.

A picture is uint8 `(height, width)` or `(height, width, channels)`, of any size. The model sees its central square, scaled as the
test images of `acdbit_keras.models.data` are (`tf.image.resize`, bilinear with antialiasing), so that a device gives the answers
that evaluation counted.
"""

import numpy as np

from acdbit_keras.convert import cards

# What the types of 8 bits hold for a black pixel: int8 is a pixel less 128, as cameras of microcontrollers give it.
LEAST = {"uint8": 0, "int8": -128}


def prepare(picture, shape, card, dtype="float32"):
    """One picture as a model's input.

    Args:
        picture: uint8 `(height, width)` or `(height, width, channels)` with 1, 3 (RGB) or 4 (RGB and alpha, which is
            ignored) channels, or as many as the model takes.
        shape: `(height, width, channels)` of the model's input.
        card: the card of the file, see `acdbit_keras.convert.metadata`; its `central_share` is the size of the square.
        dtype: "float32", normalised with the card's `mean` and `std`; "uint8", pixels as they are, or "int8", less 128.

    Returns:
        Array of that shape and type.

    Raises:
        ValueError: not a picture, or channels that cannot become the model's.
    """
    height, width, channels = shape
    pixels = _in_channels(_checked(picture), channels)
    pixels = resized(central(pixels, height, width, card.get("central_share", 1.0)), height, width)
    if dtype in LEAST:
        return in_integers(pixels, dtype)
    offset, factor = cards.normalisation(card)
    return (pixels - offset) * factor


def in_integers(pixels, dtype):
    """Pixels, real numbers from 0 to 255, as `dtype`, "uint8" or "int8", holds them; others saturate."""
    return (np.clip(np.rint(pixels), 0, 255) + LEAST[dtype]).astype(dtype)


def central(pixels, height, width, share=1.0):
    """The middle of `(H, W, channels)` in the proportions of height to width: all of the side that limits it, times `share`."""
    rows, columns = pixels.shape[:2]
    scale = min(rows / height, columns / width) * share
    # Rounded half to even, as TensorFlow does.
    rows_kept, columns_kept = (max(1, round(side * scale)) for side in (height, width))
    top, left = (rows - rows_kept) // 2, (columns - columns_kept) // 2
    return pixels[top : top + rows_kept, left : left + columns_kept]


def resized(pixels, height, width):
    """`(H, W, channels)` scaled to `(height, width, channels)` float32: bilinear, with antialiasing where it shrinks."""
    # Row by row: a photograph in float32 would take more memory than a sensor has.
    rows = [_weighted(weights, pixels[start : start + len(weights)]) for start, weights in _spans(len(pixels), height)]
    turned = np.transpose(np.stack(rows), (1, 0, 2))
    columns = [_weighted(weights, turned[start : start + len(weights)]) for start, weights in _spans(len(turned), width)]
    return np.transpose(np.stack(columns), (1, 0, 2))


def _weighted(weights, rows):
    if len(weights) == 1:
        return rows[0].astype(np.float32)
    return np.tensordot(weights, rows.astype(np.float32), 1)


def _spans(size, new_size):
    """For each new sample the first old one that it is made of, and their weights: a triangle, wide as a new sample if larger."""
    step = size / new_size
    radius = max(step, 1.0)
    for index in range(new_size):
        middle = (index + 0.5) * step
        first, last = max(0, int(np.ceil(middle - radius - 0.5))), min(size - 1, int(np.floor(middle + radius - 0.5)))
        weights = np.maximum(0.0, 1.0 - np.abs(np.arange(first, last + 1) + 0.5 - middle) / radius)
        inside = np.flatnonzero(weights)
        weights = weights[inside[0] : inside[-1] + 1]
        yield first + int(inside[0]), (weights / weights.sum()).astype(np.float32)


def _checked(picture):
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(
            "a picture must be a uint8 array of shape (height, width) or (height, width, channels), "
            f"not {pixels.dtype} of shape {pixels.shape}"
        )
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _in_channels(pixels, channels):
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if found == 4 and channels in (1, 3):
        return _in_channels(pixels[..., :3], channels)
    if found == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if found == 3 and channels == 1:
        # Luma of ITU-R BT.601 in 16 bits, as Pillow rounds it.
        red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[..., None]
    raise ValueError(f"the model takes pictures of {channels} channels, this one has {found}")


def pixels_for(interpreter):
    """`Pixels` for an `Interpreter` whose file takes pixels, `None` for one that takes normalised images.

    Raises:
        ValueError: the file takes pixels, but does not say how it normalises them.
    """
    if interpreter.input_dtype not in LEAST:
        return None
    if "mean" not in interpreter.card:
        raise ValueError("the file takes pixels, but does not say how it normalises them")
    return Pixels(interpreter.card, interpreter.input_shape, interpreter.input_dtype)


class Pixels:
    """Between normalised images, which pipelines give, and the pixels that a file with its own normalisation takes.

    Args:
        card: of the file.
        shape: `(height, width, channels)` of its input.
        dtype: of its input, "uint8" or "int8".
    """

    def __init__(self, card, shape, dtype="uint8"):
        self._offset, self._factor = cards.normalisation(card)
        self._shape, self._dtype = shape, dtype

    def of(self, images):
        """Pixels, of the file's type, of normalised float32 images `(N, height, width, channels)`.

        Raises:
            ValueError: another shape, or values that are no pixel's.
        """
        if images.shape[1:] != self._shape:
            raise ValueError(f"images must have the shape (N, {', '.join(map(str, self._shape))}), got {images.shape}")
        pixels = np.rint(images / self._factor + self._offset)
        if not ((pixels >= 0) & (pixels <= 255)).all():
            raise ValueError("images must be normalised as the file's card says; these would have pixels outside 0 to 255")
        return in_integers(pixels, self._dtype)

    def rounded(self, images):
        """The images whose pixels `of` gives: the same, unless they were resized to pixels that are no whole numbers."""
        return (self.of(images).astype(np.float32) - LEAST[self._dtype] - self._offset) * self._factor
