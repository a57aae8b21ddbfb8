"""Binary vision transformers for embedded sensors.

    import acdbit_keras as acd

Nothing heavy is loaded before it is used: a sensor that only runs files (`acd.convert.Interpreter`) needs neither Keras nor
TensorFlow, see the extras in setup.cfg.
"""

from typing import TYPE_CHECKING

from acdbit_keras import lazy, registration
from acdbit_keras.version import __version__

if TYPE_CHECKING:  # what editors and type checkers read; at run time the same names are imported on first use
    from acdbit_keras import convert, layers, models, quantizers, schemes, studies
    from acdbit_keras.code import Code, matmul
    from acdbit_keras.cost import summary
    from acdbit_keras.distillation import Distiller, LabelDistillation, QueryKeyDistillation
    from acdbit_keras.layers import BinaryAttention, BinaryDense, LayerScale, RPReLU
    from acdbit_keras.quantizers import AlignedSign, ElasticBinary, WeightSign

__all__ = [
    "__version__",
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
    "convert",
    "layers",
    "matmul",
    "models",
    "quantizers",
    "schemes",
    "studies",
    "summary",
]

_HOMES = {
    "code": ("Code", "matmul"),
    "cost": ("summary",),
    "distillation": ("Distiller", "LabelDistillation", "QueryKeyDistillation"),
    "layers": ("BinaryAttention", "BinaryDense", "LayerScale", "RPReLU"),
    "quantizers": ("AlignedSign", "ElasticBinary", "WeightSign"),
}
if not TYPE_CHECKING:  # to a type checker what is not above is no name of this module
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            **dict.fromkeys(("convert", "layers", "models", "quantizers", "schemes", "studies")),
            **{name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names},
        },
    )
registration.with_keras()
