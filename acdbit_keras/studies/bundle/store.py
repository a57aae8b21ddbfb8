"""A dataset in files: its images coded by `pixels`, its labels and what else is to be known of it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib

import numpy as np

from acdbit_keras.files import read_json, write_beside, write_json
from acdbit_keras.models.data.base import SPLITS, facts_from_dict, facts_to_dict
from acdbit_keras.studies.bundle import pixels

HEADER, FACTS, DECODED = "header.npz", "facts.json", "decoded.npz"


def write(folder, found):
    """Writes a dataset.

    Args:
        folder: where the files are to be; made.
        found: `Source` whose images are held in memory.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    found.check()
    facts = found.info()
    splits = {split: found.read(split, facts.image_size) for split in SPLITS}
    with _workers(1) as workers:
        images = np.concatenate([images for images, _ in splits.values()])
        header, chunks = workers.submit(pixels.encode, images).result()
    header |= {f"{split}_labels": labels.astype(np.int32) for split, (_, labels) in splits.items()}
    with (folder / HEADER).open("wb") as file:
        np.savez_compressed(file, **header)
    for index, content in enumerate(chunks):
        (folder / _chunk(index)).write_bytes(content)
    write_json(folder / FACTS, {"facts": facts_to_dict(facts), "stored": found.stored()})


def read(folder):
    """The images and labels of both splits; decoded once and kept beside what was brought.

    Args:
        folder: what `write` made.

    Returns:
        `(facts, splits)`: the `DatasetInfo`, and a dict from split to (images uint8, labels int32).

    Raises:
        ValueError: damaged images.
    """
    folder = pathlib.Path(folder)
    facts = facts_from_dict(read_json(folder / FACTS)["facts"])
    with np.load(folder / HEADER) as file:
        header = dict(file)
    if (folder / DECODED).exists():
        with np.load(folder / DECODED) as file:
            images = file["images"]
    else:
        contents = [path.read_bytes() for path in sorted(folder.glob(_chunk("*")), key=_index)]
        with _workers(min(len(contents), os.cpu_count() or 1)) as workers:
            decoded = [workers.submit(pixels.decode, header, index, content) for index, content in enumerate(contents)]
            images = np.concatenate([each.result() for each in decoded])
        write_beside(folder / DECODED, lambda path: np.savez(path, images=images))
    labels = {split: header[f"{split}_labels"] for split in SPLITS}
    first = len(labels["train"])
    return facts, {"train": (images[:first], labels["train"]), "test": (images[first:], labels["test"])}


def _chunk(index):
    return f"images_{index}.bin"


def _index(path):
    return int(path.stem.rpartition("_")[2])


@contextlib.contextmanager
def _workers(count):
    """Processes with one thread each for linear algebra, whose threads would wait for each other in small products."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        with concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as workers:
            yield workers
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
