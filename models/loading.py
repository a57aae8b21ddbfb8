"""Loading a trained backbone from a run's folder or a `.keras` file, with errors that say what is wrong."""

import pathlib
import zipfile

import keras


def load_model(path):
    """A model from a run's folder (`model.keras`, else `best.keras`) or a `.keras` file.

    Raises:
        ValueError: if there is no such file, it is truncated or no Keras file, or a class is unknown to the loader.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = [path / name for name in ("model.keras", "best.keras") if (path / name).exists()]
        if not found:
            raise ValueError(f"{path} holds no model.keras and no best.keras; it is not the folder of a run, or its first epoch is not over")
        path = found[0]
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .keras file, or is truncated: it is no complete zip archive")
    try:
        return keras.saving.load_model(path, compile=False)
    except TypeError as error:
        raise ValueError(f"{path} holds a class that is unknown to the loader: {_first_line(error)}") from error
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a complete .keras file: {_first_line(error)}") from error


def _first_line(error):
    return str(error).strip().splitlines()[0]
