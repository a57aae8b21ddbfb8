"""`acdbit zoo`: lists the trained models, and makes an entry of a finished run, whose card it measures."""

import pathlib

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command


def add_zoo(subparsers):
    parser = command(
        subparsers, "zoo", zoo, "List the trained models, or make one of a finished run and measure its card.", data=True
    )
    parser.add_argument("action", nargs="?", choices=("list", "add"), default="list")
    parser.add_argument(
        "folder", nargs="?", metavar="RUN", help="with add: folder of a finished run of a 1-bit scheme, or of float32"
    )
    parser.add_argument("name", nargs="?", help="with add: name of the entry; an older one of that name is replaced")
    parser.add_argument("--zoo", metavar="FOLDER", help="folder of the entries (default: the package's own)")
    parser.add_argument("--precision", help="of what is not bits: float16, float24 or float32 (default: float24)")
    parser.add_argument("--twin-of", metavar="NAME", help="the 1-bit entry whose float twin this is; its card will name it")
    parser.add_argument("--limit", action="append", default=[], metavar="TEXT", help="a limit to state on the card; repeatable")


def zoo(options):
    from acdbit_keras.models.zoo import entries
    from acdbit_keras.studies import zoo as study
    from acdbit_keras.studies.progress import speaker

    place = pathlib.Path(options.zoo) if options.zoo else entries.FOLDER
    if options.action == "list":
        cards = {name: entries.card(name, place) for name in entries.zoo_names(place)}
        emit(options, "\n".join(map(study.line, cards.values())) or f"there is no model in {place}", cards)
        return
    if not options.folder or not options.name:
        raise ValueError("zoo add needs a run's folder and the entry's name: acdbit zoo add RUN NAME")
    say = speaker(quiet=options.json)
    precision = options.precision or "float24"
    made = study.add(options.folder, options.name, place, options.data_dir, precision, options.limit, say, options.twin_of)
    emit(options, f"{study.markdown(made)}\nin {place / options.name}", made)


COMMANDS = (add_zoo,)
