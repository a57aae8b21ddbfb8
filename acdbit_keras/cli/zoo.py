"""`acdbit zoo`: lists the trained models, and makes an entry of a finished run, whose card it measures."""

import json
import math
import pathlib
import tempfile

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command
from acdbit_keras.files import write_beside
from acdbit_keras.machine import processor
from acdbit_keras.studies.deployed import card

TIMED_RUNS = 200


def add_zoo(subparsers):
    parser = command(
        subparsers, "zoo", zoo, "List the trained models, or make one of a finished run and measure its card.", data=True
    )
    parser.add_argument("action", nargs="?", choices=("list", "add"), default="list")
    parser.add_argument("folder", nargs="?", metavar="RUN", help="with add: folder of a finished run of a 1-bit scheme")
    parser.add_argument("name", nargs="?", help="with add: name of the entry; an older one of that name is replaced")
    parser.add_argument("--zoo", metavar="FOLDER", help="folder of the entries (default: the package's own)")
    parser.add_argument("--precision", help="of what is not bits: float16, float24 or float32 (default: float24)")
    parser.add_argument("--limit", action="append", default=[], metavar="TEXT", help="a limit to state on the card; repeatable")


def zoo(options):
    from acdbit_keras.models.zoo import entries

    place = pathlib.Path(options.zoo) if options.zoo else entries.FOLDER
    if options.action == "list":
        cards = {name: entries.card(name, place) for name in entries.zoo_names(place)}
        emit(options, "\n".join(map(_line, cards.values())) or f"there is no model in {place}", cards)
        return
    if not options.folder or not options.name:
        raise ValueError("zoo add needs a run's folder and the entry's name: acdbit zoo add RUN NAME")
    say = (lambda text: None) if options.json else (lambda text: print(text, flush=True))
    made = add(options.folder, options.name, place, options.data_dir, options.precision, options.limit, say)
    emit(options, f"{markdown(made)}\nin {place / options.name}", made)


def add(run, name, zoo, data_dir=None, precision=None, limits=(), say=print):
    """Makes an entry of a zoo from a finished run.

    Everything on its card is measured on the compact file as it is read back: accuracy and agreement with the run's model
    on all test images, parity of the converted file with it, sizes, latency.

    Args:
        run: folder of the run.
        name: of the entry.
        zoo: folder of the entries.
        data_dir: where the datasets are prepared.
        precision: as for `save_compact`.
        limits: sentences to add to the card's.
        say: called with progress lines.

    Returns:
        The card, a dict.

    Raises:
        ValueError: a run that is not finished or not of a 1-bit scheme, or a name that is no folder's.
        OSError: the entry cannot be written.
    """
    from acdbit_keras import convert
    from acdbit_keras.models import data
    from acdbit_keras.models.loading import load_model
    from acdbit_keras.models.train import dataset_of, evaluate, recipe_of
    from acdbit_keras.models.zoo import entries
    from acdbit_keras.models.zoo.compact import PRECISIONS, load_compact, save_compact

    if not name.isidentifier():
        raise ValueError(f"the name of an entry must be of letters, digits and underscores, not {name!r}")
    precision = precision or "float24"
    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    run, folder = pathlib.Path(run), pathlib.Path(zoo) / name
    recipe = recipe_of(run)
    if not (run / "result.json").exists():
        raise ValueError(f"the run in {run} is not finished; `acdbit train {recipe.name} --out {run}` goes on with it")
    trained, dataset = load_model(run), data.source(dataset_of(run), data_dir)
    facts = dataset.info()
    with tempfile.TemporaryDirectory() as scratch:
        # Complete before anything reaches the zoo.
        weights, file = pathlib.Path(scratch) / entries.WEIGHTS, pathlib.Path(scratch) / f"{name}.tflite"
        compact_bytes = save_compact(trained, weights, precision)
        model = load_compact(weights)
        test = data.pipeline(dataset, "test", image_size=model.image_size, data_dir=data_dir)
        say(f"evaluating the compact model and the run's on {facts.test_examples} test images")
        scores = evaluate(model, dataset, data_dir)
        run_scores = evaluate(trained, dataset, data_dir)
        agreement = _agreement(model, trained, test)
        say("converting, and comparing the file with the compact model")
        description = card(model, dataset, data_dir)
        conversion = convert.to_tflite(model, file, card=description)
        parity = convert.verify(model, file, test).to_dict()
        say("timing the file")
        [timing] = convert.benchmark([file], runs=TIMED_RUNS, profile=False)
        content = weights.read_bytes()
    parameters = sum(math.prod(weight.shape) for weight in trained.trainable_variables)
    float32_bytes = 4 * parameters
    made = {
        "name": name,
        "model": {
            "preset": recipe.preset,
            "scheme": recipe.scheme_name,
            "parameters": parameters,
            "image_size": model.image_size,
        },
        "data": {"train_images": facts.train_examples, "test_images": facts.test_examples, **description},
        "recipe": _changed_settings(recipe) | {"name": recipe.name, "epochs": recipe.epochs, "seed": recipe.seed},
        "command": _command_line(recipe),
        "training": json.loads((run / "result.json").read_text()),
        "accuracy": {"top1": scores["accuracy"], "top5": scores["top5"], "images": scores["images"]},
        "run": {"top1": run_scores["accuracy"], "equal_argmax": agreement},
        "parity": {key: value for key, value in parity.items() if key not in ("path", "partings")},
        "size": {
            "precision": precision,
            "compact_bytes": compact_bytes,
            "float32_bytes": float32_bytes,
            "float32_over_compact": float32_bytes / compact_bytes,
            "tflite_bytes": conversion.bytes,
        },
        "latency": {
            "median_ms": timing.median_ms,
            "p90_ms": timing.p90_ms,
            "threads": timing.num_threads,
            "engine": timing.engine,
            "processor": processor(),
        },
        "limits": [*_limits(recipe, model), *limits],
    }
    folder.mkdir(parents=True, exist_ok=True)
    # The weights last: without them there is no entry.
    write_beside(folder / entries.CARD, lambda path: path.write_text(json.dumps(made, indent=1) + "\n"))
    write_beside(folder / entries.CARD_TEXT, lambda path: path.write_text(markdown(made) + "\n"))
    write_beside(folder / entries.WEIGHTS, lambda path: path.write_bytes(content))
    return made


def converted(name, folder):
    """The `.tflite` file of an entry of the package's zoo, made in a folder."""
    from acdbit_keras.convert import to_tflite
    from acdbit_keras.models import zoo as room

    facts = room.card(name)["data"]
    path = pathlib.Path(folder) / f"{name}.tflite"
    to_tflite(room.from_zoo(name), path, card={key: facts[key] for key in ("dataset", "scheme", "mean", "std", "classes")})
    return path


def markdown(made):
    """A card as text."""
    data, accuracy, parity, size, latency = (made[key] for key in ("data", "accuracy", "parity", "size", "latency"))
    rows = {
        "model": f"`{made['model']['preset']}`, scheme `{made['model']['scheme']}`, {made['model']['parameters']:,} parameters",
        "data": f"{data['dataset']}: {data['train_images']:,} training and {data['test_images']:,} test images, "
        f"{len(data['classes'])} classes",
        "recipe": f"`{made['recipe']['name']}`, {made['training']['epochs']} epochs, seed {made['recipe']['seed']}, "
        f"{made['training']['training_seconds'] / 60:.0f} minutes of training ({made['training']['backend']})",
        "command": f"`{made['command']}`",
        "accuracy": f"top-1 {accuracy['top1']:.2%}, top-5 {accuracy['top5']:.2%} on {accuracy['images']:,} test images "
        f"(the trained model: top-1 {made['run']['top1']:.2%}; the same class on {made['run']['equal_argmax']:.2%})",
        "parity": f"the converted file gives the class of this model on {parity['equal_argmax']:.2%} of {parity['samples']:,} images; "
        f"{parity['beyond_tolerance']} part by more than {parity['tolerance']:g} in a logit, "
        f"{parity['on_threshold']} of them with a sign on its threshold, {parity['unexplained']} unexplained",
        "size": f"{size['compact_bytes'] / 1e3:.0f} kB, 1/{size['float32_over_compact']:.1f} of "
        f"{size['float32_bytes'] / 1e3:.0f} kB in float32; converted {size['tflite_bytes'] / 1e3:.0f} kB",
        "latency": f"median {latency['median_ms']:.3f} ms, 90 % below {latency['p90_ms']:.3f} ms, {latency['threads']} thread, "
        f"{latency['engine']}, {latency['processor']}",
    }
    table = ["| | |", "|---|---|", *(f"| {key} | {text} |" for key, text in rows.items())]
    return "\n".join([f"# {made['name']}", "", *table, "", "Limits:", "", *(f"- {limit}" for limit in made["limits"])])


def _line(made):
    return (
        f"{made['name']:32}{made['data']['dataset']:14}top-1 {made['accuracy']['top1']:.2%}  "
        f"{made['size']['compact_bytes'] / 1e3:.0f} kB  {made['latency']['median_ms']:.3f} ms"
    )


def _agreement(model, other, test):
    """Share of images that two models put into the same class."""
    import numpy as np

    images = test.map(lambda images, labels: images)
    ours, theirs = (np.argmax(each.predict(images, verbose=0), axis=1) for each in (model, other))
    return float((ours == theirs).mean())


def _changed_settings(recipe):
    """What differs from the recipe of that name in this version."""
    from acdbit_keras.models import recipes

    if recipe.name not in recipes.names():
        return recipe.to_dict()
    known = recipes.get(recipe.name)
    return {key: value for key, value in recipe.to_dict().items() if value != getattr(known, key)}


def _command_line(recipe):
    import shlex

    changed = {key: value for key, value in _changed_settings(recipe).items() if key != "name"}
    settings = [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]
    return shlex.join(["acdbit", "train", recipe.name, *settings])


def _limits(recipe, model):
    return [
        f"It knows the classes of {recipe.dataset} only, and gives one of them for any picture; pictures are resized to "
        f"{model.image_size} x {model.image_size} pixels.",
        "One run with one seed: another seed gives another accuracy.",
        "Its weights are signs; it can be evaluated and converted, not trained further.",
    ]


COMMANDS = (add_zoo,)
