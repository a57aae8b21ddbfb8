"""Makes a bundle: code, wheels, recipes, weights of teachers and data in parts, beside `run.py` and `bundle.json`."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
import zipfile

import keras

from acdbit_keras import checks, schemes
from acdbit_keras.distillation import LabelDistillation
from acdbit_keras.files import write_json
from acdbit_keras.models import data, recipes, sizes, views
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.data.augmentation import Augmentation, resolve
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import network_of, terms_of
from acdbit_keras.models.zoo.entries import from_zoo, zoo_names
from acdbit_keras.models.zoo.transfer import copy_body
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

    What a recipe needs - its teacher, its teacher of labels, what it starts from - goes along as it is where it is a file, a
    model of the zoo or a finished run, and is trained first where it is another recipe, or one that is asked for as well.

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
    chosen, needs, carried = _with_needs(list(wanted), runs)
    sources = {recipe.dataset: data.source(recipe.dataset, data_dir) for recipe in chosen}
    for recipe in chosen:
        _check(recipe, sources[recipe.dataset])
    networks = {name: _loaded(place, "cannot take along") for name, place in carried.items()}
    starts = _starts(chosen, needs, networks, sources)
    _check_classes(chosen, needs, networks, sources)
    for recipe in chosen:
        if recipe.label_teacher:
            views.check(recipe.label_teacher, sources[recipe.dataset].info())
    datasets = {dataset: f"{index}_{data.short_name(dataset)}" for index, dataset in enumerate(sources)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        scratch = pathlib.Path(scratch)
        content, made = scratch / "content", scratch / "made"
        _copy_code(content / "code" / "acdbit_keras")
        say(f"wheels for Python {python} on {machine}")
        wheels.download(content / "wheels", python, machine)
        (content / "carried").mkdir()
        files = {}
        for name, network in {**networks, **starts}.items():
            files[name] = f"{len(files)}.npz"
            values = {key: keras.ops.convert_to_numpy(variable) for key, variable in weights.named(network).items()}
            weights.write(content / "carried" / files[name], values)
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
            "needs": needs,
            "carried": files,
            "networks": {name: _described(network) for name, network in networks.items()},
        }
        shutil.copyfile(script.__file__, made / "run.py")
        write_json(made / "bundle.json", bundle)
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    return bundle


# What a recipe may need, as its fields and `bundle.json` call it.
TEACHER, LABEL_TEACHER, START = "teacher", "label_teacher", "start"


def _with_needs(wanted, runs):
    """What is to be trained and what goes along.

    Returns:
        The recipes, each behind those that it needs; dict from recipe's name to dict from what it needs - `TEACHER`,
        `LABEL_TEACHER`, `START` - to its name; and dict from names of those needed that are not recipes of the bundle to where
        they are found, what `_loaded` takes.
    """
    if not wanted:
        raise ValueError("a bundle needs at least one recipe")
    chosen, needs, carried, begun = {}, {}, {}, []
    by_name = {recipe.name: recipe for recipe in wanted}

    def found(name):
        """The name under which it is in the bundle; looked for where `acdbit train` does."""
        if pathlib.Path(name).exists() or name in zoo_names() or not recipes.is_one(name):
            carried[name] = name
            return name
        return of(recipes.get(name))

    def of(recipe):
        run = Run(runs / recipe.name)
        if recipe.name not in by_name and run.is_finished:
            carried[recipe.name] = run.folder
        else:
            add(by_name.get(recipe.name, recipe))
        return recipe.name

    def add(recipe):
        if recipe.name in chosen:
            return
        if recipe.name in begun:
            raise ValueError(f"{' needs '.join([*begun[begun.index(recipe.name) :], recipe.name])}; none can be trained first")
        begun.append(recipe.name)
        own = needs[recipe.name] = {}
        terms = terms_of(recipe, schemes.get(recipe.scheme))
        if recipe.start:
            own[START] = found(recipe.start)
        if recipe.label_teacher:
            if not any(isinstance(term, LabelDistillation) for term in terms):
                raise ValueError(
                    f"{recipe.name} has label_teacher={recipe.label_teacher}, which has nothing to teach: no label term"
                )
            own[LABEL_TEACHER] = found(recipe.label_teacher)
        if recipe.teacher and terms and not (recipe.label_teacher and all(isinstance(t, LabelDistillation) for t in terms)):
            own[TEACHER] = of(recipes.get(recipe.teacher))
        begun.remove(recipe.name)
        chosen[recipe.name] = recipe

    for recipe in wanted:
        add(recipe)
    return list(chosen.values()), needs, carried


def _loaded(place, otherwise):
    """The trained network of a folder, a file or a name of the zoo.

    Raises:
        ValueError: there is none; the sentence begins with `otherwise`.
    """
    try:
        in_zoo = not pathlib.Path(place).exists() and place in zoo_names()
        network = from_zoo(place) if in_zoo else load_model(place)
    except (ValueError, OSError) as error:
        raise ValueError(f"{otherwise} {place}: {error}") from error
    if not isinstance(network, Backbone):
        # Whose weights have other names, and whose layers may not be known there.
        raise ValueError(f"{otherwise} {place}: it is a {type(network).__name__}, and a bundle takes networks of this package")
    return network


def _starts(chosen, needs, networks, sources):
    """The networks that begin from what goes along, as they begin: dict from `"start of NAME"`, which becomes their need."""
    made = {}
    for recipe in chosen:
        own = needs[recipe.name]
        if own.get(START) not in networks:
            continue
        keras.utils.set_random_seed(recipe.seed)
        network = network_of(recipe, schemes.get(recipe.scheme), sources[recipe.dataset].info())
        try:
            copy_body(networks[own[START]], network)
        except ValueError as error:
            raise ValueError(f"{recipe.name} cannot start from {own[START]}: {error}") from error
        own[START] = f"start of {recipe.name}"
        made[own[START]] = network
    # Of those that are only begun from nothing but these weights go along.
    for name in set(networks) - {name for own in needs.values() for name in own.values()}:
        del networks[name]
    return made


def _check_classes(chosen, needs, networks, sources):
    """
    Raises:
        ValueError: a teacher of another class count than its student, or one that is called as a recipe is.
    """
    for name in networks.keys() & needs.keys():
        raise ValueError(f"{name} is a recipe of this bundle and a trained model that teaches in it; name the file of the model")
    classes = {recipe.name: sources[recipe.dataset].info().classes for recipe in chosen}
    known = classes | {name: network.classes for name, network in networks.items()}
    for student, own in needs.items():
        for kind in (TEACHER, LABEL_TEACHER):
            if (count := known.get(own.get(kind), classes[student])) != classes[student]:
                raise ValueError(
                    f"{student} has {classes[student]} classes, its {kind.replace('_', ' ')} {own[kind]} has {count}"
                )


def _described(network):
    """What `work` makes an untrained network of the same kind of."""
    return keras.saving.serialize_keras_object(network)


def _check(recipe, found):
    """
    Raises:
        ValueError: if a recipe cannot be trained from a bundle.
    """
    name, scheme, facts = recipe.name, schemes.get(recipe.scheme), found.info()
    if scheme.post_training:
        raise ValueError(f"{name} is calibrated from its teacher, not trained; a bundle trains")
    if len(scheme.schedule(max(recipe.epochs, 10))) > 1:
        raise ValueError(f"{name} trains in stages, as the scheme {scheme.name!r} has it; a bundle trains recipes of one stage")
    if scheme.precision == "float16" or recipe.mixed_precision == "float16":
        raise ValueError(f"{name} trains in float16, which needs its loss scaled; a bundle trains in float32 or bfloat16")
    if recipe.freeze:
        raise ValueError(f"{name} has freeze=True; a bundle trains all of a network")
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
