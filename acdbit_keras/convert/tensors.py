"""What a file's tensors are, and a file's bytes: all that needs to be known of one without a reader of `.tflite` files."""

import dataclasses
import math
import os

import numpy as np

_BITS = {
    "float32": 32, "float16": 16, "int32": 32, "uint8": 8, "int64": 64, "bool": 8, "int16": 16, "complex64": 64,
    "int8": 8, "float64": 64, "complex128": 128, "uint64": 64, "uint32": 32, "uint16": 16, "int4": 4, "uint4": 4,
    "bfloat16": 16, "int2": 2, "float8_e4m3fn": 8, "float8_e5m2": 8,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        index: position in the subgraph's tensor list.
        name: as the converter wrote it; Larq Compute Engine cuts names at 50 characters, so they may repeat.
        shape: stored shape; a free dimension is stored as 1.
        dtype: lower-case TFLite name ("float32", "int8", "int4", ...). Bit-packed tensors are "int32".
        scale, zero_point: per-tensor affine quantization, real = scale * (stored - zero_point); None where there is
            none or it is per channel.
        data: the constant's bytes as a uint8 array, None for a computed tensor.
    """

    index: int
    name: str
    shape: tuple
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    data: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def nbytes(self):
        """Bytes the values take; None for types without a fixed width (strings, resources)."""
        bits = _BITS.get(self.dtype)
        return None if bits is None else (math.prod(self.shape) * bits + 7) // 8


def contents(source):
    """The bytes of a model given as a path or as bytes already, and the name to call it in messages.

    Args:
        source: path of a ``.tflite`` file, or its bytes.

    Returns:
        ``(bytes, name)``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the path is not a file.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), "the model given as bytes"
    path = os.fspath(source)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no such .tflite file: {path}")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a .tflite file but a folder or device")
    with open(path, "rb") as file:
        return file.read(), str(path)
