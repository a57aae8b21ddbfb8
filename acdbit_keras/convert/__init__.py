"""From a trained model to a file that runs: conversion, verification, execution and measurement of `.tflite` files.

`Interpreter` and `benchmark` need no Keras; what needs it is loaded when it is asked for.
"""

from typing import TYPE_CHECKING

from acdbit_keras import lazy

if TYPE_CHECKING:
    from acdbit_keras.convert import runtime as runtime
    from acdbit_keras.convert.benchmarking import benchmark
    from acdbit_keras.convert.export import Conversion, ConversionError, to_tflite
    from acdbit_keras.convert.flat import FlatConversion, FlatError, to_flat
    from acdbit_keras.convert.interpreter import Interpreter
    from acdbit_keras.convert.parity import Parity, verify

__all__ = [
    "Conversion",
    "ConversionError",
    "FlatConversion",
    "FlatError",
    "Interpreter",
    "Parity",
    "benchmark",
    "to_flat",
    "to_tflite",
    "verify",
]

_HOMES = {
    "benchmarking": ("benchmark",),
    "export": ("Conversion", "ConversionError", "to_tflite"),
    "flat": ("FlatConversion", "FlatError", "to_flat"),
    "interpreter": ("Interpreter",),
    "parity": ("Parity", "verify"),
}
if not TYPE_CHECKING:  # a type checker would take any name
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "runtime": None,
            **{name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names},
        },
    )
