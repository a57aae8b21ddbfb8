"""The tables: `compare`, `ablate` and `sweep`, three experiments on one engine."""

import pathlib
import shlex
import sys

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import add_settings, command
from acdbit_keras.machine import processor

RUNS = "runs"


def add_compare(subparsers):
    parser = _table(
        subparsers,
        "compare",
        compare,
        "Train systems from one teacher on one budget; accuracy, size, operations, latency, beside the paper's figures.",
    )
    parser.add_argument(
        "--schemes",
        nargs="*",
        metavar="SCHEME",
        help="the systems, variants such as 'acd_bit[restore=dynamic]' too (default: all)",
    )
    parser.add_argument(
        "--leaders",
        nargs="*",
        metavar="SCHEME",
        help="the systems that are trained with every seed, the others with the first alone (default: all)",
    )


def compare(options):
    from acdbit_keras.studies import experiments

    return _run(
        options, lambda recipe: experiments.compare(recipe, options.schemes, options.seeds, options.leaders, options.data_dir)
    )


def add_ablate(subparsers):
    parser = _table(
        subparsers,
        "ablate",
        ablate,
        "What alignment and correction give, which part of alignment does, and what the bits cost.",
        seeds=(0, 1, 2),
    )
    parser.add_argument(
        "--grid",
        default="paper",
        help="paper (Da x Dc), threshold, restore, axis, alignment, which crosses the three, parts: each part of alignment as "
        "the baseline has it, with and without learned shifts, forms: alignment that binds less and less, or bits: what those of "
        "weights, activations and attention cost (default: %(default)s)",
    )


def ablate(options):
    from acdbit_keras.studies import experiments

    return _run(options, lambda recipe: experiments.ablate(recipe, options.grid, options.seeds, options.data_dir))


def add_sweep(subparsers):
    parser = _table(subparsers, "sweep", sweep, "The weights of the two distillation terms, in both forms of the query-key term.")
    parser.add_argument(
        "--forms", nargs="*", default=["gram", "direct"], metavar="FORM", help="of the query-key term (default: gram direct)"
    )
    parser.add_argument(
        "--readings",
        nargs="*",
        default=["label"],
        metavar="READING",
        help="term that the first weight of a pair belongs to: label, query_key or both (default: label)",
    )


def sweep(options):
    from acdbit_keras.studies import experiments

    return _run(
        options, lambda recipe: experiments.sweep(recipe, options.forms, options.readings, options.seeds, options.data_dir)
    )


def _table(subparsers, name, run, summary, seeds=(0,)):
    parser = command(subparsers, name, run, summary, data=True)
    parser.add_argument("recipe", help="recipe of a student; `acdbit train --list` lists them")
    parser.add_argument(
        "--seeds",
        nargs="*",
        type=int,
        default=list(seeds),
        metavar="SEED",
        help=f"one run per row and seed (default: {' '.join(map(str, seeds))})",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder for results.json, table.md, table.csv and figure.png; an unfinished table there goes on",
    )
    parser.add_argument(
        "--runs", default=RUNS, help="folder of runs, where the teacher is found or made too (default: %(default)s)"
    )
    parser.add_argument("--teacher", help="another teacher than the recipe's: run folder, .keras file, or name of `acdbit zoo`")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, on this machine's GPUs or processor (default: %(default)s); other machines that see the folder "
        "of runs share the work with the same command and an --out of their own",
    )
    add_settings(parser)
    return parser


def _run(options, plan):
    from acdbit_keras.models import recipes
    from acdbit_keras.studies import experiments

    recipe = recipes.get(options.recipe).with_settings(options.set)
    for key, option in (("scheme", "the rows"), ("seed", "--seeds")):
        if any(setting.partition("=")[0] == key for setting in options.set) and (key == "seed" or options.run is not sweep):
            raise ValueError(f"--set {key}= has no meaning in a table, {option} say it")
    results = experiments.run(
        plan(recipe),
        options.out,
        runs=options.runs,
        teacher=options.teacher,
        data_dir=options.data_dir,
        made_by={"command": _command_line(options), "processor": processor()},
        jobs=options.jobs,
        stream=None if options.json and not sys.stderr.isatty() else sys.stderr,
    )
    emit(options, f"{experiments.markdown(results)}\n\nin {pathlib.Path(options.out)}", results)
    return 1 if experiments.failures(results) else 0


def _command_line(options):
    """The command that makes this table; where the data lie on this machine is not part of it."""
    words = ["acdbit", options.run.__name__, options.recipe, "--out", options.out]
    for name in ("schemes", "leaders", "grid", "forms", "readings", "seeds"):
        value = getattr(options, name, None)
        if value is not None:
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [value])]
    if options.teacher:
        words += ["--teacher", options.teacher]
    if options.runs != RUNS:
        words += ["--runs", options.runs]
    words += [word for setting in options.set for word in ("--set", setting)]
    return shlex.join(map(str, words))


COMMANDS = (add_compare, add_ablate, add_sweep)
