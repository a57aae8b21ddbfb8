"""Makes a bundle: code, wheels, recipes, weights of teachers and data in parts, beside `run.py` and `bundle.json`."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
import zipfile

from acdbit_keras import checks, schemes
from acdbit_keras.files import write_json
from acdbit_keras.models import data, recipes, sizes
from acdbit_keras.models.data.augmentation import Augmentation, resolve
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import terms_of
from acdbit_keras.studies.bundle import run as script
from acdbit_keras.studies.bundle import store, weights, wheels
from acdbit_keras.version import __version__

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent.parent
# What is not needed there.
_LEFT_OUT = ("cli", "convert")
_MEGABYTE = 1 << 20
# The fields of an `Augmentation` that are carried out on the device.
AUGMENTED = {"shift", "fill", "flip", "crop_area", "mixup", "cutmix", "erasing"}


def pack(wanted, out, minutes=9.0, part_mb=48, python="3.12", machine="x86_64", runs="runs", data_dir=None, say=print):
    """Makes a bundle.

    A teacher that is not among the recipes goes along as it is where its run is finished, and is trained first where it is not.

    Args:
        wanted: recipes, at least one.
        out: folder of the bundle, which must not be there, or be one of another bundle.
        minutes: budget of `run.py`, all told; default 9.
        part_mb: largest size of a part in MiB; default 48.
        python: version of the other machine's Python; default "3.12".
        machine: its processor, one of `wheels.MACHINES`; default "x86_64".
        runs: folder of runs, where finished teachers are found.
        data_dir: where the datasets are prepared.
        say: called with progress lines.

    Returns:
        The content of `bundle.json`.

    Raises:
        ValueError: a budget or a size that is none, a recipe that cannot be trained there (which, is said), a folder in use.
        OSError: something cannot be written.
    """
    out, runs = pathlib.Path(out), pathlib.Path(runs)
    if not minutes > 0:
        raise ValueError(f"minutes must be a positive number, not {minutes:g}")
    checks.integer("part_mb", part_mb, 1)
    checks.choice("machine", machine, wheels.MACHINES)
    if out.exists() and any(out.iterdir()) and not (out / "bundle.json").exists():
        raise ValueError(f"{out} holds something else than a bundle; choose another --out")
    chosen, teachers, carried = _with_teachers(list(wanted), runs)
    sources = {recipe.dataset: data.source(recipe.dataset, data_dir) for recipe in chosen}
    for recipe in chosen:
        _check(recipe, sources[recipe.dataset])
    datasets = {dataset: f"{index}_{data.short_name(dataset)}" for index, dataset in enumerate(sources)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        scratch = pathlib.Path(scratch)
        content, made = scratch / "content", scratch / "made"
        _copy_code(content / "code" / "acdbit_keras")
        say(f"wheels for Python {python} on {machine}")
        wheels.download(content / "wheels", python, machine)
        for name, found in carried.items():
            (content / "teachers").mkdir(exist_ok=True)
            network = load_model(found.folder)
            values = {key: variable.numpy() for key, variable in weights.named(network).items()}
            weights.write(content / "teachers" / f"{name}.npz", values)
        for dataset, folder in datasets.items():
            say(f"{dataset}, coded without loss")
            store.write(content / "data" / folder, sources[dataset])
        archive = scratch / "content.zip"
        _zip(content, archive)
        made.mkdir()
        parts = script.split(archive, made, "part", part_mb * _MEGABYTE)
        names = [path.name for path in sorted((content / "wheels").iterdir())]
        bundle = {
            "format": script.FORMAT,
            "id": script.checksum(archive)[:12],
            "version": __version__,
            "python": python,
            "machine": machine,
            "minutes": minutes,
            "parts": parts,
            "wheels": {name: wheels.PACKAGES[wheels.name_of(name)] for name in names},
            "datasets": datasets,
            "recipes": [recipe.to_dict() for recipe in chosen],
            "teachers": teachers,
            "carried": {name: found.recipe.to_dict() for name, found in carried.items()},
        }
        shutil.copyfile(script.__file__, made / "run.py")
        write_json(made / "bundle.json", bundle)
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    return bundle


def _with_teachers(wanted, runs):
    """The recipes, teachers before their students; dicts from student to teacher's name, and from name to carried `Run`."""
    if not wanted:
        raise ValueError("a bundle needs at least one recipe")
    chosen, teachers, carried = {}, {}, {}
    by_name = {recipe.name: recipe for recipe in wanted}

    def add(recipe):
        if recipe.name in chosen:
            return
        if recipe.teacher and terms_of(recipe, schemes.get(recipe.scheme)):
            teacher = recipes.get(recipe.teacher)
            teacher = by_name.get(teacher.name, teacher)
            found = Run(runs / teacher.name)
            if teacher.name not in by_name and found.is_finished:
                carried[teacher.name] = found
            else:
                add(teacher)
            teachers[recipe.name] = teacher.name
        chosen[recipe.name] = recipe

    for recipe in wanted:
        add(recipe)
    return list(chosen.values()), teachers, carried


def _check(recipe, found):
    """
    Raises:
        ValueError: if a recipe cannot be trained from a bundle.
    """
    name, scheme, facts = recipe.name, schemes.get(recipe.scheme), found.info()
    if recipe.label_teacher:
        raise ValueError(f"{name} has label_teacher={recipe.label_teacher}; in a bundle a student has one teacher")
    if recipe.statistics_batches:
        raise ValueError(f"{name} measures statistics before validation, which a bundle does not; add --set statistics_batches=0")
    if scheme.post_training:
        raise ValueError(f"{name} is calibrated from its teacher, not trained; a bundle trains")
    if len(scheme.schedule(max(recipe.epochs, 10))) > 1:
        raise ValueError(f"{name} trains in stages, as the scheme {scheme.name!r} has it; a bundle trains recipes of one stage")
    if scheme.precision == "float16" or recipe.mixed_precision == "float16":
        raise ValueError(f"{name} trains in float16, which needs its loss scaled; a bundle trains in float32 or bfloat16")
    for field in ("start", "freeze"):
        if getattr(recipe, field, None):
            raise ValueError(f"{name} has {field}={getattr(recipe, field)!r}; a bundle trains from random weights")
    # A scheme itself goes along; a name must be known there.
    named = recipe.scheme.partition("[")[0] if isinstance(recipe.scheme, str) else None
    for kind, own, asked in (("preset", sizes.registry.own(), recipe.preset), ("scheme", schemes.registry.own(), named)):
        if asked is not None and asked not in own:
            raise ValueError(f"{name} needs the {kind} {asked!r}, which is not part of acdbit-keras and does not go along")
    if facts.sequence:
        raise ValueError(f"{name} trains on the recordings of {facts.name}; a bundle takes images")
    if facts.varying_size or found.is_streamed(facts.image_size):
        raise ValueError(f"{name} reads the images of {facts.name} in every epoch; a bundle takes images that fit into memory")
    augmentation = resolve(recipe.augment, facts)
    for field in dataclasses.fields(Augmentation):
        value = getattr(augmentation, field.name)
        if field.name not in AUGMENTED and value != field.default:
            raise ValueError(
                f"{name} augments with {field.name}={value:g}, which a bundle does not do; "
                f'--set "augment={recipe.augment.partition("[")[0]}[{field.name}=0]" leaves it out'
            )


def _copy_code(target):
    for path in sorted(_PACKAGE.rglob("*.py")):
        place = path.relative_to(_PACKAGE)
        if place.parts[0] not in _LEFT_OUT:
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)


def _zip(folder, archive):
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                kind = zipfile.ZIP_DEFLATED if path.suffix in (".py", ".json") else zipfile.ZIP_STORED
                file.write(path, path.relative_to(folder).as_posix(), kind)
