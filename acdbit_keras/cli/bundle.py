"""Training on a machine without network: `bundle` packs parts for it, `unbundle` makes run folders of what comes back."""

import pathlib

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import add_settings, command
from acdbit_keras.studies.progress import speaker


def add_bundle(subparsers):
    parser = command(
        subparsers, "bundle", bundle, "Pack recipes, code, wheels and data for a machine with JAX and without network.", data=True
    )
    parser.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        help="recipes, or a list of --list (default: the first list of which a run is not finished in RUNS)",
    )
    parser.add_argument("--list", action="store_true", help="list the lists of recipes, each for one call")
    parser.add_argument("--out", default="bundle", help="folder of the bundle (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="budget there, all told (default: %(default)g)")
    parser.add_argument("--part-mb", type=int, default=48, help="largest size of a part in MiB (default: %(default)s)")
    parser.add_argument("--python", default="3.12", help="version of the Python there (default: %(default)s)")
    parser.add_argument("--machine", default="x86_64", help="processor there, x86_64 or aarch64 (default: %(default)s)")
    parser.add_argument("--runs", default="runs", help="folder of runs, where finished teachers are found (default: %(default)s)")
    add_settings(parser)


def bundle(options):
    from acdbit_keras.models import recipes
    from acdbit_keras.studies.bundle import order, pack

    if options.list:
        emit(options, "\n".join(f"{name:20}{', '.join(of)}" for name, of in order.LISTS.items()), order.LISTS)
        return
    names = options.recipes or [order.following(options.runs)]
    if names == [None]:
        raise ValueError(f"every list of recipes is finished in {options.runs}; name the recipes to pack")
    chosen = [recipe for name in names for recipe in order.LISTS.get(name, (name,))]
    made = pack.pack(
        [recipes.get(recipe).with_settings(options.set) for recipe in chosen],
        options.out,
        minutes=options.minutes,
        part_mb=options.part_mb,
        python=options.python,
        machine=options.machine,
        runs=options.runs,
        data_dir=options.data_dir,
        say=speaker(quiet=options.json),
    )
    lines = [f"{pathlib.Path(options.out) / part['file']}  {part['bytes'] / (1 << 20):.1f} MiB" for part in made["parts"]]
    lines.append(f"{', '.join(recipe['name'] for recipe in made['recipes'])}: python run.py there, {made['minutes']:g} minutes")
    emit(options, "\n".join(lines), made)


def add_unbundle(subparsers):
    parser = command(subparsers, "unbundle", unbundle, "Make run folders of the results of a bundle.")
    parser.add_argument("results", help="folder with results.json and the files beside it")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: %(default)s)")


def unbundle(options):
    from acdbit_keras.studies.bundle import delivery

    came = delivery.unpack(options.results, options.runs)
    lines = [
        f"{name}: {said}"
        if isinstance(said, str)
        else f"{name}: accuracy {said['accuracy']:.4f}, {said['epochs']} epochs, in {pathlib.Path(options.runs) / name}"
        for name, said in came.items()
    ]
    emit(options, "\n".join(lines), came)


COMMANDS = (add_bundle, add_unbundle)
