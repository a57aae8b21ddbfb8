"""Results of a bundle: there a few files of limited size, here run folders, as `acdbit train` leaves them.

The weights of all finished runs travel, those of the last and of the best epoch. Where they are too much, 1-bit networks go as
compact files, which evaluate and convert to the last bit as the network does but cannot be trained further; then best weights
are left out, those of the largest networks first.
"""

import csv
import functools
import json
import pathlib
import shutil
import tempfile
import types
import zipfile

from acdbit_keras import quantizers, schemes
from acdbit_keras.files import read_json, write_beside, write_json
from acdbit_keras.models import data
from acdbit_keras.models.data.base import facts_from_dict
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import network_of
from acdbit_keras.models.zoo.compact import SUFFIX, load_compact, save_compact
from acdbit_keras.studies.bundle import weights
from acdbit_keras.studies.bundle.run import checksum, join, split

LOG, RESULTS, MODEL, BEST, FAILED = "log.txt", "results.json", "model.npz", "best.npz", "failed.txt"
FORMAT = 1
FILES, FILE_BYTES = 8, 16_000_000
# One of the files says what the others hold; the last bytes are for histories and the archive's own.
_ROOM = (FILES - 1) * FILE_BYTES - 1_000_000


def append_row(path, epoch, values):
    """Adds a row to a run's history, as Keras' CSVLogger writes it.

    Args:
        path: of the history.
        epoch: counted from 0.
        values: dict of floats.
    """
    names, is_new = ["epoch", *sorted(values)], not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names)
        if is_new:
            writer.writeheader()
        writer.writerow({"epoch": epoch, **values})


def pack(runs, facts, state, out, room=_ROOM):
    """Writes everything that is there into the folder of results; what was there before goes when all of it is written.

    Args:
        runs: dict from name to `Run`, of those that a bundle asks for.
        facts: dict from dataset to the content of its `facts.json`.
        state: folder with the log.
        out: folder of the results.
        room: bytes of weights that there is room for.

    Returns:
        Sentences that say what was made smaller or left out.

    Raises:
        OSError: the results cannot be written; those of before stay complete.
    """
    out, said = pathlib.Path(out), []
    chosen = _chosen(runs, facts, room, said)
    with tempfile.TemporaryDirectory(dir=state) as scratch:
        archive = pathlib.Path(scratch) / "results.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            file.writestr("facts.json", json.dumps(facts))
            if (state / LOG).exists():
                file.write(state / LOG, LOG, zipfile.ZIP_DEFLATED)
            for name, run in runs.items():
                for path in (run.recipe_path, run.history_path, run.result_path, run.folder / FAILED, *chosen.get(name, ())):
                    if path.exists():
                        small = path.suffix not in (".npz", SUFFIX)
                        file.write(path, f"{name}/{path.name}", zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED)
        # Named after their content: until `results.json` names them, that of before and its parts hold.
        parts = split(archive, scratch, f"results_{checksum(archive)[:8]}", FILE_BYTES)
        _remove_unnamed(out)
        try:
            for part in parts:
                write_beside(out / part["file"], functools.partial(shutil.copyfile, pathlib.Path(scratch) / part["file"]))
            write_json(out / RESULTS, {"format": FORMAT, "files": parts})
        finally:
            _remove_unnamed(out)
    return said


def _remove_unnamed(out):
    """Removes parts that `results.json` does not name: those of before, or such as could not be written to the end."""
    try:
        named = {part["file"] for part in read_json(out / RESULTS)["files"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        named = ()
    for path in (*out.glob("results_*.bin"), *out.glob(".results_*.bin")):
        if path.name not in named:
            path.unlink()


def _chosen(runs, facts, room, said):
    """The files of weights that go, a dict from name to a list of paths."""
    chosen = {}
    for name, run in runs.items():
        if run.is_finished:
            result = run.result
            is_last = result["best_epoch"] == result["epochs"]
            chosen[name] = [run.folder / MODEL] + ([] if is_last else [run.folder / BEST])

    def size(paths):
        return sum(path.stat().st_size for path in paths)

    def total():
        return sum(map(size, chosen.values()))

    def largest_first():
        return sorted(chosen, key=lambda name: size(chosen[name]), reverse=True)

    for name in largest_first():
        if total() > room and _is_one_bit(runs[name].recipe):
            chosen[name] = [_compact(path, runs[name].recipe, facts) for path in chosen[name]]
            said.append(f"{name} goes as a compact file, for want of room")
    for name in largest_first():
        if total() > room and len(chosen[name]) > 1:
            del chosen[name][1]
            said.append(f"the best weights of {name} stay behind, for want of room")
    for name in largest_first():
        if total() > room:
            del chosen[name]
            said.append(f"the weights of {name} stay behind, for want of room")
    return chosen


def _is_one_bit(recipe):
    weight = schemes.get(recipe.scheme).weight
    return weight is not None and quantizers.get(weight).is_binary


def _compact(path, recipe, facts):
    target = path.with_suffix(SUFFIX)
    if not target.exists():
        save_compact(_network(recipe, facts, weights.read(path)), target, "float32")
    return target


def _network(recipe, facts, values):
    said = facts_from_dict(facts[recipe.dataset]["facts"])
    network = network_of(recipe, schemes.get(recipe.scheme), said)
    weights.assign(network, values)
    return network


def unpack(folder, runs):
    """Makes run folders of results.

    Args:
        folder: with the files that came back.
        runs: folder of the runs.

    Returns:
        Dict from the name of a run to the content of its `result.json`, or to a sentence that says why there is no run.

    Raises:
        ValueError: a file is missing or damaged, results of another version, or a run that is there already.
    """
    folder, runs = pathlib.Path(folder), pathlib.Path(runs)
    paths = _checked(folder)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        join(paths, scratch / "results.zip")
        with zipfile.ZipFile(scratch / "results.zip") as file:
            file.extractall(scratch / "found")
        found = scratch / "found"
        facts = read_json(found / "facts.json")
        came = sorted(path for path in found.iterdir() if path.is_dir())
        for path in came:
            if (runs / path.name).exists():
                raise ValueError(f"{runs / path.name} is there already; choose another --runs, or remove it")
        return {path.name: _folder(path, runs / path.name, facts, found / LOG) for path in came}


def _checked(folder):
    path = folder / RESULTS
    if not path.exists():
        raise ValueError(f"{folder} holds no results of a bundle: there is no {RESULTS}")
    said = read_json(path)
    if said.get("format") != FORMAT:
        raise ValueError(f"{path} has version {said.get('format')} of its format, this program reads version {FORMAT}")
    for part in said["files"]:
        if not (folder / part["file"]).exists():
            raise ValueError(f"{folder / part['file']} is missing, one of {len(said['files'])} files of results")
        if checksum(folder / part["file"]) != part["sha256"]:
            raise ValueError(f"{folder / part['file']} is damaged: its checksum is wrong; bring it once more")
    return [folder / part["file"] for part in said["files"]]


def _folder(came, target, facts, log):
    """The run's folder of what came of one run; its result, or a sentence."""
    source = Run(came)
    if (came / FAILED).exists():
        return f"failed: {(came / FAILED).read_text().strip()}"
    if not source.is_finished:
        return f"not finished: {source.finished_epochs} epochs"
    found = {path.stem: path for path in came.iterdir() if path.suffix in (".npz", SUFFIX)}
    if "model" not in found:
        return "its weights stayed behind, for want of room"
    recipe, run = source.recipe, Run(target)
    models = {name: _loaded(path, recipe, facts) for name, path in found.items()}
    run.write_recipe(recipe)
    shutil.copyfile(source.history_path, run.history_path)
    if log.exists():
        shutil.copyfile(log, run.folder / LOG)
    stored = facts[recipe.dataset]["stored"]
    data.write_stored(run.data_path, types.SimpleNamespace(stored=lambda: stored))
    write_beside(run.model_path, models["model"].save)
    # Where nothing else is said the last epoch was the best.
    write_beside(run.best_path, models.get("best", models["model"]).save)
    run.write_result(source.result)
    return source.result


def _loaded(path, recipe, facts):
    if path.suffix == SUFFIX:
        return load_compact(path)
    return _network(recipe, facts, weights.read(path))
