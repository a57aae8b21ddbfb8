"""Running flat files (`.acdm`) with the engine that microcontrollers run, which is part of the compiled runtime."""

import ctypes

import numpy as np

from acdbit_keras import contract
from acdbit_keras.convert import runtime

MAGIC = b"ACDM"
_FILE_ALIGNMENT = 16


class FlatError(ValueError):
    """A model that has no flat form, or a file that is no flat file."""


class _Info(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("height", "width", "channels", "pixels", "outputs")),
        ("card_bytes", ctypes.c_uint32),
        ("card", ctypes.c_void_p),
    ]


def is_flat(content):
    """Whether the bytes of a file are those of a flat file, or mean to be."""
    return content[: len(MAGIC)] in (MAGIC, MAGIC[::-1])


class FlatEngine:
    """A flat file that was checked, with the memory that it runs in.

    Args:
        content: bytes of the file.
        name: what to call it in messages.

    Attributes:
        input_shape: `(height, width, channels)`.
        input_dtype: `"float32"` or `"uint8"`.
        outputs: number of logits.
        card: the JSON of its card, bytes.
        memory_bytes: what the engine works in, on a microcontroller just as here.

    Raises:
        FlatError: not a flat file that this engine runs; the message says why.
        RuntimeMissingError: the runtime is not compiled.
    """

    def __init__(self, content, name="the flat file"):
        self._library = runtime.flat_library()
        self._library.acdbit_model_info.restype = _Info
        self._file = _aligned(len(content), _FILE_ALIGNMENT)
        self._file[:] = np.frombuffer(content, np.uint8)
        self._refuse(name, self._library.acdbit_model_check(_address(self._file), len(content)))
        info = self._library.acdbit_model_info(_address(self._file))
        self.input_shape = (info.height, info.width, info.channels)
        self.input_dtype = "uint8" if info.pixels else "float32"
        self.outputs = info.outputs
        self.card = ctypes.string_at(info.card, info.card_bytes) if info.card else b""
        self.memory_bytes = self._library.acdbit_model_memory(_address(self._file))
        self._memory = _aligned(self.memory_bytes, contract.ALIGNMENT)
        prepared = self._library.acdbit_model_prepare(_address(self._file), _address(self._memory), self.memory_bytes)
        self._refuse(name, prepared)

    def run(self, inputs):
        """The logits `(1, outputs)` of one image `(1, *input_shape)`, as a list of one array."""
        [image] = inputs
        image = np.ascontiguousarray(image)
        logits = np.empty((1, self.outputs), np.float32)
        self._library.acdbit_model_run(*map(_address, (self._file, self._memory, image, logits)))
        return [logits]

    @staticmethod
    def _refuse(name, sentence):
        if sentence is not None:
            raise FlatError(f"{name} cannot be run: {sentence.decode()}")


def _aligned(size, alignment):
    memory = np.zeros(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size]


def _address(array):
    return array.ctypes.data
