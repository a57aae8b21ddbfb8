"""What a model does inside on real images, watched by an executor in place of Keras' own."""

import dataclasses
import functools

import numpy as np
from keras import ops

from acdbit_keras import execution
from acdbit_keras.models import data
from acdbit_keras.studies.visualize import measures

_KEPT_VALUES = 30_000  # of each tensor, drawn at random, for histograms


@dataclasses.dataclass
class Place:
    """One quantized tensor of a model over all images; what it says of itself holds once all are added.

    Attributes:
        block: name of the block, or of the layer where it belongs to none.
        name: which tensor: `"query input"` for the input of the layer `query`; `"query"`, `"key"`, `"value"` or
            `"probabilities"` for the operands of attention.
        levels: of its quantizer; see `Quantizer.levels`.
        real, code, signs: values of the tensor, of its code (decoded) and of the code's signs, at the same places.
        values, positive, nonnegative: number of values, of positive signs, of values from 0 on.
        error, power: sums of (real - code)^2 and real^2.
    """

    block: str
    name: str
    levels: str
    real: list = dataclasses.field(default_factory=list)
    code: list = dataclasses.field(default_factory=list)
    signs: list = dataclasses.field(default_factory=list)
    values: int = 0
    positive: int = 0
    nonnegative: int = 0
    error: float = 0.0
    power: float = 0.0

    def add(self, real, code, signs, kept, seed):
        self.values += real.size
        self.positive += int((signs > 0).sum())
        self.nonnegative += int((real >= 0).sum())
        self.error += float(np.square(real - code, dtype=np.float64).sum())
        self.power += float(np.square(real, dtype=np.float64).sum())
        # Drawn anew for each, so that equal tensors, such as the inputs of query, key and value, give equal figures.
        chosen = np.random.default_rng([*seed, real.size]).integers(0, real.size, min(kept, real.size))
        for held, tensor in ((self.real, real), (self.code, code), (self.signs, signs)):
            held.append(tensor.reshape(-1)[chosen])

    @functools.cached_property
    def samples(self):
        """`(real, code, signs)`, flat arrays."""
        return tuple(np.concatenate(held) for held in (self.real, self.code, self.signs))

    @property
    def is_sign(self):
        return self.levels == "sign"

    @property
    def is_restored(self):
        """Whether the code is more than the bare signs."""
        _, code, signs = self.samples
        return self.is_sign and not np.array_equal(code, signs)

    @functools.cached_property
    def span(self):
        """Range of the histograms: 99.8 % of the real values, every code, and the two bare signs."""
        real, code, _ = self.samples
        low, high = np.quantile(real, (0.001, 0.999))
        if self.is_sign:
            low, high = min(low, code.min(), -1.0), max(high, code.max(), 1.0)
        return float(low), float(max(high, low + 1e-6))

    @functools.cached_property
    def facts(self):
        """Dict of plain numbers: what `results.json` says of the place.

        `p_plus` is the measured share of +1, `p_plus_at_zero` what a sign without a threshold would give. The
        divergences are those of the real values from the bare signs and from the code, in bits (`measures.jensen_shannon`);
        the distances the same by transport, in standard deviations of the real values.
        """
        found = {"block": self.block, "place": self.name, "levels": self.levels, "values": self.values}
        if self.levels in ("sign", "zero_one"):
            found["p_plus"] = self.positive / self.values
        if self.is_sign:
            real, code, signs = self.samples
            deviation = max(float(real.std()), 1e-12)
            found |= {
                "p_plus_at_zero": self.nonnegative / self.values,
                "divergence_of_signs": measures.jensen_shannon(real, signs, *self.span),
                "divergence_of_code": measures.jensen_shannon(real, code, *self.span),
                "distance_of_signs": measures.transport(real, signs) / deviation,
                "distance_of_code": measures.transport(real, code) / deviation,
            }
        if self.levels != "real":
            found["relative_error"] = (self.error / max(self.power, 1e-30)) ** 0.5
        return found


@dataclasses.dataclass
class Attention:
    """One attention of a model.

    Attributes:
        block: name of its block.
        shown: softmax and code of the probabilities `(pictures, heads, n, m)` of the images that are shown.
        errors: relative error of the code per image and head, `(images, heads)`; 0 for a float model.
        kept: share of the probabilities whose code is not 0.
        mass: mean sum of a row of the code; 1 for a softmax.
    """

    block: str
    shown: tuple
    errors: list = dataclasses.field(default_factory=list)
    kept: list = dataclasses.field(default_factory=list)
    mass: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Observation:
    """A model on images.

    Attributes:
        name: of the model.
        logits: `(n, classes)`.
        features: means over the tokens of the last block, `(n, width)`.
        tokens: the last block's features of the images that are shown, `(pictures, height, width, channels)`.
        places: list of `Place`, in order of execution.
        attentions: list of `Attention`, in order of execution.
    """

    name: str
    logits: np.ndarray
    features: np.ndarray
    tokens: np.ndarray
    places: list
    attentions: list

    @property
    def is_binary(self):
        """Whether it has tensors of signs."""
        return any(place.is_sign for place in self.places)

    @property
    def is_quantized(self):
        """Whether anything in it is not real: also true of integer models."""
        return any(place.levels != "real" for place in self.places)


def observe(subject, pixels, pictures, seed=0, batch_size=64, progress=None):
    """Runs a model over images and keeps what the views need.

    Args:
        subject: `KerasSubject`.
        pixels: `(n, height, width, channels)`.
        pictures: number of first images whose attention and tokens are kept whole.
        seed: of the choice of values that are kept.
        batch_size: images at once.
        progress: called after each batch.

    Returns:
        `Observation`.
    """
    images = data.normalize(pixels, subject.dataset)
    watch = _Watch(-(-_KEPT_VALUES // -(-len(images) // batch_size)), pictures, seed)
    logits, features, tokens = [], [], []
    for start in range(0, len(images), batch_size):
        watch.start = start
        with execution.using(watch):
            outputs = subject.model(images[start : start + batch_size], training=False, return_taps=True)
        last = ops.convert_to_numpy(outputs["taps"][-1]["features"])
        logits.append(ops.convert_to_numpy(outputs["logits"]))
        features.append(last.mean(axis=(1, 2)))
        tokens.append(last[: max(pictures - start, 0)])
        if progress:
            progress()
    joined = (np.concatenate(parts) for parts in (logits, features, tokens))
    return Observation(subject.name, *joined, list(watch.places.values()), list(watch.attentions.values()))


class _Watch(execution.KerasExecutor):
    """Keras' own executor, noting every tensor that is quantized."""

    def __init__(self, kept, pictures, seed):
        self.kept, self.pictures, self.seed = kept, pictures, seed
        self.places, self.attentions, self.start = {}, {}, 0

    def observe(self, layer, place, real, signs):
        block, name = _called(layer, place)
        if place == "probabilities":
            code = layer.probabilities(real, False)
            real = ops.softmax(real, axis=-1)
            levels = layer.probabilities_quantizer.levels
        else:
            quantizer = getattr(layer, f"{place}_quantizer")
            code, levels = quantizer(real, training=False), quantizer.levels
        real, decoded, signs = (np.asarray(ops.convert_to_numpy(x), np.float32) for x in (real, code.decode(), signs))
        decoded = np.broadcast_to(decoded, real.shape)
        self.places.setdefault((layer.path, place), Place(block, name, levels)).add(
            real, decoded, signs, self.kept, (self.seed, self.start)
        )
        if place == "probabilities":
            self._attention(layer.path, block, real, decoded)

    def _attention(self, path, block, real, decoded):
        shown = max(self.pictures - self.start, 0)
        if path not in self.attentions:
            self.attentions[path] = Attention(block, (real[:0], decoded[:0]))
        attention = self.attentions[path]
        if shown:
            attention.shown = tuple(np.concatenate(pair) for pair in zip(attention.shown, (real[:shown], decoded[:shown])))
        attention.errors.append(measures.attention_error(real, decoded))
        attention.kept.append((decoded != 0).mean(axis=(1, 2, 3)))
        attention.mass.append(decoded.sum(axis=-1).mean(axis=(1, 2)))


def _called(layer, place):
    """Names of the block and of the tensor."""
    parts = layer.path.split("/")
    block = next((part for part in parts if part.startswith(("block", "merging"))), layer.name)
    return block, f"{layer.name} input" if place == "input" else place
