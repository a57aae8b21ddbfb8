"""The figure of an experiment: accuracies of its rows with those of the paper, and of a comparison accuracy against size."""

from acdbit_keras import figures
from acdbit_keras.studies.experiments import results as results_file


def draw(results, path):
    """Draws a PNG, unless there is nothing to draw yet.

    Circles are means, the lines across them the table's spread, dots single runs, diamonds the paper.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    results_file.summarise(results)
    rows = [row for row in results["rows"] if row["summary"]["n"]]
    if not rows:
        return
    sized = [row for row in rows if row["file"] and "bytes" in row["file"]]
    height = 1.6 + 0.42 * len(rows)
    figure, axes = figures.new(columns=2 if sized else 1, size=(12 if sized else 7.5, max(height, 3.6)))
    _means(axes[0, 0], results, rows)
    if sized:
        _against_size(axes[0, 1], results, sized)
    figures.save(figure, path)


def _means(axis, results, rows):
    # Points, not bars: what differs is a few points of a hundred, and bars must begin at 0.
    for place, row in enumerate(rows):
        top1 = row["summary"]["top1"]
        reach = 100 * (top1[results["spread"]] or 0)
        axis.errorbar(100 * top1["mean"], place, xerr=reach, fmt="o", color=_color(row), capsize=3)
    points = [(100 * cell["test"]["top1"], place) for place, row in enumerate(rows) for cell in results_file.finished(row)]
    if points:
        axis.plot(*zip(*points), ".", color="black", markersize=4, label="single runs")
    published = [(row["paper"]["top1"], place) for place, row in enumerate(rows) if row["paper"]]
    if published:
        axis.plot(*zip(*published), "D", color="C1", markerfacecolor="none", label="the paper")
    axis.set_yticks(range(len(rows)), [row["title"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel(f"top-1 on {results['recipe']['dataset']}, %")
    axis.grid(alpha=0.3)
    if points or published:
        axis.legend(fontsize=8)


def _against_size(axis, results, rows):
    from matplotlib import ticker

    # Names of neighbours in accuracy, which often have one size, stand above and below their points in turns.
    for place, row in enumerate(sorted(rows, key=lambda row: row["summary"]["top1"]["mean"])):
        top1 = row["summary"]["top1"]
        size = row["file"]["bytes"] / 1e3
        axis.errorbar(size, 100 * top1["mean"], yerr=100 * (top1[results["spread"]] or 0), fmt="o", color=_color(row), capsize=3)
        axis.annotate(
            row["title"], (size, 100 * top1["mean"]), xytext=(5, (4, -9)[place % 2]), textcoords="offset points", fontsize=7
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.margins(x=0.25)
    axis.set_xlabel("size of the converted file, kB")
    axis.set_ylabel("top-1, %")
    axis.grid(alpha=0.3)


def _color(row):
    return "0.4" if row["is_teacher"] else "C0"
