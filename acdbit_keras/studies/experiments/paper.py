"""The paper's tables: what it reports, to stand beside what is measured here. Nothing in this module is a result of ours.

Wang et al., Sensors 2024, 24(24), 8190. Accuracies are in percent. Each figure belongs to one dataset and is printed for
that dataset alone.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Test accuracy in percent."""

    top1: float
    top5: float


@dataclasses.dataclass(frozen=True)
class System:
    """One row of the paper's comparison.

    Attributes:
        bits: of weights and activations, as the paper writes them.
        size: its size column, in millions; by counting, decimal megabytes of DeiT-S with 100 classes.
        operations: its OPs column, in 1e9. It has no credit for bits and matches no standard count: not to be compared
            with `acdbit_keras.cost`.
        accuracy: dict from dataset to `Accuracy`.
    """

    bits: str
    size: float
    operations: float
    accuracy: dict


def _system(bits, size, operations, *figures):
    pairs = zip(figures[::2], figures[1::2], strict=True)
    return System(
        bits, size, operations, {name: Accuracy(*pair) for name, pair in zip(("cifar10", "cifar100", "imagenet2012"), pairs)}
    )


# By the name of the scheme, in the paper's order.
COMPARISON = {
    "float32": _system("32/32", 86.9, 6.27, 91.63, 99.74, 79.59, 92.40, 80.0, 94.94),
    "mixed16": _system("16/16", 47.8, 6.27, 94.58, 99.79, 83.06, 97.13, 76.02, 92.52),
    "quant_noise_w8a8": _system("8/8", 24.8, 6.27, 93.66, 99.74, 80.61, 96.70, 72.12, 89.75),
    "fq_vit_w8a4": _system("8/4", 13.4, 3.21, 92.21, 99.60, 77.84, 95.84, 64.79, 86.58),
    "xnor_net": _system("1/1", 4.8, 3.21, 75.17, 98.28, 57.61, 82.79, 48.45, 73.04),
    "bibert": _system("1/1", 4.8, 3.21, 80.13, 98.77, 58.45, 83.04, 50.32, 77.73),
    "bit": _system("1/1", 4.8, 3.21, 80.40, 98.78, 60.31, 85.98, 51.01, 77.99),
    "bivit": _system("1/1", 4.8, 3.21, 82.28, 98.85, 61.08, 85.50, 50.59, 78.84),
    "binary_vit": _system("1/1", 5.0, 3.27, 84.35, 99.04, 63.84, 86.42, 53.33, 78.22),
    "binary_former": _system("1/1", 4.8, 3.19, 87.07, 99.30, 64.27, 86.22, 54.46, 80.82),
    "acd_bit": _system("1/1", 5.0, 3.27, 89.72, 99.67, 65.49, 88.92, 58.76, 81.61),
}


def _ablation(*figures):
    pairs = zip(figures[::2], figures[1::2], strict=True)
    return {name: Accuracy(*pair) for name, pair in zip(("cifar10", "cifar100", "tiny_imagenet"), pairs)}


# Distribution alignment (Da) and distribution correction (Dc).
ABLATION = {
    "none": _ablation(84.35, 99.04, 63.84, 86.42, 52.14, 75.98),
    "Da": _ablation(87.61, 99.27, 64.62, 87.81, 54.13, 76.76),
    "Dc": _ablation(86.21, 99.06, 64.30, 87.75, 52.83, 76.13),
    "Da+Dc": _ablation(89.72, 99.67, 65.49, 88.92, 55.24, 77.57),
}


# By the pair of distillation weights as the paper writes it; it does not say which of the two terms the first belongs to.
SWEEP = {
    (0.4, 0.6): {"cifar10": Accuracy(88.84, 99.48), "cifar100": Accuracy(63.56, 86.78)},
    (0.6, 0.4): {"cifar10": Accuracy(89.20, 99.55), "cifar100": Accuracy(63.68, 86.87)},
    (0.8, 0.2): {"cifar10": Accuracy(89.46, 99.65), "cifar100": Accuracy(63.71, 86.96)},
    (0.9, 0.1): {"cifar10": Accuracy(89.72, 99.67), "cifar100": Accuracy(65.49, 88.92)},
}


def of(table, key, dataset):
    """What the paper gives for one row on one dataset, as a dict of plain values; `None` if it gives nothing."""
    entry = table.get(key)
    accuracies = entry.accuracy if isinstance(entry, System) else entry or {}
    if dataset not in accuracies:
        return None
    figures = dataclasses.asdict(accuracies[dataset])
    if isinstance(entry, System):
        figures.update(bits=entry.bits, size=entry.size, operations=entry.operations)
    return figures
