"""`acdbit data`: the datasets that are known here, and what your own images hold."""

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command

_SHOWN_CLASSES = 20


def add_data(subparsers):
    parser = command(
        subparsers,
        "data",
        data,
        "List the datasets, prepare one, or show what a folder, a CSV or another dataset holds.",
        data=True,
    )
    parser.add_argument("action", choices=("list", "prepare", "show"))
    parser.add_argument(
        "name",
        nargs="?",
        help="known dataset; with show also a folder of class folders, a .csv, an .npz, tfds:NAME or a run's folder",
    )


def data(options):
    if options.action != "list" and not options.name:
        from acdbit_keras.models import data as room

        raise ValueError(f"data {options.action} needs a dataset; known: {', '.join(room.names())}")
    {"list": _list, "prepare": _prepare, "show": _show}[options.action](options)


def _list(options):
    from acdbit_keras.models import data as room

    rows = {}
    for name in room.names():
        facts = room.info(name)
        rows[name] = {
            "classes": facts.classes,
            "steps" if facts.sequence else "image_size": facts.image_size,
            "train": facts.train_examples,
            "test": facts.test_examples,
        }
    text = "\n".join(f"{name:15}" + "  ".join(f"{key} {value}" for key, value in row.items()) for name, row in rows.items())
    emit(options, text, rows)


def _prepare(options):
    from acdbit_keras.models import data as room

    folder = room.prepare(options.name, options.data_dir)
    emit(
        options,
        f"{options.name} is ready" + (f" in {folder}" if folder else ""),
        {"name": options.name, "folder": folder and str(folder)},
    )


def _show(options):
    from acdbit_keras.models import data as room

    found = room.source(options.name, options.data_dir)
    emit(options, summary(found), found.report())


def summary(source):
    """What a dataset holds, as text.

    Args:
        source: `acdbit_keras.models.data.Source`.
    """
    report, is_sequence = source.report(), source.info().sequence
    examples, values = ("recorded", "values") if is_sequence else ("images", "pixel values")
    channels = report["channels"]
    rows = {
        "classes": _classes(report),
        examples: f"{report['train_examples']:,} for training, {report['test_examples']:,} for testing",
        "split": report.get("split"),
        "readings": f"{channels} per time step" if is_sequence else None,
        "colour": None if is_sequence else {1: "grey, 1 channel", 3: "RGB, 3 channels"}.get(channels, f"{channels} channels"),
        "size": f"{report['image_size']} time steps" if is_sequence else _size(report),
        "mean": ", ".join(f"{value:.4f}" for value in report["mean"]) + f" of {values} divided by 255",
        "std": ", ".join(f"{value:.4f}" for value in report["std"]),
        "mirrored": "in training, half of the images (where the recipe augments)" if report["flip"] else "never",
        "left out": "; ".join((report.get("broken") or {}).values()) or None,
        "note": "; ".join(report.get("notes") or ()) or None,
    }
    head = f"{report['name']}: {report['kind']}" + (f" {report['where']}" if "where" in report else "")
    return "\n".join([head, *(f"  {key:10}{text}" for key, text in rows.items() if text)])


def _classes(report):
    counts, names = report.get("images_per_class"), report["class_names"]
    told = [f"{name} {counts[name][0]}+{counts[name][1]}" if counts else name for name in names[:_SHOWN_CLASSES]]
    more = [f"and {len(names) - _SHOWN_CLASSES} more"] if len(names) > _SHOWN_CLASSES else []
    return f"{report['classes']}" + (f": {', '.join(told + more)}" if told else "")


def _size(report):
    side = report["image_size"]
    if not report.get("sizes"):
        return f"{side} x {side}"
    (width, height), (largest_width, largest_height) = report["sizes"]
    if (width, height) == (largest_width, largest_height) == (side, side):
        return f"{side} x {side}"
    return f"{width} x {height} to {largest_width} x {largest_height}; models take the central square, scaled"


COMMANDS = (add_data,)
