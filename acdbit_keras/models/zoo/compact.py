"""Compact files: a trained 1-bit backbone with its kernels as bits, or its float twin.

A `.keras` file keeps the real weights from which training made the signs, 32 bits each. A compact file keeps the sign
alone, one bit, and per output channel what decodes it; everything else - norms, activations, running statistics,
positions, the float ends of the network - in numbers of two, three or four bytes. Training cannot go on from it. A float
twin, against which students are compared, is such numbers throughout.

    8 bytes    magic
    12 bytes   format version, CRC-32 of all that follows, length of the header; little-endian
    header     deflated JSON: class and config of the model, and [name, shape, kind] of every weight in order
    bits       of the kernels, packed
    floats     deflated; those of two, of three and of four bytes, each byte by byte: all first bytes, all second ones, ...
"""

from __future__ import annotations

import json
import math
import pathlib
import struct
import zlib
from typing import Literal

import keras
import numpy as np
from keras import ops

from acdbit_keras import checks, code, execution, quantizers, tracing
from acdbit_keras.files import write_beside

# Two of them imported for what they register with Keras.
from acdbit_keras.models import pyramid, vit  # noqa: F401
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.typing import Path

SUFFIX = ".acdbit"
VERSION = 1
FLOAT_TWIN = "float32"
PRECISIONS = ("float16", "float24", "float32")
_MAGIC = b"\x89ACDBIT\n"
_NUMBERS = struct.Struct("<III")
_LEVELS = {"sign": (1, -1), "zero_one": (1, 0)}  # what a bit that is set stands for, and one that is not
_BYTES = {"float16": 2, "float24": 3, "float32": 4}
_SMALL = 16  # weights of up to so many numbers stay in single precision: counters, scales


def save_compact(model: Backbone, path: Path, precision: Literal["float16", "float24", "float32"] = "float24") -> int:
    """Writes a trained backbone as a compact file.

    Args:
        model: built backbone of a scheme whose weights are one bit, or of the scheme `"float32"`.
        path: where the file is to be, by convention `*.acdbit`; an older one stays whole if anything fails.
        precision: how numbers that are not bits are stored. `"float32"`: the loaded model computes to the last bit what
            this one does. `"float24"`, the default, the first three bytes of that, a relative error of 2^-16. `"float16"`,
            half precision, 2^-11: in a binary network enough to turn signs in every layer, so the answer to some images
            changes.

    Returns:
        Bytes written.

    Raises:
        ValueError: a model of another kind, or an unknown precision.
        OSError: the file cannot be written.

    Example:
        >>> import acdbit_keras as acd
        >>> size = acd.models.save_compact(student, "student.acdbit")
        >>> restored = acd.models.load_compact("student.acdbit")
        >>> size < student.count_params(), restored.scheme.is_binary
        (True, True)
    """
    checks.choice("precision", precision, PRECISIONS)
    stored, layers = _with_stored_signs(model)
    kernels = {dense.kernel.path: dense.kernel_quantizer.levels for dense in layers if dense.kernel_quantizer.is_binary}
    rows, bits, floats = [], [], {kind: [np.empty(0)] for kind in PRECISIONS}
    for variable in float_variables(stored):
        value = ops.convert_to_numpy(variable.value).astype(np.float32)
        kind = kernels.get(variable.path) or _kind(value, precision)
        rows.append((name_in_model(variable), value.shape, kind))
        if kind in _LEVELS:
            bits.append(np.packbits(value.reshape(-1) > 0).tobytes())
        else:
            floats[_stored_as(kind)].append(value.reshape(-1)[: 1 if kind == "same" else None])
    header = {"class": keras.saving.get_registered_name(type(stored)), "config": stored.get_config(), "weights": rows}
    header = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    planes = b"".join(_to_planes(np.concatenate(parts), kind) for kind, parts in floats.items())
    body = b"".join([header, *bits, zlib.compress(planes, 9)])
    content = _MAGIC + _NUMBERS.pack(VERSION, zlib.crc32(body), len(header)) + body
    write_beside(path, lambda temporary: temporary.write_bytes(content))
    return len(content)


def load_compact(path: Path) -> Backbone:
    """The backbone in a compact file, for inference, evaluation and conversion.

    Its binary kernels hold the signs themselves (`acdbit_keras.quantizers.StoredSign`). The real weights behind them are
    gone; it is frozen, and thawed, a training step raises a ValueError: `transfer` makes new ones. It can be saved again, as a
    compact or a `.keras` file.

    Args:
        path: where the file is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a compact file, truncated or damaged, or of a newer version.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    header, rest = _read(path)
    cls = keras.saving.get_registered_object(header["class"])
    if not (isinstance(cls, type) and issubclass(cls, Backbone)):
        raise ValueError(f"{path} holds a model of the class {header['class']}, which this version does not have")
    model = cls.from_config(header["config"])
    expected = [[name_in_model(variable), list(variable.shape)] for variable in float_variables(model)]
    if expected != [row[:2] for row in header["weights"]]:
        raise ValueError(f"{path} holds weights that do not fit its model; it was written by another version of acdbit-keras")
    for variable, value in zip(float_variables(model), _values(header["weights"], rest)):
        variable.assign(value)
    model.trainable = False
    return model


def _read(path):
    """The header of a file, a dict, and what follows it."""
    content = path.read_bytes()
    start = len(_MAGIC) + _NUMBERS.size
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{path} is not a compact model file; `save_compact` or `acdbit zoo add` makes one")
    if len(content) < start:
        raise ValueError(f"{path} is truncated")
    version, checksum, length = _NUMBERS.unpack(content[len(_MAGIC) : start])
    if version > VERSION:
        raise ValueError(f"{path} has the format version {version}, this acdbit-keras reads up to {VERSION}; update it")
    body = content[start:]
    if zlib.crc32(body) != checksum:
        raise ValueError(f"{path} is truncated or damaged: its checksum is wrong")
    return json.loads(zlib.decompress(body[:length])), body[length:]


def _values(rows, rest):
    """Yields the array of each weight, in order."""
    counts = dict.fromkeys(("bits", *PRECISIONS), 0)
    for _, shape, kind in rows:
        counts[_stored_as(kind)] += _count(shape, kind)
    planes, left = zlib.decompress(rest[counts["bits"] :]), {"bits": np.frombuffer(rest[: counts["bits"]], np.uint8)}
    for kind in PRECISIONS:
        end = counts[kind] * _BYTES[kind]
        left[kind], planes = _from_planes(planes[:end], kind), planes[end:]
    for _, shape, kind in rows:
        source, count = _stored_as(kind), _count(shape, kind)
        value, left[source] = left[source][:count], left[source][count:]
        if kind in _LEVELS:
            value = np.where(np.unpackbits(value, count=math.prod(shape)), *_LEVELS[kind]).astype(np.float32)
        yield np.full(shape, value[0]) if kind == "same" else value.reshape(shape)


def _kind(value, precision):
    if (value == value.reshape(-1)[0]).all():
        return "same"
    if value.size <= _SMALL:
        return "float32"
    # Beyond the range of half precision.
    return "float24" if precision == "float16" and np.abs(value).max() > np.finfo(np.float16).max else precision


def _stored_as(kind):
    return "bits" if kind in _LEVELS else "float32" if kind == "same" else kind


def _count(shape, kind):
    """Bytes of bits, or numbers."""
    return -(-math.prod(shape) // 8) if kind in _LEVELS else 1 if kind == "same" else math.prod(shape)


def _to_planes(numbers, kind):
    """The bytes of an array, all first ones, then all second ones: exponents beside exponents deflate better."""
    numbers = numbers.astype("<f2" if kind == "float16" else "<f4")
    if kind == "float24":
        # Rounded to the bytes that are kept.
        numbers = (numbers.view("<u4") + np.uint32(0x80)).view("<f4")
    return numbers.view(np.uint8).reshape(-1, numbers.itemsize)[:, -_BYTES[kind] :].T.tobytes()


def _from_planes(planes, kind):
    columns = np.frombuffer(planes, np.uint8).reshape(_BYTES[kind], -1).T
    if kind == "float24":
        columns = np.pad(columns, ((0, 0), (1, 0)))
    return np.ascontiguousarray(columns).view("<f2" if kind == "float16" else "<f4").reshape(-1).astype(np.float32)


def _with_stored_signs(model):
    """A copy of a 1-bit backbone whose kernels are the signs of the original's, and its fully connected layers.

    A float twin is returned as it is, without layers.
    """
    if not isinstance(model, Backbone):
        raise ValueError(f"a compact file holds a backbone, not {type(model).__name__}")
    if model.scheme.name == FLOAT_TWIN:
        return model, []
    weight = quantizers.get(model.scheme.weight)
    if not weight.is_binary:
        what = f"the scheme {model.scheme.name!r}"
        raise ValueError(f"a compact file holds a backbone with weights of one bit, or of the scheme {FLOAT_TWIN!r}, not {what}")
    codes = [
        dense.kernel_code().map(ops.convert_to_numpy) if dense.kernel_quantizer.is_binary else None
        for dense in dense_layers(model)
    ]
    restore = any(kernel is not None and not code.is_constant(kernel.offset) for kernel in codes)
    # What is frozen is no part of what is stored: read, all of it is.
    config = {key: value for key, value in model.get_config().items() if key not in ("trainable", "frozen")}
    stored = quantizers.StoredSign(weight.levels, restore, name="weight")
    config["scheme"] = {**config["scheme"], "weight": quantizers.serialize(stored)}
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = type(model).from_config(config)
    finally:
        keras.config.set_dtype_policy(previous)
    theirs = {name_in_model(variable): variable for variable in model.variables}
    for variable in float_variables(copy):
        if name_in_model(variable) in theirs:
            variable.assign(theirs[name_in_model(variable)].value)
    layers = dense_layers(copy)
    for kernel, dense in zip(codes, layers, strict=True):
        if kernel is not None:
            quantizer = dense.kernel_quantizer
            dense.kernel.assign(kernel.signs)
            quantizer.scale.assign(np.broadcast_to(kernel.scale, quantizer.scale.shape))
            if restore:
                quantizer.offset.assign(np.broadcast_to(kernel.offset, quantizer.offset.shape))
    return copy, layers


class _Collector(execution.KerasExecutor):
    """Notes the fully connected layers of a backbone, in order of execution."""

    def __init__(self):
        self.dense_layers = []

    def dense(self, layer, inputs, training):
        self.dense_layers.append(layer)
        return ops.zeros((*inputs.shape[:-1], layer.units), inputs.dtype)


def dense_layers(model):
    """The fully connected layers of a backbone, in order of execution."""
    with execution.using(_Collector()) as collector:
        tracing.run_once(lambda images: model(images, training=False), (1, *model.input_shape_of_images))
    return collector.dense_layers


def float_variables(model):
    """The variables of a model, all but the states of random numbers, which inference does not draw."""
    return [variable for variable in model.variables if keras.backend.is_float_dtype(variable.dtype)]


def name_in_model(variable):
    """The path of a variable below its model."""
    return variable.path.partition("/")[2]
