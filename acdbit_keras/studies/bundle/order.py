"""What is to be trained first where an accelerator can be had: lists of recipes, each for one call of nine minutes.

Measured on an H100 in bfloat16 (`results/cifar_h100`): `vit_midi_pooled4_32` in float at 71 thousand images a second, as
`acd_bit` with its teacher at 12 thousand, a second and four an epoch, so that a list has 60 epochs of the teacher and 45 of each
student. Reckoned: DeiT-S at 2.5 to 4.5 thousand, 12 to 22 seconds, three runs 6 to 12 epochs each. A minute goes into starting
and compiling. So a list has one dataset and one size.
"""

import pathlib

from acdbit_keras.models.run import Run

_TRIO = ("teacher", "acd_bit", "binary_vit")

LISTS = {
    "cifar10_taught_gpu": ("cifar10_midi_gpu_cnn", "cifar10_midi_gpu_taught"),
    "cifar100_taught_gpu": ("cifar100_midi_gpu_cnn", "cifar100_midi_gpu_taught"),
    "cifar10_midi_gpu": tuple(f"cifar10_midi_gpu_{name}" for name in _TRIO),
    "cifar10_deit_gpu": tuple(f"cifar10_deit_gpu_{name}" for name in _TRIO),
    "cifar100_midi_gpu": tuple(f"cifar100_midi_gpu_{name}" for name in _TRIO),
    "cifar100_deit_gpu": tuple(f"cifar100_deit_gpu_{name}" for name in _TRIO),
    # With the two students of the list before them, the paper's table of alignment and correction.
    "cifar10_ablation_gpu": ("cifar10_deit_gpu_da", "cifar10_deit_gpu_dc"),
    "cifar100_ablation_gpu": ("cifar100_deit_gpu_da", "cifar100_deit_gpu_dc"),
}


def following(runs):
    """The name of the first list of which a run is not finished, `None` if all are.

    Args:
        runs: folder of the runs.
    """
    for name, recipes in LISTS.items():
        if not all(Run(pathlib.Path(runs) / recipe).is_finished for recipe in recipes):
            return name
    return None
