"""Writing files so that an interruption never leaves half of one."""

import os
import pathlib


def write_beside(path, write):
    """Writes a file under a temporary name of the same suffix and renames it, so that `path` is never half-written.

    Args:
        path: the file.
        write: called with the temporary path.

    Raises:
        OSError: naming the file and the reason; an older file at `path` is untouched.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
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
