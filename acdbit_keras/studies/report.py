"""`acdbit report`: what finished runs gave - accuracy, parity, sizes, latencies, curves - in one folder to commit."""

import csv
import shutil

from acdbit_keras import figures, text
from acdbit_keras.files import write_json, write_text
from acdbit_keras.machine import processor
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import evaluate
from acdbit_keras.studies import deployed

_PRECISIONS = {"float32": ("float32", "dynamic", "int8")}  # of files; any other scheme has one of its own precision
_CURVES = (("accuracy", "training accuracy"), ("val_accuracy", "validation accuracy"))


def run(out, folders, data_dir=None, samples=None, say=print):
    """Evaluates, converts, verifies and times finished runs.

    Args:
        out: `pathlib.Path` of the folder to write `results.json`, `results.md`, `curves.png` and one CSV per run into.
        folders: run folders; float runs are also converted to int8 and dynamic range.
        data_dir: where the datasets are prepared.
        samples: test images for parity; default all.
        say: called with progress lines.

    Returns:
        The content of `results.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs, files = {}, {}
    for folder in folders:
        trained = Run(folder)
        recipe, result = trained.recipe, trained.result
        model = load_model(folder)
        say(f"{recipe.name}: evaluating")
        entry = {
            "scheme": recipe.scheme_name,
            "preset": recipe.preset,
            "dataset": recipe.dataset,
            "parameters": model.count_params(),
            "test": evaluate(model, trained.dataset, data_dir),
            "training": result,
            "files": {},
        }
        for precision in _PRECISIONS.get(model.scheme.precision, (model.scheme.precision,)):
            path = folder / f"{precision}.tflite"
            say(f"{recipe.name}: converting to {precision}")
            conversion = deployed.convert(model, path, trained.dataset, data_dir, precision)
            entry["files"][precision] = {"bytes": conversion.bytes, "nodes": sum(conversion.op_counts.values())}
            if precision in ("bits", "float32"):
                say(f"{recipe.name}: comparing Keras and the {precision} file")
                parity = deployed.compare(model, path, trained.dataset, data_dir, samples)
                entry["files"][precision]["parity"] = deployed.parity_facts(parity)
            files[recipe.name, precision] = path
        runs[recipe.name] = entry
        # A scheme without training has no history.
        if trained.history_path.exists():
            shutil.copy(trained.history_path, out / f"{recipe.name}.csv")
    say("timing the files side by side")
    for (name, precision), timing in zip(files, deployed.time_files(files.values())):
        runs[name]["files"][precision].update(timing)
    names = " ".join(str(folder) for folder in folders)
    results = {"command": f"acdbit report {out} {names}", "machine": processor(), "runs": runs}
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown(results))
    _draw_curves(out / "curves.png", {name: out / f"{name}.csv" for name in runs if (out / f"{name}.csv").exists()})
    return results


def markdown(results):
    """The results as a Markdown table."""
    header = ["run", "scheme", "file", "test top-1", "argmax as Keras", "largest logit difference"]
    header += ["on a threshold / unexplained", "file kB", "arena kB", "median ms", "engine"]
    rows = []
    for name, run_ in results["runs"].items():
        for precision, file in run_["files"].items():
            sizes = [f"{file['bytes'] / 1e3:.0f}", f"{file['arena_bytes'] / 1e3:.0f}", f"{file['median_ms']:.2f}", file["engine"]]
            scores = [name, run_["scheme"], precision, f"{run_['test']['accuracy']:.2%}"]
            rows.append([*scores, *_compared(file.get("parity")), *sizes])
    return f"{text.markdown(header, rows)}\n\nTop-1 is of the Keras model. Command: `{results['command']}`"


def _compared(parity):
    if parity is None:
        return ["-"] * 3
    parted = f"{parity['on_threshold']} / {parity['unexplained']}"
    return [f"{parity['equal_argmax']:.2%}", f"{parity['largest_difference']:.1e}", parted]


def _draw_curves(path, histories):
    figure, axes = figures.new(1, 2, size=(11, 4), sharey=True)
    for name, history in histories.items():
        rows = list(csv.DictReader(history.open(newline="")))
        epochs = [int(row["epoch"]) + 1 for row in rows]
        for axis, (column, title) in zip(axes.flat, _CURVES):
            axis.plot(epochs, [float(row[column]) for row in rows], marker=".", label=name)
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
    axes[0, 1].legend()
    figures.save(figure, path)
