"""Files of the package's own: written so that an interruption never leaves half of one, JSON in one form."""

import json
import os
import pathlib
import re
import socket


def write_beside(path, write):
    """Writes a file under a temporary name of the same suffix and renames it, so that `path` is never half-written.

    Args:
        path: the file.
        write: called with the temporary path.

    Raises:
        OSError: naming the file and the reason; an older file at `path` is untouched.
    """
    path = pathlib.Path(path)
    remove_leftovers(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}@{socket.gethostname()}{path.suffix}")
    try:
        write(temporary)
        # On the disk before the name moves: a power cut must not leave an empty file under the final name.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}; what was there before is kept") from error
    finally:
        if temporary.exists():
            temporary.unlink()


# The process that writes beside a file, and the machine that it runs on.
_WRITER = re.compile(r"\.(?P<stem>.+)\.(?P<process>\d+)(?:@(?P<host>[^/]+?))?(?P<suffix>\.[A-Za-z]\w*)?")


def remove_leftovers(path):
    """Removes what killed writes of a file left beside it: temporary files of processes of this machine that are gone."""
    path = pathlib.Path(path)
    for found in path.parent.glob(f".{_literal(path.stem)}.*"):
        match = _WRITER.fullmatch(found.name)
        ours = match and (match["stem"], match["suffix"] or "") == (path.stem, path.suffix)
        if ours and match["host"] in (None, socket.gethostname()) and not is_running(int(match["process"])):
            found.unlink(missing_ok=True)


def is_running(process):
    """Whether a process of this machine, by its number, still runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _literal(name):
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def writable(path):
    """The path as a str, where a file can be written there.

    Raises:
        OSError: there is no such folder, it is not writable, or the path is a folder's.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write {path}: the folder {folder} is not writable")
    return path


def write_text(path, text):
    """Writes a text file, ended by a newline, whole or not at all.

    Raises:
        OSError: as `write_beside`.
    """
    write_beside(path, lambda temporary: temporary.write_text(text if text.endswith("\n") else f"{text}\n"))


def write_json(path, value):
    """Writes a value of plain types as JSON that people can read, whole or not at all.

    Raises:
        OSError: as `write_beside`.
    """
    write_text(path, json.dumps(value, indent=1))


def read_json(path):
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; names the file.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
