"""CIFAR-100, for a CPU and at the paper's scale; the recipes of `cifar10`, with 100 classes.

`cifar100_small_*`: `vit_micro_patch4_32` on 2 CPU cores. `cifar100_compare_*`: `vit_micro_patch8_32`, for tables of many systems.
`cifar100_table_*`: `vit_mini_pooled8_32`, likewise; `cifar100_mini_acd_bit`: `vit_mini_pooled4_32`,
`cifar100_midi_acd_bit`: `vit_midi_pooled4_32`, and `cifar100_midi`, which goes on from it with a teacher
of labels, `cifar100_cnn`.
`cifar100_*`, `cifar100_224_*`: DeiT-S on images of 32 and of 224 pixels, written for one GPU and the JAX backend;
`--devices N` for several.
"""

from acdbit_keras.models.recipes.base import at_paper_scale
from acdbit_keras.models.recipes.cifar10 import (
    CNN,
    COMPARED_STUDENT,
    COMPARED_TEACHER,
    MIDI,
    MINI,
    SMALL_STUDENT,
    SMALL_TEACHER,
    TABLE_STUDENT,
    TABLE_TEACHER,
)

_TEACHER = SMALL_TEACHER.replace(name="cifar100_small_teacher", dataset="cifar100")
_STUDENT = SMALL_STUDENT.replace(name="cifar100_small_acd_bit", dataset="cifar100", teacher=_TEACHER.name)
_COMPARED_TEACHER = COMPARED_TEACHER.replace(name="cifar100_compare_teacher", dataset="cifar100")
_TABLE_TEACHER = TABLE_TEACHER.replace(name="cifar100_table_teacher", dataset="cifar100")
# A hundred classes want more channels before the last layer.
_CNN = CNN.replace(name="cifar100_cnn", dataset="cifar100", preset="cnn_midi_32")
_MIDI = MINI.replace(name="cifar100_midi_acd_bit", dataset="cifar100", preset=MIDI.preset)

RECIPES = (
    _CNN,
    _TEACHER,
    _STUDENT,
    _STUDENT.replace(name="cifar100_small_binary_vit", scheme="binary_vit"),
    _COMPARED_TEACHER,
    COMPARED_STUDENT.replace(name="cifar100_compare_acd_bit", dataset="cifar100", teacher=_COMPARED_TEACHER.name),
    MINI.replace(name="cifar100_mini_acd_bit", dataset="cifar100"),
    _MIDI,
    MIDI.replace(name="cifar100_midi", dataset="cifar100", start=_MIDI.name, label_teacher=_CNN.name),
    _TABLE_TEACHER,
    TABLE_STUDENT.replace(name="cifar100_table_acd_bit", dataset="cifar100", teacher=_TABLE_TEACHER.name),
    *at_paper_scale("cifar100", "cifar100", "vit_small_patch4_32"),
    *at_paper_scale("cifar100_224", "cifar100", "vit_small_patch16_224"),
)
