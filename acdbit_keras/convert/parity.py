"""Whether a `.tflite` file computes what the Keras model computes, on real samples.

A binary network is discontinuous: where an activation sits on its threshold, the last bit of a float decides its
sign, and one sign changes logits by far more than rounding does. So a sample whose logits differ is traced: its signs
in the file are compared with those in Keras, product by product in the order of execution, up to the first layer where
they part. If every sign that differs there turns when its value in Keras is moved by a hair, the sample is explained;
if not, or if no sign differs, something is wrong.

Signs are found in the file without names: a binary layer is the node that holds its packed kernel, and the bits that
node reads are the layer's input. The codes that enter attention are kept track of by the exporter (`metadata`).
This project's own ops hand out the signs inside them as a second output (`rewrite.add_taps`).

Where a file takes or gives integers of 8 bits, Keras is given what these hold, and a logit may differ by half a step more than
the tolerance; one that lies beyond the file's range is compared with the end of it.

A flat file hands out no signs. It computes the bits of the `.tflite` file of the same model, so that one is traced in its place,
and a sample is explained only if both have the same logits.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import tempfile
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from acdbit_keras import checks, execution
from acdbit_keras.convert import doors, export, flat, flat_engine, flatbuffer, integers, kernels, metadata, pictures, rewrite
from acdbit_keras.convert.interpreter import Interpreter
from acdbit_keras.convert.tensors import contents
from acdbit_keras.typing import Dataset, Path, Progress

# Sizes of the hair, relative to the mean magnitude of the tensor; the last is the largest that explains.
_MOVES = (1e-7, 1e-6, 1e-5, 1e-4)
# Half precision moves thresholds, and what is compared with them, by 2^-11 each; sums of such values by a few times that.
_COMPACT_MOVES = (*_MOVES, 1e-3, 1e-2)
_WATCHED_AT_ONCE = 8
AFTER_LAST_SIGN = "after the last sign"
BATCH_ALONE = "Keras itself, in batches of another size"
FLAT_ALONE = "the flat file, whose logits are not those of the model's .tflite file"
NO_SIGNS = "a layer that cannot be named, for there are no signs to compare"


@dataclasses.dataclass(frozen=True)
class Parting:
    """Where one sample's computation parts from Keras.

    Attributes:
        sample: its number, from 0.
        difference: largest logit difference.
        layer: path of the first layer where a sign differs, and which operand; `AFTER_LAST_SIGN` if none does.
        signs: number of signs that differ there.
        margin: how little moves all of these signs in Keras, relative to the mean magnitude of their tensor; `None`
            if 1e-4 is not enough, or 1e-2 for a compact file, whose vectors are rounded.
    """

    sample: int
    difference: float
    layer: str
    signs: int = 0
    margin: float | None = None

    @property
    def on_threshold(self) -> bool:
        """Whether the sample is explained."""
        return self.margin is not None


@dataclasses.dataclass(frozen=True)
class Parity:
    """What `verify` found.

    Attributes:
        path: where the file is.
        samples: number of images compared.
        tolerance: largest logit difference that passes.
        largest_difference, mean_difference: the largest and the mean |logit - logit| over all samples and classes.
        equal_argmax: share of samples with the same class, in [0, 1].
        ties: samples of another class although their logits agree within the tolerance.
        beyond_tolerance: samples with a larger difference; each is a `Parting`.
        on_threshold: those explained by activations on their threshold.
        unexplained: the others.
        cause: why the file and the model cannot agree, if that is known; otherwise empty.
        partings: a `Parting` for each sample beyond the tolerance, in order.
        stem: "int8" if the file quantizes what is in front of its blocks, so that signs turn, as compact flat files do; else
            "float32".
        steps: dict from the name of every input and output of 8 bits to the step between two of its values.
        saturated: number of samples with a value, taken or given, beyond what these hold.
    """

    path: str
    samples: int
    tolerance: float
    largest_difference: float
    mean_difference: float
    equal_argmax: float
    ties: int
    beyond_tolerance: int
    on_threshold: int
    unexplained: int
    cause: str
    partings: tuple[Parting, ...]
    stem: str = "float32"
    steps: dict[str, float] = dataclasses.field(default_factory=dict)
    saturated: int = 0

    @property
    def ok(self) -> bool:
        """Whether every sample is within the tolerance or explained by a threshold."""
        return not self.cause and not self.unexplained

    @property
    def first_layers(self) -> dict[str, int]:
        """Where samples part first: dict from layer to number of samples, most frequent first."""
        return dict(collections.Counter(parting.layer for parting in self.partings).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The report in plain types, as `json.dumps` takes them."""
        return {**dataclasses.asdict(self), "ok": self.ok, "first_layers": self.first_layers}

    def __str__(self):
        lines = [
            f"{self.path}: {'equal' if self.ok else 'NOT equal'} to Keras on {self.samples} samples",
            f"largest logit difference {self.largest_difference:.2e}, mean {self.mean_difference:.2e}, "
            f"equal argmax {self.equal_argmax:.2%}" + (f", of the others {self.ties} tied" if self.ties else ""),
        ]
        if self.steps:
            said = ", ".join(f"{name} in steps of {step:.3g}" for name, step in self.steps.items())
            more = f"; samples beyond what these hold, which saturate: {self.saturated}" if self.saturated else ""
            lines.append(f"integers at its doors: {said}{more}")
        if self.beyond_tolerance:
            lines.append(
                f"beyond {self.tolerance:g}{' and half a step' * bool(self.steps)}: {self.beyond_tolerance} samples, "
                f"{self.on_threshold} with a sign on its threshold, {self.unexplained} unexplained"
            )
            wrong = next((parting for parting in self.partings if not parting.on_threshold), self.partings[0])
            lines.append(f"sample {wrong.sample} parts first at {wrong.layer}")
            if wrong.layer == NO_SIGNS:
                lines.append(
                    "weights of 8 or 16 bits round by more than a 1-bit file may; a larger tolerance says what is allowed"
                )
            if self.stem == "int8":
                lines.append(
                    "the file's stem computes in 8 bits, so signs turn; its accuracy on labelled images says what that costs"
                )
        if self.cause:
            lines.append(self.cause)
        return "\n".join(lines)


def verify(
    model: keras.Model,
    path: Path,
    data: npt.ArrayLike | Dataset,
    tolerance: float = 1e-3,
    batch_size: int = 64,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Parity:
    """Compares a `.tflite` file, or a flat one (`.acdm`), with the Keras model it was made from.

    Args:
        model: the built Keras model.
        path: where the file is.
        data: normalised images `(n, height, width, channels)`, float32, or a `tf.data.Dataset` of batches `images` or
            `(images, labels)`.
        tolerance: largest |logit - logit| that passes without an explanation; default 1e-3.
        batch_size: images that Keras predicts at once; default 64. The file takes one at a time.
        num_threads: threads the file's engine may use; default 1.
        progress: function that is called with the number of images done after each batch; default: none.

    Returns:
        `Parity`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one whose input or number of classes is not the model's; no images, images of
            another shape or not finite; an argument out of range.

    Example:
        >>> import acdbit_keras as acd
        >>> parity = acd.convert.verify(student, "student.tflite", images)
        >>> print(parity)
        student.tflite: equal to Keras on 32 samples
        largest logit difference ..., mean ..., equal argmax 100.00%
        >>> parity.ok
        True
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance!r}")
    checks.integer("batch_size", batch_size, 1)
    inputs = doors.of(model)
    content, name = contents(path)
    interpreter = Interpreter(content, num_threads)
    if interpreter.input_shape != inputs.shape:
        raise ValueError(
            f"{name} takes images of shape {interpreter.input_shape}, the model {inputs.shape}: it is of another model"
        )
    is_flat = flat_engine.is_flat(content)
    if is_flat:
        content = _tflite(model, interpreter, flat.is_compact(content))
    file = flatbuffer.parse(content, name)
    alike = Interpreter(content, num_threads) if is_flat else None
    model, stored = export.in_float32(model), metadata.read(file)
    rounding = next((name for name in ("half", "compact") if stored.get(name)), None)
    if rounding:
        model = export.in_rounding(model, rounding)
    predict = tf.function(lambda tensors: doors.outputs(model, model(inputs.pack(tensors), training=False)), autograph=False)

    differences, equal, suspicious, ties, saturated = [], 0, [], 0, 0
    # A model that takes pixels itself is given them; one whose file does so is given what the file makes of them.
    pixels = pictures.pixels_for(interpreter) if inputs.dtypes == ("float32",) else None
    (names, given_names), taken = flatbuffer.signature_names(file), flatbuffer.inputs(file)
    if inputs.several:
        taken = [dict(zip(names, taken))[name] for name in inputs.names]
    given = dict(zip(given_names, flatbuffer.outputs(file)))
    for images in _rebatched(data, batch_size, inputs):
        if pixels:
            images = [pixels.rounded(images[0])]
        beyond = [
            integers.Held([tensor]).beyond(image.reshape(len(image), -1)) for tensor, image in zip(taken, images, strict=True)
        ]
        images = [integers.rounded(image, tensor) for tensor, image in zip(taken, images)]
        theirs = _in_order(interpreter, inputs, pixels, images)
        ours = {key: np.asarray(value) for key, value in _padded_call(predict, images, batch_size).items()}
        found, wanted = ([tuple(array.shape[1:]) for _, array in sorted(outputs.items())] for outputs in (theirs, ours))
        if found != wanted or (len(ours) > 1 and set(ours) != set(theirs)):
            found, wanted = (shapes[0] if len(shapes) == 1 else f"{len(shapes)} outputs" for shapes in (found, wanted))
            raise ValueError(f"{name} gives {found} per image, the model {wanted}: it is of another model")
        keys = list(ours) if len(ours) > 1 else list(theirs)
        pairs = [(mine, theirs[key]) for key, mine in zip(keys, ours.values())]
        held = integers.Held([given[key] for key in keys] if len(keys) > 1 else list(given.values()))
        same = np.all([_argmax(mine) == _argmax(other) for mine, other in pairs], axis=0)
        mine, other = (np.concatenate([pair[side].reshape(len(same), -1) for pair in pairs], axis=1) for side in (0, 1))
        difference, within = np.abs(mine - other), held.within(mine, other, tolerance)
        saturated += int(np.any([*beyond, held.beyond(mine)], axis=0).sum())
        suspicious += [(len(differences) + int(i), [image[i] for image in images], other[i]) for i in np.flatnonzero(~within)]
        differences += [(row.max(), row.mean()) for row in difference]
        equal += int(same.sum())
        ties += int((within & ~same).sum())
        if progress:
            progress(len(differences))
    if not differences:
        raise ValueError("data holds no images")

    largest, mean = np.array(differences, np.float64).T
    moves = _COMPACT_MOVES if rounding == "compact" else _MOVES
    tracer = _Tracer(model, file, num_threads, pixels, held, moves)
    partings = []
    for (sample, image, logits), where in zip(suspicious, tracer.trace(suspicious, tolerance)):
        if is_flat:
            [expected] = _in_order(alike, inputs, pixels, [part[None] for part in image]).values()
            where = where if np.abs(expected.reshape(-1) - logits).max() <= tolerance else (FLAT_ALONE,)
        partings.append(Parting(sample, float(largest[sample]), *where))
    explained = sum(parting.on_threshold for parting in partings)
    return Parity(
        path=name,
        samples=len(differences),
        tolerance=tolerance,
        largest_difference=float(largest.max()),
        mean_difference=float(mean.mean()),
        equal_argmax=equal / len(differences),
        ties=ties,
        beyond_tolerance=len(partings),
        on_threshold=explained,
        unexplained=len(partings) - explained,
        cause=tracer.cause,
        partings=tuple(partings),
        stem="int8" if is_flat and rounding == "compact" else stored.get("stem", "float32"),
        steps={name: door["scale"] for name, door in integers.doors(file).items()},
        saturated=saturated,
    )


def _tflite(model, interpreter, compact):
    """The bytes of the `.tflite` file of a model, of the form that an interpreter's flat file has."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.tflite")
        options = dict(card=interpreter.card or None, input=interpreter.input_dtype, compact=compact)
        export.to_tflite(model, file, precision="bits", attention="binary", **options)
        return contents(file)[0]


class _Watch(execution.KerasExecutor):
    """Keras' own executor, noting every tensor of a binary layer that is quantized."""

    def __init__(self):
        self.seen = []

    def observe(self, layer, place, real, signs):
        if layer.is_binary:
            self.seen.append((layer, place, real, signs))


class _Tracer:
    """Finds the first signs that differ between Keras and a file.

    Attributes:
        cause: why there is no comparing, empty if there is.
    """

    def __init__(self, model, file, num_threads, pixels, held, moves):
        self._model = model
        self._held = held
        self._moves = moves
        self._pixels = pixels
        self._places = []  # (layer, place) in order of execution, filled by the first trace
        self._watch = tf.function(self._watched, autograph=False)
        self._doors = doors.of(model)
        shapes = zip(self._doors.shapes, self._doors.dtypes)
        self._watch.get_concrete_function([tf.TensorSpec((_WATCHED_AT_ONCE, *shape), dtype) for shape, dtype in shapes])
        self.cause = ""
        products = [
            (layer.path, rewrite.pack_bits(kernels.packable_kernel(layer)[1].T))
            for layer, place in self._places
            if place == "input"
        ]
        filters = export.match_products(file, products) if rewrite.filters(file) else []
        missing = [path for (path, _), found in zip(products, filters) if found is None]
        if missing:
            self.cause = (
                f"the kernel of layer {missing[0]} is not in the file: it was converted from another model or other weights"
            )
        self._tensors = self._sources(file, filters) if filters and not missing else {}
        if self._tensors:
            exposed = flatbuffer.expose_tensors(file, sorted({tensor for tensor, _ in self._tensors.values()}))
            self._positions = {tensor.index: i for i, tensor in enumerate(flatbuffer.outputs(exposed))}
            self._interpreter = Interpreter(flatbuffer.pack(exposed), num_threads)

    def trace(self, suspicious, tolerance):
        """Yields `(layer,)`, or `(layer, signs, margin)`, for each `(number, image, logits of the file)`."""
        for start in range(0, len(suspicious), _WATCHED_AT_ONCE):
            group = suspicious[start : start + _WATCHED_AT_ONCE]
            if not self._tensors:
                yield from [(NO_SIGNS,)] * len(group)
                continue
            images = [np.stack(parts) for parts in zip(*(image for _, image, _ in group))]
            logits, seen = _padded_call(self._watch, images, _WATCHED_AT_ONCE)
            values = list(_in_order(self._interpreter, self._doors, self._pixels, images).values())
            for i, (_, _, theirs) in enumerate(group):
                parting = self._first(seen, values, i)
                if parting is None and self._held.within(logits[i], theirs, tolerance):
                    # The two executions of Keras differ in a sign; the file agrees with one of them.
                    parting = (BATCH_ALONE, 0, 0.0)
                yield parting or (AFTER_LAST_SIGN,)

    def _watched(self, tensors):
        watch = _Watch()
        with execution.using(watch):
            outputs = doors.outputs(self._model, self._model(self._doors.pack(tensors), training=False))
        logits = tf.concat([tf.reshape(output, (_WATCHED_AT_ONCE, -1)) for output in outputs.values()], axis=1)
        self._places = [(layer, place) for layer, place, _, _ in watch.seen]
        return logits, [(real, tf.cast(signs, tf.int8)) for _, _, real, signs in watch.seen]

    def _sources(self, file, filters):
        """Number in `_places` -> the tensor of the file that holds the same signs, and for a tap the section in it."""
        stored, taps = metadata.read(file).get("taps", {}), rewrite.add_taps(file)
        attentions = iter(tap for node, tap in taps.items() if list(tap[1]) == ["probabilities"])
        filters, sources, number_of_attention, block = iter(filters), {}, 0, None
        for number, (_, place) in enumerate(self._places):
            if place == "input":
                found = next(filters)
                block = taps[found.node.index] if found.product else None
                section = f"{found.product}.input"
            else:
                section = place
            tap = export.tap_name(number_of_attention, place)
            if block:
                sources[number] = (block[0], block[1][section])
            elif place == "input":
                sources[number] = (found.node.inputs[0].index, None)
            elif tap in stored:
                sources[number] = (stored[tap], None)
            elif place == "probabilities" and (own := next(attentions, None)):
                sources[number] = (own[0], own[1][place])
            number_of_attention += place == "probabilities"
        return sources

    def _first(self, seen, values, i):
        for number, (layer, place) in enumerate(self._places):
            if number not in self._tensors:
                continue
            real, signs = (np.asarray(tensor[i]) for tensor in seen[number])
            tensor, section = self._tensors[number]
            theirs = values[self._positions[tensor]][i]
            if section:
                start, shape = section
                theirs = theirs.reshape(-1)[start : start + np.prod(shape)].reshape(shape)
            if theirs.dtype == np.int32:
                whole_rows = place in ("input", "probabilities")
                theirs = rewrite.unpack_bits(theirs, signs.shape[-1] if whole_rows else 32 * theirs.shape[-1])
                # A probability's bit is 1 where it is kept, every other bit where the sign is negative.
                theirs = -theirs if place == "probabilities" else theirs
            differ = (signs > 0) != (theirs.reshape(signs.shape) > 0)
            if differ.any():
                return f"{layer.path}, {place}", int(differ.sum()), _margin(layer, place, real, signs, differ, self._moves)
        return None


def _margin(layer, place, real, signs, differ, moves):
    """The smallest of `moves` by which all signs that differ turn, `None` if there is none."""
    unit = np.abs(real).mean()
    for move in moves:
        moved = real + np.where(differ, np.where(signs > 0, -1, 1) * move * unit, 0).astype(real.dtype)
        turned = np.asarray(_signs(layer, place, moved[None]))[0]
        if ((turned > 0) != (signs > 0))[differ].all():
            return move
    return None


def _signs(layer, place, real):
    if place == "probabilities":
        return layer.probabilities(real, False).signs
    return getattr(layer, f"{place}_quantizer")(real, training=False).signs


def _padded_call(function, images, size):
    """Calls a traced function on batches of one size only: another size means another trace, and other rounding."""
    count = len(images[0])
    padded = [tf.constant(np.pad(image, [(0, size - count)] + [(0, 0)] * (image.ndim - 1))) for image in images]
    return keras.tree.map_structure(lambda tensor: tensor[:count], function(padded))


def _in_order(interpreter, inputs, pixels, images):
    """What a file gives for a batch, a list of inputs: a dict from the names of its outputs, in their order."""
    if pixels:
        images = [pixels.of(images[0])]
    given = dict(zip(inputs.names, images)) if inputs.several else images[0]
    return dict(zip(interpreter.output_names, interpreter.predict_in_order(given)))


def _argmax(output):
    """Per sample the classes of an output, one number: of one with further axes that of all of them."""
    return output.reshape(len(output), -1).argmax(-1)


def _rebatched(data, size, inputs):
    for images in export.samples(data, inputs):
        for start in range(0, len(images[0]), size):
            yield [image[start : start + size] for image in images]
