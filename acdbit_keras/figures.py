"""Pictures: figures that need no display, written whole or not at all."""

import io

from acdbit_keras.files import write_beside

DOTS_PER_INCH = 120


def new(rows=1, columns=1, size=(10, 4), **options):
    """A figure and a (rows, columns) array of its axes.

    Args:
        rows, columns: of the grid of axes.
        size: width and height in inches.
        **options: as `matplotlib.figure.Figure.subplots` takes them, e.g. `sharey=True`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need the package matplotlib: pip install matplotlib") from error
    # Not from pyplot, which keeps figures in memory and picks a backend for the whole process.
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure, path):
    """Writes a figure as PNG.

    Raises:
        OSError: the folder cannot be written; an older file stays as it was.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DOTS_PER_INCH)
    write_beside(path, lambda temporary: temporary.write_bytes(picture.getbuffer()))
