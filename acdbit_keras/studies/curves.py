"""`acdbit curves`: accuracy against processor hours, and what each model cost, from the histories that trainings leave."""

import csv
import itertools
import pathlib
import statistics

from acdbit_keras import figures, text
from acdbit_keras.files import write_json, write_text
from acdbit_keras.models.run import Run
from acdbit_keras.models.zoo import entries
from acdbit_keras.studies.experiments import paper

COLUMNS = ("model", "preset", "epochs", "images per second", "hours", "top-1 %", "best top-1 %")
# Accuracy on CIFAR-10's test images as its authors state it; the downsampling of the network is of full precision.
BHVIT = {"cifar10": 95.0}


def run(subjects, out, made_by=None):
    """Draws the learning curves of trainings, in hours of the machine that trained, and writes what each cost.

    Args:
        subjects: names of the zoo or run folders; stages that were trained one from the other are joined by `+`, the first
            stage first, and their hours add up.
        out: `pathlib.Path` of the folder to write `figure.png`, `results.json` and `costs.md` into.
        made_by: dict of the command and the processor, written beside the results.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: no subject, one without a history, or subjects of several datasets.
        OSError: the folder cannot be written.
    """
    if not subjects:
        raise ValueError("name at least one model: a run's folder, or a name of the zoo that has a history")
    trainings = [_training(subject) for subject in subjects]
    datasets = list(dict.fromkeys(training["dataset"] for training in trainings))
    if len(datasets) > 1:
        raise ValueError(f"curves of one figure must be of one dataset, not of {' and '.join(datasets)}")
    results = {**(made_by or {}), "dataset": datasets[0], "marks": marks(datasets[0]), "trainings": trainings}
    out.mkdir(parents=True, exist_ok=True)
    figures.save(_figure(results), out / "figure.png")
    write_text(out / "costs.md", markdown(results))
    write_json(out / "results.json", results)
    return results


def marks(dataset):
    """Top-1 % that others state for a dataset, by what to call them; networks and budgets are others than ours."""
    found = {"paper: teacher, DeiT-S": "float32", "paper: ACD-BiT": "acd_bit", "paper: BinaryViT": "binary_vit"}
    stated = {
        label: paper.COMPARISON[scheme].accuracy[dataset].top1
        for label, scheme in found.items()
        if dataset in paper.COMPARISON[scheme].accuracy
    }
    return stated | ({"BHViT": BHVIT[dataset]} if dataset in BHVIT else {})


def markdown(results):
    """What each training cost, as a table."""
    rows = [
        [
            training["name"],
            f"`{training['preset']}`",
            str(training["epochs"]),
            f"{training['images_per_second']:.0f}",
            f"{training['hours']:.2f}",
            f"{training['top1']:.2f}",
            f"{training['best_top1']:.2f}",
        ]
        for training in results["trainings"]
    ]
    stated = ", ".join(f"{name} {value:.2f}" for name, value in results["marks"].items())
    lines = [
        text.markdown(COLUMNS, rows),
        "Hours are those of the training steps on the machine that trained, without validation; energy was not measured.",
        *([f"Stated by others, with other networks and budgets: {stated} %."] if stated else []),
        *([f"Command: `{results['command']}`"] if "command" in results else []),
    ]
    return "\n\n".join(lines) + "\n"


def _training(subject):
    stages = [_stage(part) for part in subject.split("+")]
    seconds = list(itertools.accumulate(second for stage in stages for second in stage["seconds"]))
    accuracy = [value for stage in stages for value in stage["accuracy"]]
    last = stages[-1]
    return {
        "name": last["name"],
        "dataset": last["dataset"],
        "preset": last["preset"],
        "epochs": len(accuracy),
        "images_per_second": statistics.median([value for stage in stages for value in stage["images_per_second"]]),
        "hours": seconds[-1] / 3600,
        "top1": 100 * (accuracy[-1] if last["tested"] is None else last["tested"]),
        "best_top1": 100 * max(accuracy),
        "curve": [[round(second / 3600, 4), round(100 * value, 2)] for second, value in zip(seconds, accuracy)],
    }


def _stage(subject):
    if subject in entries.zoo_names():
        card, path = entries.card(subject), entries.entry(subject) / entries.HISTORY
        name, dataset, preset = subject, card["data"]["dataset"], card["model"]["preset"]
        result = card["training"]
    else:
        run = Run(subject)
        recipe, path = run.recipe, run.history_path
        result = run.result if run.is_finished else {}
        name, dataset, preset = pathlib.Path(subject).name, recipe.dataset, recipe.preset
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    if not rows:
        raise ValueError(f"{subject} has no history of its training, so there is no curve")
    columns = {"accuracy": "val_accuracy", "seconds": "seconds", "images_per_second": "images_per_second"}
    return {
        "name": name,
        "dataset": dataset,
        "preset": preset,
        # Where training images were held out, the history is of these.
        "tested": result["accuracy"] if "validation_accuracy" in result else None,
        **{key: [float(row[column]) for row in rows] for key, column in columns.items()},
    }


def _figure(results):
    figure, axes = figures.new(size=(9, 5))
    axes = axes[0, 0]
    for training in results["trainings"]:
        hours, accuracy = zip(*training["curve"])
        axes.plot(hours, accuracy, label=training["name"])
    for name, value in results["marks"].items():
        axes.axhline(value, color="gray", linewidth=0.8, linestyle=":")
        axes.annotate(name, (1.0, value), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="bottom")
    axes.set_xlabel("hours of training steps")
    axes.set_ylabel("top-1 % on validation images")
    axes.set_title(results["dataset"])
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure
