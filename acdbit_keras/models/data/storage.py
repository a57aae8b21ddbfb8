"""Prepared data on disk: preparing it, finding it, reading it into arrays."""

import functools
import os
import pathlib
import zipfile

import numpy as np

from acdbit_keras.checks import validate_arrays
from acdbit_keras.models.data import catalog

SPLITS = ("train", "test")
_ENVIRONMENT = "ACDBIT_DATA_DIR"
_IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def resolve_data_dir(data_dir=None):
    """The folder of the prepared datasets: the argument, or $ACDBIT_DATA_DIR, or ~/tensorflow_datasets.

    Raises:
        ValueError: if a folder is named, by argument or environment, that is no folder.
    """
    source = "data_dir" if data_dir is not None else f"${_ENVIRONMENT}"
    chosen = data_dir if data_dir is not None else os.environ.get(_ENVIRONMENT)
    if chosen is None:
        return pathlib.Path.home() / "tensorflow_datasets"
    if not str(chosen).strip() or not pathlib.Path(chosen).is_dir():
        raise ValueError(f"{source}={str(chosen)!r} is not a folder; it must be the folder of the prepared datasets.")
    return pathlib.Path(chosen)


def prepare(name, data_dir=None):
    """Downloads a dataset and writes it in the TensorFlow Datasets format; does nothing where that is done already.

    TinyImageNet is read from `DATA_DIR/downloads/manual/tiny-imagenet-200.zip` where that file exists and downloaded
    otherwise. ImageNet may not be downloaded by programs: its two archives must lie in that folder.

    Args:
        name: a known dataset.
        data_dir: folder to write to, created where missing; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The folder of the prepared dataset, or None for a dataset that needs no preparation.

    Raises:
        ValueError: if the name is not known, the folder cannot be created, or an archive is missing or broken.
        OSError: if the download or the writing fails; what was written so far is never taken for a prepared dataset.
    """
    facts = catalog.info(name)
    if facts.tfds_name is None:
        return None
    if data_dir is not None and str(data_dir).strip():
        try:
            pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"data_dir={str(data_dir)!r} cannot be created: {error.strerror}.") from error
    folder = resolve_data_dir(data_dir)

    import tensorflow_datasets as tfds

    manual = folder / "downloads" / "manual"
    if name == "tiny_imagenet":
        from acdbit_keras.models.data.tiny_imagenet import ARCHIVE, TinyImagenet

        archive = manual / ARCHIVE
        if archive.exists() and not zipfile.is_zipfile(archive):
            raise ValueError(f"{archive} is not a complete zip file; get it anew.")
        builder = TinyImagenet(data_dir=str(folder), archive=str(archive) if archive.exists() else None)
    else:
        builder = tfds.builder(facts.tfds_name, data_dir=str(folder))
    if builder.is_prepared():
        return pathlib.Path(builder.data_dir)
    if name == "imagenet2012":
        for archive in _IMAGENET_ARCHIVES:
            if not (manual / archive).is_file():
                raise ValueError(f"{manual / archive} is missing; download it from image-net.org to that place.")
    config = tfds.download.DownloadConfig(manual_dir=str(manual) if manual.is_dir() else None)
    try:
        builder.download_and_prepare(download_config=config)
    except OSError as error:
        raise OSError(f"dataset={name!r} could not be prepared in {folder}: {error}") from error
    return pathlib.Path(builder.data_dir)


def prepared_builder(name, data_dir=None):
    """The TensorFlow Datasets builder that reads a prepared dataset; never downloads.

    Raises:
        ValueError: if the dataset is not prepared, or is prepared in part.
    """
    facts = catalog.info(name)
    folder = resolve_data_dir(data_dir)
    versions = {
        tuple(int(part) for part in path.parent.name.split(".")): path.parent
        for path in (folder / facts.tfds_name).glob("*/dataset_info.json")
        # Folders of interrupted preparations have other names.
        if path.parent.name.replace(".", "").isdigit()
    }
    command = f"acdbit data prepare {name} --data-dir {folder}"
    if not versions:
        raise ValueError(f"dataset={name!r} is not prepared in {folder}; prepare it with: {command}")

    import tensorflow_datasets as tfds

    newest = versions[max(versions)]
    builder = tfds.builder_from_directory(str(newest))
    for split, expected in (("train", facts.train_examples), (facts.test_split, facts.test_examples)):
        count = builder.info.splits[split].num_examples if split in builder.info.splits else 0
        if count != expected:
            raise ValueError(
                f"dataset={name!r} in {newest} holds {count} images in {split!r} instead of {expected}; "
                f"remove that folder and prepare it again with: {command}"
            )
    return builder


def tfds_split(name, split):
    """The TensorFlow Datasets split behind "train" or "test".

    Raises:
        ValueError: if the split is neither.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not known, it must be one of {', '.join(SPLITS)}.")
    return catalog.info(name).test_split if split == "test" else "train"


def arrays(name, split, data_dir=None):
    """Reads a whole split into memory.

    Args:
        name: a known dataset whose images share one size.
        split: "train" or "test".
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        Images (N, image_size, image_size, channels) uint8 and labels (N,) int32; read-only, shared between calls.

    Raises:
        ValueError: if the dataset or split is not known, not prepared or unreadable, or its image sizes vary.
    """
    facts = catalog.info(name)
    tfds_split(name, split)
    if facts.varying_size:
        raise ValueError(f"dataset={name!r} has images of varying sizes, arrays can only read those of one size.")
    folder = None if facts.tfds_name is None else str(resolve_data_dir(data_dir).resolve())
    return _read(name, split, folder)


# A comparison of schemes loads the same data once per scheme; decoding CIFAR takes seconds, holding it 180 MB.
@functools.lru_cache(maxsize=4)
def _read(name, split, data_dir):
    facts = catalog.info(name)
    images, labels = _read_digits(split) if facts.tfds_name is None else _read_prepared(name, split, data_dir)
    expected = (facts.image_size, facts.image_size, facts.channels)
    if images.shape[1:] != expected:
        raise ValueError(f"dataset={name!r} holds images of shape {images.shape[1:]} instead of {expected}.")
    validate_arrays(images, labels, facts.classes)
    for array in (images, labels):
        array.flags.writeable = False
    return images, labels


def _read_digits(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Pixels count 0 to 16 dots. Every fifth image of each class is for testing.
    images = np.rint(digits.images[..., None] * (255 / 16)).astype("uint8")
    labels = digits.target.astype("int32")
    testing = np.zeros(len(labels), bool)
    for digit in range(10):
        testing[np.flatnonzero(labels == digit)[4::5]] = True
    chosen = testing if split == "test" else ~testing
    return images[chosen], labels[chosen]


def _read_prepared(name, split, data_dir):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = prepared_builder(name, data_dir)
    count = builder.info.splits[tfds_split(name, split)].num_examples
    facts = catalog.info(name)
    images = np.empty((count, facts.image_size, facts.image_size, facts.channels), "uint8")
    labels = np.empty(count, "int32")
    try:
        dataset = builder.as_dataset(split=tfds_split(name, split), batch_size=1000, shuffle_files=False)
        filled = 0
        for batch in tfds.as_numpy(dataset):
            size = len(batch["label"])
            images[filled : filled + size] = batch["image"]
            labels[filled : filled + size] = batch["label"]
            filled += size
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise ValueError(
            f"dataset={name!r} in {builder.data_dir} cannot be read ({type(error).__name__}); "
            f"remove that folder and prepare it again with: acdbit data prepare {name} --data-dir {data_dir}"
        ) from error
    if filled != count:
        raise ValueError(f"dataset={name!r} in {builder.data_dir} ends after {filled} of {count} images.")
    return images, labels


def class_names(name, data_dir=None):
    """The names of the classes in label order.

    Raises:
        ValueError: if the names come with the prepared data and the dataset is not prepared.
    """
    facts = catalog.info(name)
    if facts.class_names is not None:
        return facts.class_names
    return tuple(prepared_builder(name, data_dir).info.features["label"].names)
