"""What is to be trained first where an accelerator can be had: lists of recipes, each for one call of nine minutes.

Reckoned, not measured, for an H100 in bfloat16: `vit_midi_pooled4_32` is bound by memory at 10 to 20 thousand images a second,
3 to 6 seconds an epoch with its test, so that three runs have 25 to 45 epochs each; DeiT-S at 2.5 to 4.5 thousand, 12 to 22
seconds, three runs 6 to 12 epochs each. About a minute and a half goes into starting, compiling and writing. So a list has one
dataset and one size.
"""

import pathlib

from acdbit_keras.models.run import Run

_TRIO = ("teacher", "acd_bit", "binary_vit")

LISTS = {
    "cifar10_midi": tuple(f"cifar10_midi_gpu_{name}" for name in _TRIO),
    "cifar10_deit": tuple(f"cifar10_deit_gpu_{name}" for name in _TRIO),
    "cifar100_midi": tuple(f"cifar100_midi_gpu_{name}" for name in _TRIO),
    "cifar100_deit": tuple(f"cifar100_deit_gpu_{name}" for name in _TRIO),
    # With the two students of the list before them, the paper's table of alignment and correction.
    "cifar10_ablation": ("cifar10_deit_gpu_da", "cifar10_deit_gpu_dc"),
    "cifar100_ablation": ("cifar100_deit_gpu_da", "cifar100_deit_gpu_dc"),
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
