"""The embedded default: 8-pixel digits of scikit-learn, no download.

Hardware: 2 CPU cores. The demo and the end-to-end tests run these.
"""

from acdbit_keras.models.recipes.base import Recipe

_TEACHER = Recipe(
    name="digits_teacher",
    dataset="digits",
    preset="vit_nano_patch2_8",
    scheme="float32",
    epochs=100,
    batch_size=64,
    learning_rate=2e-3,
    warmup_epochs=2,
    weight_decay=0.02,
)
_STUDENT = _TEACHER.replace(
    name="digits_acd_bit", scheme="acd_bit", teacher="digits_teacher", epochs=56, learning_rate=3e-3, weight_decay=0.0
)

RECIPES = (_TEACHER, _STUDENT, _STUDENT.replace(name="digits_binary_vit", scheme="binary_vit"))
