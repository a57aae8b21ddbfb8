"""Distribution correction: distilling a full-precision teacher into a binary student."""

from acdbit_keras.distillation.distiller import Distiller
from acdbit_keras.distillation.losses import LabelDistillation, QueryKeyDistillation, Term

__all__ = ["Distiller", "LabelDistillation", "QueryKeyDistillation", "Term"]
