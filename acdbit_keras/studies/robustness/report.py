"""The results of a robustness run as a table, a CSV file and one figure."""

import csv

import numpy as np

from acdbit_keras import figures, text
from acdbit_keras.studies.robustness import noise

# Colours that remain apart for colour-blind eyes and in print (Okabe and Ito), darkest first.
_COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "osD^vPX"
_COLUMNS = ("test", "kind", "strength", "unit", "repetition", "model", "accuracy")


def write_csv(path, rows):
    """Writes the rows, one line each."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def curves(results, test, kind):
    """Mean accuracy and its standard error over the repetitions: dict from model to lists `(strengths, means, errors)`."""
    found = {}
    for row in results["rows"]:
        if (row["test"], row["kind"]) == (test, kind):
            found.setdefault(row["model"], {}).setdefault(row["strength"], []).append(row["accuracy"])
    return {
        model: (
            [*points],
            [float(np.mean(values)) for values in points.values()],
            [_standard_error(values) for values in points.values()],
        )
        for model, points in found.items()
    }


def corruption_means(results):
    """Mean accuracy over all kinds: dict from model to dict from severity, as text, to accuracy; empty without the test."""
    found = {}
    for row in results["rows"]:
        if row["test"] == "corruption":
            found.setdefault(row["model"], {}).setdefault(str(row["strength"]), []).append(row["accuracy"])
    return {model: {severity: float(np.mean(values)) for severity, values in each.items()} for model, each in found.items()}


def table(results):
    """Accuracies as text: one line per disturbance, one column per model."""
    models = [model["name"] for model in results["models"]]
    rows = []

    def line(label, values):
        rows.append([label, *(f"{values[name]:.2%}" if name in values else "-" for name in models)])

    line(f"clean, {results['settings']['samples']} test images", {model["name"]: model["clean"] for model in results["models"]})
    for test, kind in dict.fromkeys((row["test"], row["kind"]) for row in results["rows"] if row["test"] != "corruption"):
        found = curves(results, test, kind)
        for strength in next(iter(found.values()))[0]:
            values = {model: means[strengths.index(strength)] for model, (strengths, means, _) in found.items()}
            line(f"{_LABELS.get(kind, kind)} {strength:g}", values)
    means = results["corruption_means"]
    for severity in next(iter(means.values()), {}):
        line(f"mean of the corruptions, severity {severity}", {model: values[severity] for model, values in means.items()})
    return text.table(["", *models], rows)


_LABELS = {
    kind: f"{facts.title.lower().replace('gaussian', 'Gaussian')}, {facts.unit.partition(',')[0]}"
    for kind, facts in noise.KINDS.items()
}
_LABELS |= {
    "fgsm": "FGSM, epsilon",
    "pgd": "PGD, epsilon",
    "transfer": "PGD from the float model, epsilon",
    "weights": "bit flips, rate",
}


def draw(path, results):
    """Draws one figure: accuracy against strength for every disturbance, a curve per model."""
    from matplotlib.lines import Line2D

    panels = _panels(results)
    kinds = list(dict.fromkeys(row["kind"] for row in results["rows"] if row["test"] == "corruption"))
    columns = min(4, max(len(panels), 1))
    rows = -(-len(panels) // columns)
    style = {
        model["name"]: dict(color=_COLORS[i % len(_COLORS)], marker=_MARKERS[i % len(_MARKERS)])
        for i, model in enumerate(results["models"])
    }
    figure = figures.empty((max(3.3 * columns, 10.5 if kinds else 0), 2.9 * rows + (3.6 if kinds else 0) + 0.6))
    grid = figure.add_gridspec(rows + bool(kinds), columns, height_ratios=[1] * rows + [1.25] * bool(kinds))
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _draw_panel(axes, results, style, *panel)
        if number % columns == 0:
            axes.set_ylabel("top-1 accuracy, %")
    if kinds:
        _draw_kinds(figure.add_subplot(grid[rows, :]), results, style, kinds)
    handles = [Line2D([], [], **style[name], markersize=4, label=name) for name in style]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), frameon=False)
    figures.save(figure, path, dots_per_inch=130)


def _panels(results):
    """`(test, kind, title, axis label, scale)` of each panel of curves."""
    tests = results["settings"]["tests"]
    found = []
    if "noise" in tests:
        found += [("noise", kind, facts.title, facts.unit, "linear") for kind, facts in noise.KINDS.items()]
    if "attack" in tests:
        steps = results["settings"]["steps"]
        titles = {"fgsm": "FGSM", "pgd": f"PGD, {steps} steps", "transfer": "PGD made on the float model"}
        present = {row["kind"] for row in results["rows"] if row["test"] == "attack"}
        found += [
            ("attack", kind, title, "epsilon, pixel values of 0 to 255", "linear")
            for kind, title in titles.items()
            if kind in present
        ]
    if "corruption" in tests:
        found.append(("corruption", None, "Mean of the 15 corruptions", "severity", "linear"))
    if "bitflip" in tests:
        found.append(
            ("bitflip", "weights", "Bit flips in the weights\n(wrong where a logit is not finite)", "probability per bit", "log")
        )
    return found


def _draw_panel(axes, results, style, test, kind, title, label, scale):
    if test == "corruption":
        found = {
            model: ([int(severity) for severity in values], list(values.values()), [0.0] * len(values))
            for model, values in results["corruption_means"].items()
        }
    else:
        found = curves(results, test, kind)
    clean = {model["name"]: model["clean"] for model in results["models"]}
    highest = max([*clean.values(), *(mean for _, means, _ in found.values() for mean in means), 0.01])
    for model, (strengths, means, errors) in found.items():
        if scale == "linear":
            strengths, means, errors = [0, *strengths], [clean[model], *means], [0.0, *errors]
        order = np.argsort(strengths)
        strengths, means, errors = (np.asarray(values)[order] for values in (strengths, means, errors))
        axes.errorbar(strengths, 100 * means, 100 * errors, **style[model], markersize=3.5, linewidth=1.3, elinewidth=0.8)
        if scale == "log":
            axes.axhline(100 * clean[model], color=style[model]["color"], linewidth=0.7, linestyle=":")
    axes.set_xscale(scale)
    if test == "corruption":
        axes.set_xticks(range(6))
    axes.set_ylim(0, 100 * highest * 1.08)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label, fontsize=8.5)
    _quieten(axes)


def _draw_kinds(axes, results, style, kinds):
    """One column per corruption: the mean over its severities, and a line from the mildest to the worst."""
    accuracies = {}
    for row in results["rows"]:
        if row["test"] == "corruption":
            accuracies.setdefault((row["model"], row["kind"]), []).append(100 * row["accuracy"])
    offsets = np.linspace(-0.22, 0.22, len(style)) if len(style) > 1 else [0.0]
    for offset, (model, look) in zip(offsets, style.items()):
        values = [accuracies[model, kind] for kind in kinds]
        places = np.arange(len(kinds)) + offset
        axes.vlines(
            places, [min(each) for each in values], [max(each) for each in values], color=look["color"], alpha=0.35, linewidth=2.5
        )
        axes.plot(places, [np.mean(each) for each in values], linestyle="none", markersize=5, **look)
    axes.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds], fontsize=8)
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_ylim(0, None)
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("Each corruption: mean over its severities, bars from worst to best", fontsize=10)
    _quieten(axes)


def _quieten(axes):
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _standard_error(values):
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
