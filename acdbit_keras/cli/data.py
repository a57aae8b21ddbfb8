"""`acdbit data`: the datasets that are known here."""

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command


def add_data(subparsers):
    parser = command(subparsers, "data", data, "List the datasets, or prepare one.", data=True)
    parser.add_argument("action", choices=("list", "prepare"))
    parser.add_argument("name", nargs="?", help="dataset to prepare")


def data(options):
    from acdbit_keras.models import data as room

    if options.action == "prepare":
        if not options.name:
            raise ValueError(f"data prepare needs a dataset; known: {', '.join(room.names())}")
        folder = room.prepare(options.name, options.data_dir)
        emit(
            options,
            f"{options.name} is ready" + (f" in {folder}" if folder else ""),
            {"name": options.name, "folder": folder and str(folder)},
        )
        return
    rows = {}
    for name in room.names():
        facts = room.info(name)
        rows[name] = {
            "classes": facts.classes,
            "image_size": facts.image_size,
            "train": facts.train_examples,
            "test": facts.test_examples,
        }
    text = "\n".join(f"{name:15}" + "  ".join(f"{key} {value}" for key, value in row.items()) for name, row in rows.items())
    emit(options, text, rows)


COMMANDS = (add_data,)
