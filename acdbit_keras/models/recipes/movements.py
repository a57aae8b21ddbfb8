"""Sequences: made-up recordings of six movements, no download.

Hardware: 2 CPU cores, some minutes. `--data` takes no recordings of your own; `model.fit` does, see the notebook on sequences.
"""

from acdbit_keras.models.recipes.base import Recipe

_TEACHER = Recipe(
    name="movements_teacher",
    dataset="movements",
    preset="vit1d_micro_patch8_128",
    scheme="float32",
    epochs=20,
    batch_size=64,
    learning_rate=1e-3,
    warmup_epochs=1,
    weight_decay=0.05,
)
_STUDENT = _TEACHER.replace(
    name="movements_acd_bit", scheme="acd_bit", teacher="movements_teacher", learning_rate=3e-3, weight_decay=0.0
)

RECIPES = (_TEACHER, _STUDENT, _STUDENT.replace(name="movements_binary_vit", scheme="binary_vit"))
