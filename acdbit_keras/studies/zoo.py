"""Making the entries of a zoo: a finished run becomes a compact file, and everything on its card is measured on that file."""

import math
import pathlib
import shlex
import shutil
import tempfile

import keras
import numpy as np

from acdbit_keras import checks, text
from acdbit_keras.convert import to_tflite
from acdbit_keras.files import write_beside, write_json, write_text
from acdbit_keras.machine import processor
from acdbit_keras.models import data, recipes
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.zoo import entries
from acdbit_keras.models.zoo.compact import FLOAT_TWIN, PRECISIONS, load_compact, save_compact
from acdbit_keras.studies import deployed

TIMED_RUNS = 200


def add(run, name, zoo, data_dir=None, precision="float24", limits=(), say=print, twin_of=None):
    """Makes an entry of a zoo from a finished run.

    Everything on its card is measured on the compact file as it is read back: accuracy and agreement with the run's model
    on all test images, parity of the converted file with it, sizes, latency.

    An entry of that name is replaced as a whole. What else lies in its folder stays, but for the curve of other weights.

    Args:
        run: folder of the run.
        name: of the entry.
        zoo: folder of the entries.
        data_dir: where the datasets are prepared.
        precision: as for `save_compact`.
        limits: sentences to add to the card's.
        say: called with progress lines.
        twin_of: name of the 1-bit entry whose float twin this is: the same network without quantizers, trained on the same
            data. That entry's card names it as its `float_twin`, and so does that of the same network which replaces it.
            `None`, the default: of none.

    Returns:
        The card, a dict.

    Raises:
        ValueError: a run that is not finished, neither of a 1-bit scheme nor of `"float32"`, or no twin of that entry; or a
            name that is no folder's.
        OSError: the entry cannot be written; what was there before is kept.
    """
    if not name.isidentifier():
        raise ValueError(f"the name of an entry must be of letters, digits and underscores, not {name!r}")
    checks.choice("precision", precision, PRECISIONS)
    run, folder = Run(run), pathlib.Path(zoo) / name
    recipe, result = run.recipe, run.result
    if twin_of is not None:
        _check_twin(recipe, name, twin_of, zoo)
    trained, found = load_model(run.folder), data.source(run.dataset, data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        # Complete before anything reaches the zoo.
        weights, file = pathlib.Path(scratch) / entries.WEIGHTS, pathlib.Path(scratch) / f"{name}.tflite"
        compact_bytes = save_compact(trained, weights, precision)
        model = load_compact(weights)
        made = {
            "name": name,
            **_facts(recipe, found, trained, model),
            "training": result,
            **_accuracies(found, trained, model, say),
            **_measured(found, model, file, say),
            "limits": [*_limits(found, model), *limits],
        }
        made["size"] = _sizes(trained, precision, compact_bytes) | made["size"]
        made |= _twin_of_the_one_before(made, zoo)
        content = weights.read_bytes()
    history = run.history_path.read_bytes()

    def write(new):
        weights = new / entries.WEIGHTS
        if weights.exists() and weights.read_bytes() != content:
            (new / entries.ROBUSTNESS).unlink(missing_ok=True)
        _write_card(made, new)
        write_beside(new / entries.HISTORY, lambda path: path.write_bytes(history))
        write_beside(weights, lambda path: path.write_bytes(content))

    _replace(folder, write)
    if twin_of is not None:
        student = {**entries.card(twin_of, zoo), "float_twin": name}
        _replace(pathlib.Path(zoo) / twin_of, lambda new: _write_card(student, new))
    return made


def _replace(folder, write):
    """Changes an entry in a copy beside it, which then takes its place: all of its files are of one run, whatever fails.

    Args:
        folder: of the entry, which need not be there.
        write: called with the folder of the copy.
    """
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    if old.exists() and not folder.exists():
        # Its process was killed between the two renames.
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        if folder.exists():
            shutil.copytree(folder, new)
        else:
            new.mkdir(parents=True)
        write(new)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        reason = error.strerror or getattr(error.__cause__, "strerror", None) or error
        raise OSError(f"cannot write {folder}: {reason}; what was there before is kept") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _check_twin(recipe, name, twin_of, zoo):
    if name == twin_of:
        raise ValueError(f"the float twin of {twin_of!r} is an entry beside it and needs another name")
    facts = entries.card(twin_of, zoo)
    if facts["model"]["scheme"] == FLOAT_TWIN:
        raise ValueError(f"{twin_of!r} is of {FLOAT_TWIN} itself; a twin is that of a 1-bit entry")
    wanted = (facts["model"]["preset"], FLOAT_TWIN, facts["data"]["dataset"])
    found = (recipe.preset, recipe.scheme_name, recipe.dataset)
    if found != wanted:
        names = ("preset", "scheme", "dataset")
        differs = ", ".join(
            f"{n} {ours!r} instead of {theirs!r}" for n, ours, theirs in zip(names, found, wanted) if ours != theirs
        )
        raise ValueError(f"the run is no float twin of {twin_of!r}: {differs}")


def _twin_of_the_one_before(made, zoo):
    """`{"float_twin": name}` of the entry that is replaced, where it is that of the new one, too; else nothing."""
    if made["name"] not in entries.zoo_names(zoo):
        return {}
    before = entries.card(made["name"], zoo)

    def network(card):
        return card["model"]["preset"], card["model"]["scheme"], card["data"]["dataset"]

    return {"float_twin": before["float_twin"]} if "float_twin" in before and network(before) == network(made) else {}


def _write_card(made, folder):
    write_json(folder / entries.CARD, made)
    write_text(folder / entries.CARD_TEXT, markdown(made))


def _facts(recipe, found, trained, model):
    facts = found.info()
    images = {"train_images": facts.train_examples, "test_images": facts.test_examples}
    return {
        "model": {
            "preset": recipe.preset,
            "scheme": recipe.scheme_name,
            "parameters": _parameters(trained),
            "image_size": model.image_size,
        },
        "data": {**images, **deployed.card(model, found)},
        "recipe": _changed_settings(recipe) | {"name": recipe.name, "epochs": recipe.epochs, "seed": recipe.seed},
        "command": _command_line(recipe),
    }


def _accuracies(found, trained, model, say):
    say(f"evaluating the compact model and the run's on {found.info().test_examples} test images")
    test = deployed.test_images(found, model.image_size, batch_size=128)
    labels = np.concatenate([labels for _, labels in test.as_numpy_iterator()])
    # Once each: of a small network, what a pass over the images takes is its trace.
    images = test.map(lambda images, labels: images)
    logits, run_logits = (each.predict(images, verbose=0) for each in (model, trained))
    top1, top5 = keras.metrics.SparseCategoricalAccuracy, keras.metrics.SparseTopKCategoricalAccuracy
    return {
        "accuracy": {
            "top1": _score(top1(), labels, logits),
            "top5": _score(top5(k=min(5, logits.shape[1])), labels, logits),
            "images": len(labels),
        },
        "run": {
            "top1": _score(top1(), labels, run_logits),
            "equal_argmax": float((logits.argmax(axis=1) == run_logits.argmax(axis=1)).mean()),
        },
    }


def _score(metric, labels, logits):
    metric.update_state(labels, logits)
    return float(metric.result())


def _measured(found, model, file, say):
    say("converting, and comparing the file with the compact model")
    conversion = deployed.convert(model, file, found)
    parity = deployed.compare(model, file, found)
    say("timing the file")
    [timing] = deployed.time_files([file], TIMED_RUNS)
    return {
        "parity": deployed.parity_facts(parity),
        "size": {"tflite_bytes": conversion.bytes},
        "latency": {
            "median_ms": timing["median_ms"],
            "p90_ms": timing["p90_ms"],
            "threads": 1,
            "engine": timing["engine"],
            "processor": processor(),
        },
    }


def _sizes(trained, precision, compact_bytes):
    float32_bytes = 4 * _parameters(trained)
    return {
        "precision": precision,
        "compact_bytes": compact_bytes,
        "float32_bytes": float32_bytes,
        "float32_over_compact": float32_bytes / compact_bytes,
    }


def _parameters(trained):
    return sum(math.prod(weight.shape) for weight in trained.trainable_variables)


def converted(name, folder, **options):
    """The `.tflite` file of an entry of the package's zoo, made in a folder; returns its path.

    Args:
        name: of the entry.
        folder: where the file is to be.
        **options: for `to_tflite`.
    """
    path = pathlib.Path(folder) / f"{name}.tflite"
    to_tflite(entries.from_zoo(name), path, card=description(name), **options)
    return path


def description(name):
    """The card that a file of an entry holds, as the entry's own has it: the dataset, which names classes, need not be here."""
    facts = entries.card(name)["data"]
    return {key: facts[key] for key in deployed.CARD if key in facts}


def line(made):
    """A card in one line."""
    return (
        f"{made['name']:32}{made['data']['dataset']:14}top-1 {made['accuracy']['top1']:.2%}  "
        f"{made['size']['compact_bytes'] / 1e3:.0f} kB  {made['latency']['median_ms']:.3f} ms"
    )


def markdown(made):
    """A card as text."""
    data, accuracy, parity, size, latency = (made[key] for key in ("data", "accuracy", "parity", "size", "latency"))
    rows = {
        "model": f"`{made['model']['preset']}`, scheme `{made['model']['scheme']}`, {made['model']['parameters']:,} parameters",
        "data": f"{data['dataset']}: {data['train_images']:,} training and {data['test_images']:,} test images, "
        f"{len(data['classes'])} classes",
        "recipe": f"`{made['recipe']['name']}`, {made['training']['epochs']} epochs, seed {made['recipe']['seed']}, "
        f"{made['training']['training_seconds'] / 60:.0f} minutes of training ({_trained_on(made['training'])})",
        "command": f"`{made['command']}`",
        "accuracy": f"top-1 {accuracy['top1']:.2%}, top-5 {accuracy['top5']:.2%} on {accuracy['images']:,} test images "
        f"(the trained model: top-1 {made['run']['top1']:.2%}; the same class on {made['run']['equal_argmax']:.2%})",
        "parity": f"the converted file gives the class of this model on {parity['equal_argmax']:.2%} of "
        f"{parity['samples']:,} images; "
        f"{parity['beyond_tolerance']} part by more than {parity['tolerance']:g} in a logit, "
        f"{parity['on_threshold']} of them with a sign on its threshold, {parity['unexplained']} unexplained",
        "size": f"{size['compact_bytes'] / 1e3:.0f} kB, 1/{size['float32_over_compact']:.1f} of "
        f"{size['float32_bytes'] / 1e3:.0f} kB in float32; converted {size['tflite_bytes'] / 1e3:.0f} kB",
        "latency": f"median {latency['median_ms']:.3f} ms, 90 % below {latency['p90_ms']:.3f} ms, {latency['threads']} thread, "
        f"{latency['engine']}, {latency['processor']}",
    }
    if "float_twin" in made:
        rows["float twin"] = f"`{made['float_twin']}`"
    table = text.markdown(["", ""], list(rows.items()))
    return "\n".join([f"# {made['name']}", "", table, "", "Limits:", "", *(f"- {limit}" for limit in made["limits"])])


def _trained_on(result):
    """The backend, and the device where the result says it."""
    return ", ".join(result[key] for key in ("backend", "device") if key in result)


def _known(recipe):
    """The recipe of that name in this version, on the same data; `None` if there is none."""
    name = recipe.name.partition("@")[0]
    return recipes.get(name).on(recipe.dataset) if name in recipes.names() else None


def _changed_settings(recipe):
    """What differs from the recipe of that name in this version."""
    known = _known(recipe)
    if known is None:
        return recipe.to_dict()
    return {key: value for key, value in recipe.to_dict().items() if value != getattr(known, key)}


def _command_line(recipe):
    changed = {key: value for key, value in _changed_settings(recipe).items() if key != "name"}
    words = ["acdbit", "train", recipe.name]
    if _known(recipe) is not None and recipe.name.partition("@")[1]:
        words = [*words[:2], recipe.name.partition("@")[0], "--data", recipe.dataset]
    return shlex.join([*words, *(part for key, value in changed.items() for part in ("--set", f"{key}={value}"))])


def _limits(found, model):
    return [
        f"It knows the classes of {found.name} only, and gives one of them for any picture; pictures are resized to "
        f"{model.image_size} x {model.image_size} pixels.",
        "One run with one seed: another seed gives another accuracy.",
        *(
            []
            if model.scheme.name == FLOAT_TWIN
            else [
                "Its weights are signs; what is trained further begins with real weights made of them: "
                "from_zoo(name, trainable=True), or acdbit train --from NAME."
            ]
        ),
    ]
