"""What the paper's tables cost to train: operations that are counted, the speed of a step that is measured here.

    acdbit speed --paper --out results/training_cost.json

Every product of a training step is a float one, that of bits, too: a multiply-add forward, two backward, and one forward in
the teacher where the scheme has one; each is two operations. A step of every scheme is timed on this machine, at the paper's
widths and tokens in two of its twelve blocks, beside one large matrix product. The quotient of their speeds, the share of the
machine that a scheme's step makes use of, is all that carries over to an accelerator, and that it does is an assumption.
"""

import dataclasses
import functools
import statistics
import time

import keras
import numpy as np
from keras import ops

from acdbit_keras import cost, schemes
from acdbit_keras.distillation import Distiller
from acdbit_keras.models import data, recipes
from acdbit_keras.models.sizes import build
from acdbit_keras.studies.experiments import paper

# Products of halves in dense matrices per second, as their makers say; nobody has run this package on one.
ACCELERATORS = {"V100": 125e12, "A100": 312e12, "H100 SXM": 989e12}
# Recipes at the paper's scale, of the images as the paper seems to take them; see `acdbit_keras.models.recipes.cifar10`.
RECIPES = {"cifar10": "cifar10_224", "cifar100": "cifar100_224", "tiny_imagenet": "tiny_imagenet", "imagenet2012": "imagenet"}
_SIDE = 2048  # of the matrices
_BLOCKS = 2
# By the title of the paper's row.
_ABLATED = {"none": "binary_vit", "Da": "acd_bit", "Dc": "binary_vit", "Da+Dc": "acd_bit"}


@dataclasses.dataclass(frozen=True)
class Training:
    """One row of a table, trained on one dataset.

    Attributes:
        table: `"comparison"`, `"ablation"` or `"sweep"`.
        dataset, scheme: their names.
        images: that are trained on, all epochs together.
        flops: operations of all of it.
    """

    table: str
    dataset: str
    scheme: str
    images: int
    flops: float


def trainings():
    """Every `Training` of the paper's tables; what is calibrated and not trained has no operations.

    A row of the ablation or the sweep that has the figures of one of the comparison is the same training, and listed once. All of
    a dataset are taught by one teacher, the row `float32`.
    """
    rows = [("comparison", name, dataset) for name, system in paper.COMPARISON.items() for dataset in system.accuracy]
    listed = [(name, dataset) for _, name, dataset in rows]
    for title, accuracies in [*paper.ABLATION.items(), *paper.SWEEP.items()]:
        table, scheme = ("sweep", "acd_bit") if isinstance(title, tuple) else ("ablation", _ABLATED[title])
        for dataset, accuracy in accuracies.items():
            if paper.COMPARISON[scheme].accuracy.get(dataset) != accuracy:
                if ("float32", dataset) not in listed:
                    listed.append(("float32", dataset))
                    rows.append((table, "float32", dataset))
                rows.append((table, scheme, dataset))
    return [_training(*row) for row in rows]


def _training(table, scheme, dataset):
    recipe = recipes.get(f"{RECIPES[dataset]}_{'teacher' if scheme == 'float32' else 'acd_bit'}")
    facts = data.info(recipe.dataset)
    images = (
        0 if schemes.get(scheme).post_training else recipe.epochs * facts.steps_per_epoch(recipe.batch_size) * recipe.batch_size
    )
    return Training(table, dataset, scheme, images, images * flops_per_image(recipe.preset, scheme))


def flops_per_image(preset, scheme, blocks=12):
    """Operations that one image takes in a training step in a scheme, its teacher's pass among them.

    Args:
        preset: of an isotropic backbone.
        scheme: its name.
        blocks: number of its blocks.
    """
    taught = 2 * _macs(preset, "float32", blocks) if schemes.get(scheme).distillation else 0
    return 6 * _macs(preset, scheme, blocks) + taught


def _macs(preset, scheme, blocks):
    # All blocks are alike.
    one, two = (_counted(preset, scheme, depth) for depth in (1, 2))
    return one + (blocks - 1) * (two - one)


@functools.cache
def _counted(preset, scheme, depth):
    counted = cost.analyse(build(preset, scheme, depth=depth))
    return counted.bit_macs + counted.float_macs


def measure(preset="vit_small_patch16_224", batch_size=4, steps=3):
    """Times a training step of every scheme, and a matrix product.

    Args:
        preset: of the backbone; two of its blocks are timed.
        batch_size: images per step.
        steps: timed steps, after one that compiles.

    Returns:
        Dict with `preset`, `blocks`, `batch_size`, `matmul_flops_per_second`, and `schemes`, from the name of each that is
        trained to `flops` of a step, its median `seconds` and `share`, of the matrix product's speed. Seconds are those of
        the processor, on TensorFlow's CPU; half floats are timed as floats, which this machine computes faster.
    """
    matrix = ops.ones((_SIDE, _SIDE))
    rate = 2 * _SIDE**3 / _seconds(lambda: ops.convert_to_numpy(ops.matmul(matrix, matrix)), steps)
    found = {}
    for name in paper.COMPARISON:
        if schemes.get(name).post_training:
            continue
        flops = batch_size * flops_per_image(preset, name, _BLOCKS)
        seconds = _seconds(_step(preset, name, batch_size), steps)
        found[name] = {"flops": flops, "seconds": seconds, "share": flops / seconds / rate}
    return {
        "preset": preset, "blocks": _BLOCKS, "batch_size": batch_size, "matmul_flops_per_second": rate, "schemes": found
    }  # fmt: skip


def _step(preset, scheme, batch_size):
    """A function that carries out a training step."""
    network = build(preset, scheme, depth=_BLOCKS)
    random = np.random.default_rng(0)
    images = random.normal(size=(batch_size, *network.input_shape_of_images)).astype("float32")
    labels = random.integers(0, network.classes, batch_size)
    if network.scheme.distillation:
        model, loss = Distiller(build(preset, "float32", depth=_BLOCKS), network), None
    else:
        model, loss = network, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # XLA would take minutes for each.
    model.compile(keras.optimizers.AdamW(1e-3), loss=loss, jit_compile=False)
    return lambda: model.train_on_batch(images, labels)


def _seconds(call, times):
    """Median of the processor time of a call; the first, which compiles, does not count."""
    call()
    seconds = []
    for _ in range(times):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def reckoned(measured):
    """What every training and all of a table cost on `ACCELERATORS`, were a step to use the share of them that it uses here.

    Args:
        measured: as `measure` gives.

    Returns:
        Dict with `assumed_flops_per_second`, by accelerator; `trainings`, a dict each, with `hours` by accelerator; `tables`,
        the sums of `flops` and `hours` by table and dataset.
    """
    rows, tables = [], {}
    for training in trainings():
        share = measured["schemes"].get(training.scheme, {"share": 1.0})["share"]
        hours = {name: training.flops / (speed * share) / 3600 for name, speed in ACCELERATORS.items()}
        rows.append({**dataclasses.asdict(training), "hours": hours})
        table = tables.setdefault(training.table, {}).setdefault(
            training.dataset, {"flops": 0.0, "hours": dict.fromkeys(ACCELERATORS, 0.0)}
        )
        table["flops"] += training.flops
        for name in hours:
            table["hours"][name] += hours[name]
    return {"assumed_flops_per_second": ACCELERATORS, "trainings": rows, "tables": tables}


def table(found):
    """The sums of `reckoned` and the shares of `measure` in lines."""
    timed = found["measured"]["schemes"]
    lines = [f"{name:20}{100 * row['share']:6.1f} % of a matrix product's speed" for name, row in timed.items()]
    for name, datasets in found["tables"].items():
        for dataset, row in datasets.items():
            hours = ", ".join(f"{value:.0f} h of one {device}" for device, value in row["hours"].items())
            lines.append(f"{name:12}{dataset:16}{row['flops']:10.2e} operations: {hours}")
    return "\n".join(lines)
