"""CIFAR-10, in two sizes.

`cifar10_small_*`: `vit_micro_patch4_32` on 2 CPU cores; the committed results under `models/results/` are from these.
`cifar10_*`: `vit_tiny_patch4_32` at the paper's budget of 300 epochs, written for one GPU.
"""

from acdbit_keras.models.recipes.base import Recipe

_SMALL_TEACHER = Recipe(
    name="cifar10_small_teacher",
    dataset="cifar10",
    preset="vit_micro_patch4_32",
    scheme="float32",
    epochs=12,
    batch_size=64,
    learning_rate=1.5e-3,
    warmup_epochs=1,
    weight_decay=0.05,
)
_SMALL_STUDENT = _SMALL_TEACHER.replace(
    name="cifar10_small_acd_bit",
    scheme="acd_bit",
    teacher="cifar10_small_teacher",
    learning_rate=2e-3,
    weight_decay=0.0,
)
_TEACHER = Recipe(
    name="cifar10_teacher",
    dataset="cifar10",
    preset="vit_tiny_patch4_32",
    scheme="float32",
    epochs=300,
    batch_size=512,
    learning_rate=1e-3,
    warmup_epochs=5,
    weight_decay=0.05,
    augment="strong",
    drop_path=0.1,
)
_STUDENT = _TEACHER.replace(
    name="cifar10_acd_bit",
    scheme="acd_bit",
    teacher="cifar10_teacher",
    learning_rate=5e-4,
    weight_decay=0.0,
    augment="light",
    drop_path=0.0,
)

RECIPES = (
    _SMALL_TEACHER,
    _SMALL_STUDENT,
    _SMALL_STUDENT.replace(name="cifar10_small_binary_vit", scheme="binary_vit"),
    _TEACHER,
    _STUDENT,
    _STUDENT.replace(name="cifar10_binary_vit", scheme="binary_vit"),
)
