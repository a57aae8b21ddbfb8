"""Distribution correction: distilling a full-precision teacher into a binary student."""

from acdbit_keras.distillation.distiller import Distiller
from acdbit_keras.distillation.losses import (
    DirectionMatchingDistillation,
    HiddenDistillation,
    LabelDistillation,
    QueryKeyDistillation,
    Term,
    TrueLabels,
)

__all__ = [
    "DirectionMatchingDistillation",
    "Distiller",
    "HiddenDistillation",
    "LabelDistillation",
    "QueryKeyDistillation",
    "Term",
    "TrueLabels",
]
