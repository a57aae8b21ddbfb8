"""Binary vision transformers for embedded sensors.

    import acdbit_keras as acd

`acd.models` (backbones, data, training) and `acd.convert` (bit-packed `.tflite`) are imported on first use; they
need more packages than the layers do.
"""

import importlib

from acdbit_keras import layers, quantizers, schemes
from acdbit_keras.code import Code, matmul
from acdbit_keras.cost import summary
from acdbit_keras.distillation import Distiller, LabelDistillation, QueryKeyDistillation
from acdbit_keras.layers import BinaryAttention, BinaryDense, LayerScale, RPReLU
from acdbit_keras.quantizers import AlignedSign, ElasticBinary, WeightSign

__version__ = "0.1.0"

__all__ = [
    "AlignedSign",
    "BinaryAttention",
    "BinaryDense",
    "Code",
    "Distiller",
    "ElasticBinary",
    "LabelDistillation",
    "LayerScale",
    "QueryKeyDistillation",
    "RPReLU",
    "WeightSign",
    "layers",
    "matmul",
    "quantizers",
    "schemes",
    "summary",
]

_ROOMS_ABOVE = ("convert", "models")


def __getattr__(name):
    if name in _ROOMS_ABOVE:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
