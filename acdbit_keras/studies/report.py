"""`acdbit report`: what finished runs gave - accuracy, parity, sizes, latencies, curves - in one folder to commit."""

import csv
import json
import shutil

from acdbit_keras import figures
from acdbit_keras.files import write_beside

_PRECISIONS = {"float32": ("float32", "dynamic", "int8")}  # of files; any other scheme has one of its own precision
_CURVES = (("accuracy", "training accuracy"), ("val_accuracy", "test accuracy"))


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
    from acdbit_keras import convert
    from acdbit_keras.machine import processor
    from acdbit_keras.models import data
    from acdbit_keras.models.loading import load_model
    from acdbit_keras.models.train import dataset_of, evaluate, recipe_of
    from acdbit_keras.studies.deployed import card

    out.mkdir(parents=True, exist_ok=True)
    runs, files = {}, {}
    for folder in folders:
        recipe = recipe_of(folder)
        result = folder / "result.json"
        if not result.exists():
            raise ValueError(f"the run in {folder} is not finished; `acdbit train {recipe.name} --out {folder}` goes on with it")
        model, dataset = load_model(folder), dataset_of(folder)
        say(f"{recipe.name}: evaluating")
        entry = {
            "scheme": recipe.scheme_name,
            "preset": recipe.preset,
            "dataset": recipe.dataset,
            "parameters": model.count_params(),
            "test": evaluate(model, dataset, data_dir),
            "training": json.loads(result.read_text()),
            "files": {},
        }
        test = data.pipeline(dataset, "test", image_size=model.image_size, batch_size=64, data_dir=data_dir)
        if samples is not None:
            test = test.unbatch().take(samples).batch(64)
        calibration = data.calibration(dataset, model.image_size, data_dir)
        for precision in _PRECISIONS.get(model.scheme.precision, (model.scheme.precision,)):
            path = folder / f"{precision}.tflite"
            say(f"{recipe.name}: converting to {precision}")
            report = convert.to_tflite(
                model,
                path,
                precision=precision,
                calibration=calibration if precision == "int8" else None,
                card=card(model, dataset, data_dir),
            )
            entry["files"][precision] = {"bytes": report.bytes, "nodes": sum(report.op_counts.values())}
            if precision in ("bits", "float32"):
                say(f"{recipe.name}: comparing Keras and the {precision} file")
                parity = convert.verify(model, path, test).to_dict()
                # One entry per suspicious image is for the eyes of `acdbit verify --json`; here their places suffice.
                del parity["partings"], parity["path"]
                entry["files"][precision]["parity"] = parity
            files[recipe.name, precision] = path
        runs[recipe.name] = entry
        # A scheme without training has no history.
        if (folder / "history.csv").exists():
            shutil.copy(folder / "history.csv", out / f"{recipe.name}.csv")
    say("timing the files side by side")
    timings = convert.benchmark([str(path) for path in files.values()], runs=100, profile=False)
    for (name, precision), timing in zip(files, timings):
        runs[name]["files"][precision].update(
            engine=timing.engine,
            median_ms=timing.median_ms,
            p90_ms=timing.p90_ms,
            arena_bytes=timing.arena_bytes,
        )
    names = " ".join(str(folder) for folder in folders)
    results = {"command": f"acdbit report {out} {names}", "machine": processor(), "runs": runs}
    write_beside(out / "results.json", lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))
    write_beside(out / "results.md", lambda path: path.write_text(markdown(results) + "\n"))
    _draw_curves(out / "curves.png", {name: out / f"{name}.csv" for name in runs if (out / f"{name}.csv").exists()})
    return results


def markdown(results):
    """The results as a Markdown table."""
    lines = [
        "| run | scheme | file | test top-1 | argmax as Keras | largest logit difference | on a threshold / unexplained "
        "| file kB | arena kB | median ms | engine |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run_ in results["runs"].items():
        for precision, file in run_["files"].items():
            parity = file.get("parity")
            compared = (
                f"{parity['equal_argmax']:.2%} | {parity['largest_difference']:.1e} | {parity['on_threshold']} / {parity['unexplained']}"
                if parity
                else "- | - | -"
            )
            lines.append(
                f"| {name} | {run_['scheme']} | {precision} | {run_['test']['accuracy']:.2%} | {compared} "
                f"| {file['bytes'] / 1e3:.0f} | {file['arena_bytes'] / 1e3:.0f} | {file['median_ms']:.2f} | {file['engine']} |"
            )
    lines += ["", f"Top-1 is of the Keras model. Command: `{results['command']}`"]
    return "\n".join(lines)


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
