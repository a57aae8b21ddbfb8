"""Prepared data on disk: preparing it and finding it."""

import os
import pathlib
import zipfile

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


def prepare(facts, data_dir=None):
    """Downloads a dataset and writes it in the TensorFlow Datasets format; does nothing where that is done already.

    TinyImageNet is read from `DATA_DIR/downloads/manual/tiny-imagenet-200.zip` where that file exists and downloaded
    otherwise. ImageNet may not be downloaded by programs: its two archives must lie in that folder.

    Args:
        facts: `DatasetInfo` of a dataset.
        data_dir: folder to write to, created where missing; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The folder of the prepared dataset, or None for a dataset that needs no preparation.

    Raises:
        ValueError: if the folder cannot be created, or an archive is missing or broken.
        OSError: if the download or the writing fails; what was written so far is never taken for a prepared dataset.
    """
    if facts.tfds_name is None:
        return None
    name = facts.name
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


def newest(tfds_name, folder):
    """The folder of the newest prepared version of a dataset of TensorFlow Datasets, None if there is none."""
    versions = {
        tuple(int(part) for part in path.parent.name.split(".")): path.parent
        for path in (pathlib.Path(folder) / tfds_name).glob("*/dataset_info.json")
        # Folders of interrupted preparations have other names.
        if path.parent.name.replace(".", "").isdigit()
    }
    return versions[max(versions)] if versions else None


def prepared_builder(facts, data_dir=None):
    """The TensorFlow Datasets builder that reads a prepared dataset; never downloads.

    Raises:
        ValueError: if the dataset is not prepared, or is prepared in part.
    """
    folder = resolve_data_dir(data_dir)
    found = newest(facts.tfds_name, folder)
    command = f"acdbit data prepare {facts.name} --data-dir {folder}"
    if found is None:
        raise ValueError(f"dataset={facts.name!r} is not prepared in {folder}; prepare it with: {command}")

    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(found))
    for split, expected in (("train", facts.train_examples), (facts.test_split, facts.test_examples)):
        count = builder.info.splits[split].num_examples if split in builder.info.splits else 0
        if count != expected:
            raise ValueError(
                f"dataset={facts.name!r} in {found} holds {count} images in {split!r} instead of {expected}; "
                f"remove that folder and prepare it again with: {command}"
            )
    return builder
