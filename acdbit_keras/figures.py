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
    figure = empty(size)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def empty(size):
    """A figure without axes.

    Args:
        size: width and height in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need the package matplotlib: pip install matplotlib") from error
    # Not from pyplot, which keeps figures in memory and picks a backend for the whole process.
    return Figure(figsize=size, layout="constrained")


def png(figure, dots_per_inch=DOTS_PER_INCH):
    """A figure as the bytes of a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dots_per_inch)
    return picture.getvalue()


def save(figure, path, dots_per_inch=DOTS_PER_INCH):
    """Writes a figure as PNG.

    Raises:
        OSError: the folder cannot be written; an older file stays as it was.
    """
    content = png(figure, dots_per_inch)
    write_beside(path, lambda temporary: temporary.write_bytes(content))
