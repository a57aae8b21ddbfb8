"""From a name to a dataset. A dataset may be named by

- a name of `names()`: those of the catalog, those that were given to `register`, those of plug-ins;
- a folder of class folders, or one of `train/` and `test/` (or `val/`, `validation/`), each of class folders;
- a `.csv` file of path,label or path,label,split;
- an `.npz` file of images and labels;
- `tfds:NAME`, or the bare NAME, of any dataset that TensorFlow Datasets has prepared in the data folder;
- a run's folder, or the `data.json` in it: the data that the run was trained on, as it found them.

Behind all but the first and last, options may stand in brackets: `"./my_images[holdout=0.1,flip=false]"`.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from acdbit_keras.models.data import catalog, storage
from acdbit_keras.models.data.base import Options, Source, check_split
from acdbit_keras.models.data.catalog import DatasetInfo
from acdbit_keras.models.data.own_arrays import Absent, ArrayFile, Arrays
from acdbit_keras.models.data.pictures import Pictures
from acdbit_keras.models.data.prepared import Known, Measured
from acdbit_keras.registry import Registry, unknown
from acdbit_keras.typing import Path

# A name, a place (folder, .csv, .npz, run), the facts about a dataset, or a source itself.
DatasetLike: TypeAlias = str | os.PathLike[str] | DatasetInfo | Source
_Dataset = TypeVar("_Dataset", DatasetInfo, Source)

# In a run's folder: what was found of data that no name stands for.
STORED = "data.json"
_FORMAT = 1
_TFDS = "tfds:"

registry = Registry(
    "dataset",
    (DatasetInfo, Source),
    own=catalog.DATASETS,
    attribute="DATASET",
    group="acdbit.datasets",
    without="[@:/\\",
)

# The last sources that names were resolved to, for `normalize`, which must not look at a disk for every batch.
_resolved = {}

# A comparison of schemes loads the same data once per scheme; decoding CIFAR takes seconds, holding it 180 MB.
_HELD = 4
_held = collections.OrderedDict()


def names() -> tuple[str, ...]:
    """The names of the known datasets, in the catalog's order; those of others behind them."""
    own = [facts.name for facts in catalog.DATASETS]
    return (*own, *(name for name in registry.names() if name not in own))


def register(dataset: _Dataset) -> _Dataset:
    """Makes a dataset known under its name, wherever one is named, until the process ends; returns it.

    To have it in every process, the command line's too, name it in the entry points of a package of your own:

        [project.entry-points."acdbit.datasets"]
        mine = "my_package.my_module:DATASET"

    Args:
        dataset: the `DatasetInfo` of a dataset of TensorFlow Datasets, or a `Source`, as `from_arrays` makes one.

    Raises:
        ValueError: neither of these, or another dataset has that name.
    """
    if isinstance(dataset, DatasetInfo) and dataset.tfds_name is None:
        raise ValueError(f"the dataset {dataset.name!r} must have a tfds_name; arrays are registered as from_arrays makes them")
    return registry.register(dataset)


def source(dataset: DatasetLike, data_dir: Path | None = None) -> Source:
    """The `Source` behind a dataset's name.

    Args:
        dataset: any name that the module's docstring lists, a `DatasetInfo`, or a `Source`, which is returned as it is.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        ValueError: for a name that is none, listing the known ones and the nearest.
    """
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, DatasetInfo):
        return Known(dataset, data_dir)
    name = os.fspath(dataset) if isinstance(dataset, os.PathLike) else dataset
    found = _find(name, data_dir)
    if registry.find(name) is None:
        _resolved[name] = found
    return found


def _find(name, data_dir):
    known = registry.find(name)
    if known is not None:
        return source(known, data_dir)
    if not isinstance(name, str) or not name.strip():
        raise unknown("dataset", name, names())
    place, options = name, Options()
    if name.endswith("]") and "[" in name and not pathlib.Path(name).exists():
        place, _, brackets = name[:-1].rpartition("[")
        options = Options.parse(brackets)
    if place.startswith(_TFDS):
        return Measured(place.removeprefix(_TFDS), data_dir, options)
    path = pathlib.Path(place)
    if path.is_dir():
        if (path / STORED).exists():
            return read_stored(path / STORED, data_dir)
        return Pictures("folder", path, options)
    if path.is_file():
        if path.suffix == ".csv":
            return Pictures("csv", path, options)
        if path.suffix == ".npz":
            return ArrayFile(path, options)
        if path.name == STORED:
            return read_stored(path, data_dir)
        raise ValueError(f"{place} is no dataset: it must be a folder, a .csv, a .npz or a {STORED}")
    if _looks_like_a_path(place):
        raise ValueError(f"there is no folder or file {place}")
    if storage.newest(place, _folder(data_dir)):
        return Measured(place, data_dir, options)
    raise unknown("dataset", name, names())


def _looks_like_a_path(place):
    path = pathlib.Path(place)
    return path.suffix in (".csv", ".npz", ".json") or path.is_absolute() or place.startswith((".", "~")) or place.endswith("/")


def _folder(data_dir):
    try:
        return storage.resolve_data_dir(data_dir)
    except ValueError:
        # Of a folder that is none it is told where something is to be read from it.
        return pathlib.Path(os.devnull)


def short_name(dataset: DatasetLike) -> str:
    """How results and run folders call a dataset, known without looking at it: text without blanks and slashes.

    Args:
        dataset: what `source` takes.
    """
    if isinstance(dataset, (Source, DatasetInfo)):
        name = dataset.name
    else:
        place = str(dataset)
        place = place[:-1].rpartition("[")[0] if place.endswith("]") and "[" in place else place
        path = pathlib.Path(place)
        if place.startswith(_TFDS) or registry.find(place) is not None:
            name = place.removeprefix(_TFDS)
        elif path.name == STORED or (path / STORED).exists():
            name = read_stored(path if path.name == STORED else path / STORED).name
        else:
            name = path.stem if path.suffix in (".csv", ".npz") else path.resolve().name
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)


def write_stored(path: Path, found: Source) -> None:
    """Writes what a source says of itself, if it is one that no name stands for.

    Args:
        path: where the file is to be, by convention `STORED` in a run's folder.
        found: `Source`.
    """
    from acdbit_keras.files import write_beside

    said = found.stored()
    if said is not None:
        content = json.dumps({"format": _FORMAT, **said}, indent=1) + "\n"
        write_beside(path, lambda temporary: temporary.write_text(content))


def read_stored(path: Path, data_dir: Path | None = None) -> Source:
    """The source that a run stored.

    Args:
        path: the file that `write_stored` wrote.
        data_dir: folder of the prepared datasets; default: the one that the run was trained from.

    Raises:
        ValueError: not such a file, or one of a newer version.
    """
    try:
        said = json.loads(pathlib.Path(path).read_text())
        version, kind, where, options = said["format"], said["kind"], said["where"], Options(**said["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say which data a run was trained on: {error}") from None
    if version > _FORMAT:
        raise ValueError(f"{path} has version {version} of its format, this program reads version {_FORMAT}; update it")
    if kind in ("folder", "csv"):
        return Pictures(kind, where, options, said)
    if kind == "npz":
        if not pathlib.Path(where).exists():
            return Absent({**said, "where": where})
        return _unchanged(ArrayFile(where, options), said)
    if kind == "tfds":
        return Measured(where, said["data_dir"] if data_dir is None else data_dir, options, said)
    registered = registry.find(where)
    return _unchanged(registered, said) if isinstance(registered, Arrays) else Absent(said)


def _unchanged(arrays, said):
    if arrays.stored()["digest"] != said["digest"]:
        raise ValueError(f"the arrays {arrays.name!r} are not those that the run was trained on")
    return arrays


def info(dataset: DatasetLike, data_dir: Path | None = None) -> DatasetInfo:
    """The `DatasetInfo` of a dataset; for one of your own its pictures are looked at.

    Args:
        dataset: what `source` takes.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        ValueError: if the name is not known, or what it names is no dataset.
    """
    return source(dataset, data_dir).info()


def class_names(dataset: DatasetLike, data_dir: Path | None = None) -> tuple[str, ...]:
    """The names of the classes in label order.

    Args:
        dataset: what `source` takes.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        ValueError: as `info`; or the names come with prepared data and the dataset is not prepared.
    """
    return source(dataset, data_dir).class_names()


def normalize(images: npt.ArrayLike, dataset: DatasetLike) -> np.ndarray:
    """Normalises images as the training pipelines do.

    Args:
        images: (..., height, width, channels), of sequences (..., steps, channels), values 0 to 255, uint8 or float.
        dataset: the dataset whose constants are used, what `source` takes.

    Returns:
        float32 array of the same shape.

    Raises:
        ValueError: if the name is not known or the number of channels is not the dataset's.
    """
    found = dataset if isinstance(dataset, Source) else _resolved.get(str(dataset))
    facts = (found or source(dataset)).info()
    images = np.asarray(images, "float32")
    if images.ndim < len(facts.shape) or images.shape[-1] != facts.channels:
        sides = "steps" if facts.sequence else "height, width"
        raise ValueError(
            f"images of shape {images.shape} cannot be normalised for {facts.name}: "
            f"the shape must be (..., {sides}, {facts.channels})."
        )
    return catalog.standardize(images, facts)


def prepare(dataset: str, data_dir: Path | None = None) -> pathlib.Path | None:
    """Downloads a known dataset and writes it in the TensorFlow Datasets format; see `storage.prepare`.

    Args:
        dataset: a name of `names`.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The folder of the prepared dataset, or None for a dataset that needs no preparation.

    Raises:
        ValueError: if the name is not known, the folder cannot be created, or an archive is missing or broken.
        OSError: if the download or the writing fails; what was written so far is never taken for a prepared dataset.
    """
    found = registry.get(dataset)
    return storage.prepare(found, data_dir) if isinstance(found, DatasetInfo) else None


def arrays(dataset: DatasetLike, split: str, data_dir: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole split into memory.

    Args:
        dataset: a dataset whose images share one size, what `source` takes.
        split: "train" or "test".
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        Images (N, image_size, image_size, channels) uint8 and labels (N,) int32; read-only, shared between calls.

    Raises:
        ValueError: if the dataset or split is not known, not prepared or unreadable, or its image sizes vary.
    """
    found = source(dataset, data_dir)
    check_split(split)
    facts = found.info()
    if facts.varying_size:
        raise ValueError(f"dataset={found.name!r} has images of varying sizes, arrays can only read those of one size.")
    return held(found, split, facts.image_size)


def held(found, split, image_size):
    """A split of a source in memory, read once for several callers."""
    found.check()
    key = (found.key(), split, None if isinstance(found, (Known, Arrays)) else image_size)
    if key not in _held:
        images, labels = found.read(split, image_size)
        for array in (images, labels):
            array.flags.writeable = False
        _held[key] = images, labels
    _held.move_to_end(key)
    while len(_held) > _HELD:
        _held.popitem(last=False)
    return _held[key]
