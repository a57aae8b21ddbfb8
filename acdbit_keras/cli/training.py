"""Commands that train and look at what was trained: `demo`, `train`, `evaluate`, `report`, `speed`."""

import json
import pathlib
import sys

from acdbit_keras import checks
from acdbit_keras.cli import emit
from acdbit_keras.cli.common import add_settings, command, dataset_of, in_zoo, model_of
from acdbit_keras.cli.data import summary
from acdbit_keras.files import write_json
from acdbit_keras.studies import deployed
from acdbit_keras.studies.progress import speaker


def add_demo(subparsers):
    parser = command(subparsers, "demo", demo, "Train, distil, convert, verify and time on the digits, in a few minutes.")
    parser.add_argument("--out", default="runs/demo", help="folder of everything it makes (default: %(default)s)")
    add_settings(parser)


def demo(options):
    from acdbit_keras.studies import demo as room

    report = room.run(pathlib.Path(options.out), options.set, verbose=0 if options.json else 1)
    emit(options, room.table(report), report)


def add_train(subparsers):
    parser = command(subparsers, "train", train, "Train a recipe into a folder; an unfinished run there is resumed.", data=True)
    parser.add_argument("recipe", nargs="?", help="name of a recipe, see --list, or FILE.py:NAME; NAME@DATA is --data DATA")
    parser.add_argument("--list", action="store_true", help="list the recipes")
    parser.add_argument(
        "--data",
        help="train, the recipe's teacher too, on this: a known dataset, a folder of class folders, a .csv of path,label, "
        "an .npz, or tfds:NAME; acdbit data show tells what it holds",
    )
    parser.add_argument("--out", help="the run's folder (default: RUNS/RECIPE, with --data RUNS/RECIPE@DATA)")
    parser.add_argument(
        "--runs", default="runs", help="folder of runs, where the recipe's teacher is found or made (default: %(default)s)"
    )
    parser.add_argument("--teacher", help="another teacher: run folder, .keras file, or name of `acdbit zoo`")
    parser.add_argument(
        "--minutes", type=float, help="a budget in place of epochs: a step is timed, and as many epochs are run as fit"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="begin with the weights of a name of `acdbit zoo`, a run's folder or a file, without RECIPE with that model's own",
    )
    parser.add_argument("--freeze", action="store_true", help="with --from: train the head alone")
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        help="devices that share every batch, of every host (default: %(default)s)",
    )
    parser.add_argument(
        "--hosts",
        type=int,
        default=1,
        help="machines, on JAX, that share every batch and see a run folder, each started with this (default: %(default)s)",
    )
    parser.add_argument("--host", type=int, metavar="I", help="with --hosts: this one's number, from 0; host 0 writes")
    parser.add_argument("--coordinator", metavar="ADDRESS:PORT", help="with --hosts: where host 0 is reached")
    parser.add_argument(
        "--wait", type=float, default=300, metavar="SECONDS", help="how long the others may take to come (default: %(default)s)"
    )
    add_settings(parser)


def train(options):
    from acdbit_keras.models import recipes

    if options.list:
        listed = {name: _recipe_line(recipes.get(name)) for name in recipes.names()}
        width = max(map(len, listed))
        emit(options, "\n".join(f"{name:{width}}  {line}" for name, line in listed.items()), listed)
        return
    if options.freeze and not options.start:
        raise ValueError("--freeze leaves the head alone to be trained, behind the body that --from names")
    if not options.recipe and not options.start:
        raise ValueError(f"train needs a recipe; known: {', '.join(recipes.names())}")
    from acdbit_keras.models.train import train as run_recipe

    recipe = recipes.get(options.recipe or _recipe_of(options.start))
    if options.data and not options.recipe and recipe.on(options.data) is not recipe:
        # It knows other classes, and one that is trained on a few pictures first would know less than the model at the start.
        recipe = recipe.replace(label_teacher=None)
    recipe = recipe.with_settings(options.set)
    if options.data:
        recipe = recipe.on(options.data)
    if options.minutes is not None:
        recipe = recipe.replace(minutes=options.minutes)
    if options.start:
        recipe = recipe.replace(start=options.start, freeze=options.freeze or recipe.freeze)
    folder = options.out or pathlib.Path(options.runs) / recipe.name
    _join(options, recipe)
    if not options.json and not options.host:
        _show_own_data(recipe, options.data_dir)
    verbose = 0 if options.json else 1 if sys.stdout.isatty() else 2
    result = run_recipe(recipe, folder, options.data_dir, options.teacher, options.runs, verbose, options.devices)
    if options.hosts > 1:
        from acdbit_keras.models import hosts

        hosts.leave()
        if options.host:
            return  # host 0 tells
    best = f"best {result['best_accuracy']:.4f}"
    if "validation_accuracy" in result:
        best = f"{result['validation_accuracy']:.4f} of the images held out, {best}"
    emit(options, f"{recipe.name}: accuracy {result['accuracy']:.4f} ({best}), in {folder}", result)


def _join(options, recipe):
    """Makes one program of the hosts, if there are several."""
    from acdbit_keras.models import hosts

    if options.hosts == 1:
        if options.host is not None or options.coordinator:
            raise ValueError("--host and --coordinator are for several hosts; pass --hosts, their number, too")
        return
    if options.host is None or not options.coordinator:
        raise ValueError("--hosts needs --host, the number of this one from 0, and --coordinator, ADDRESS:PORT of host 0")
    joined = hosts.Hosts(options.hosts, options.host, options.coordinator, options.wait)
    hosts.join(joined, f"{json.dumps(recipe.to_dict(), sort_keys=True)} on {options.devices} devices each")


def _recipe_of(start):
    """The recipe, or its name, that a model of the zoo, or of a run, was trained with."""
    from acdbit_keras.models import zoo
    from acdbit_keras.models.run import Run

    return zoo.card(start)["recipe"]["name"] if in_zoo(start) else Run.around(start).recipe


def _show_own_data(recipe, data_dir):
    """Prints what was found of images that no name stands for."""
    from acdbit_keras.models import data

    found = data.source(recipe.dataset, data_dir)
    if found.stored() is not None:
        print(summary(found), flush=True)


def _recipe_line(recipe):
    teacher = f", teacher {recipe.teacher}" if recipe.teacher else ""
    return f"{recipe.scheme_name} {recipe.preset} on {recipe.dataset}, {recipe.epochs} epochs{teacher}"


def add_evaluate(subparsers):
    parser = command(
        subparsers,
        "evaluate",
        evaluate,
        "Accuracy of a run, or of a .keras, .tflite or .acdm file, on the test images.",
        data=True,
    )
    parser.add_argument("model", help="run folder, .keras, .tflite or .acdm file, or name of `acdbit zoo`")
    parser.add_argument("--dataset", "--data", help="a name, or where the images are (default: what the model was trained on)")


def evaluate(options):
    from acdbit_keras.studies import subjects

    if subjects.is_file(options.model):
        result = _evaluate_file(options)
    else:
        from acdbit_keras.models import train as room

        result = room.evaluate(model_of(options.model), dataset_of(options, options.model), options.data_dir)
    emit(
        options,
        "  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()),
        result,
    )


def _evaluate_file(options):
    return deployed.evaluate_file(options.model, dataset_of(options, options.model), options.data_dir)


def add_report(subparsers):
    parser = command(subparsers, "report", report, "Evaluate, convert, verify and time finished runs into one folder.", data=True)
    parser.add_argument("out", help="folder for results.json, results.md, curves.png and the histories")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--samples", type=int, help="test images for parity (default: all)")


def report(options):
    from acdbit_keras.studies import report as room

    results = room.run(
        pathlib.Path(options.out),
        [pathlib.Path(run) for run in options.runs],
        options.data_dir,
        options.samples,
        speaker(quiet=options.json),
    )
    emit(options, room.markdown(results), results)


def add_speed(subparsers):
    parser = command(subparsers, "speed", speed, "Training speed of float, baseline and aligned models, in turns in one run.")
    parser.add_argument("--preset", default="vit_micro_patch4_32", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps per turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns after the first, which compiles (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", help="a contender to measure besides binary_vit; may be repeated (default: all)"
    )
    parser.add_argument("--parts", metavar="SCHEME", help="show where the processor time of a scheme's step goes instead")
    parser.add_argument(
        "--paper", action="store_true", help="time a step of every scheme, and reckon what the paper's tables cost, instead"
    )
    parser.add_argument("--out", help="also write the JSON value to this file")


def speed(options):
    if options.paper:
        return _paper_cost(options)
    from acdbit_keras.studies.speed import measure, measure_parts

    for name in ("batch_size", "steps", "rounds"):
        checks.integer(f"--{name.replace('_', '-')}", getattr(options, name), 1)
    if options.parts:
        rows = measure_parts(options.preset, options.parts, options.batch_size, options.steps)
        value = {"preset": options.preset, "scheme": options.parts, "batch_size": options.batch_size, "milliseconds": rows}
        if options.out:
            write_json(options.out, value)
        lines = (f"{name:12}" + "".join(f"{part:>10} {ms:7.1f} ms" for part, ms in row.items()) for name, row in rows.items())
        emit(options, "\n".join(lines), value)
        return
    rows = measure(options.preset, options.batch_size, options.steps, options.rounds, only=options.only)
    value = {"preset": options.preset, "batch_size": options.batch_size, "contenders": rows}
    if options.out:
        write_json(options.out, value)
    text = "\n".join(
        f"{name:46}{row['images_per_second']:9.0f} images/s{row['relative_time']:7.2f} x binary_vit's time"
        f"{row['relative_cpu_time']:7.2f} x its processor time"
        for name, row in rows.items()
    )
    emit(options, text, value)


def _paper_cost(options):
    from acdbit_keras.studies import training_cost

    measured = training_cost.measure()
    counted = {name: training_cost.flops_per_image(measured["preset"], name) for name in measured["schemes"]}
    value = {"measured": measured, "flops_per_image": counted, **training_cost.reckoned(measured)}
    if options.out:
        write_json(options.out, value)
    emit(options, training_cost.table(value), value)


COMMANDS = (
    add_demo,
    add_train,
    add_evaluate,
    add_report,
    add_speed,
)
