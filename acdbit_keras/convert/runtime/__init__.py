"""Where the compiled runtime is: ``libacdbit_runtime.so``, the TFLite delegate that executes the custom ops.

`pip install` compiles it into this folder if there is a C++ compiler. It is an ordinary external delegate, so
``load_delegate(library_path())`` gives it to any LiteRT interpreter; `acdbit_keras.convert.Interpreter` does that itself.
"""

import ctypes
import functools
import os
import pathlib
import platform
import struct
import sys

from acdbit_keras.version import __version__

LIBRARY = "libacdbit_runtime.so"
REASON = "not_compiled.txt"  # written by the package's installation where it could not compile the library
# Path of a library to take instead, such as one built with sanitizers.
VARIABLE = "ACDBIT_RUNTIME"

_MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l", 3: "i386"}  # ELF's numbers


class RuntimeMissingError(ImportError):
    """The compiled runtime is not there, or is for another machine."""


def library_path():
    """Path of the runtime's shared library.

    Returns:
        str.

    Raises:
        RuntimeMissingError: there is none (the message says where it was looked for and how to build it), or it is
            built for another architecture.
    """
    path = os.environ.get(VARIABLE) or str(pathlib.Path(__file__).with_name(LIBRARY))
    if not os.path.isfile(path):
        installed = None if os.environ.get(VARIABLE) else _installed_library()
        if installed is None:
            note = pathlib.Path(path).with_name(REASON)
            reason = f", for {note.read_text().strip()}" if note.is_file() else ""
            raise RuntimeMissingError(
                f"the compiled runtime is not at {path}{reason}; install a C++ compiler (such as g++) and run `pip install .` in"
                " the acdbit-keras folder again to build it"
            )
        path = installed
    machine, here = _machine(path), this_machine()
    if machine != here:
        raise RuntimeMissingError(
            f"{path} is built for {machine}, this Python for {here}; install the wheel for {here}, or run `pip install .` in the"
            " acdbit-keras folder here to build it"
        )
    return path


@functools.cache
def this_machine():
    """What this Python is built for, such as "aarch64": under a 64-bit kernel it may be a 32-bit one, "armv7l"."""
    try:
        machine = _machine(sys.executable or "")
    except OSError:
        return platform.machine()
    return machine if machine in _MACHINES.values() else platform.machine()


def _installed_library():
    """Path of the library of the installed package, for a Python that was started in a clone and so imports the clone.

    `None` where the package is not installed, or without a library.

    Raises:
        RuntimeMissingError: what is installed is of another version.
    """
    import importlib.metadata

    try:
        distribution = importlib.metadata.distribution("acdbit-keras")
    except importlib.metadata.PackageNotFoundError:
        return None
    library = distribution.locate_file(f"acdbit_keras/convert/runtime/{LIBRARY}")
    if not os.path.isfile(library):
        return None
    if distribution.version != __version__:
        raise RuntimeMissingError(
            f"this acdbit-keras ({pathlib.Path(__file__).parents[2]}) is of version {__version__} and has no compiled runtime, "
            f"the installed one is of version {distribution.version}; run `pip install .` in the acdbit-keras folder again"
        )
    return str(library)


def is_installed():
    """Whether there is a runtime for this machine."""
    try:
        library_path()
    except RuntimeMissingError:
        return False
    return True


def version():
    """Version of the compiled runtime, a str such as "0.2.0"."""
    return _library(library_path()).acdbit_version().decode()


def kernel_path():
    """Name of the kernels taken by default: the best, or what the environment variable ACDBIT_KERNELS says.

    Raises:
        ValueError: it says what this CPU cannot run.
    """
    name = _library(library_path()).acdbit_kernel_path().decode()
    if not name:
        raise ValueError(last_error())
    return name


def kernel_paths():
    """Names of all kernels this CPU can run, best first, such as `("avx2", "portable")`; "portable" always is the last."""
    return tuple(_library(library_path()).acdbit_kernel_paths().decode().split(","))


def last_error():
    """The last sentence that the delegate reported in this thread, "" if none since the last delegate was created."""
    return _library(library_path()).acdbit_last_error().decode(errors="replace")


@functools.cache
def flat_library():
    """The runtime as a `ctypes.CDLL` whose functions for flat files (`acdbit_model.h`) are declared.

    Raises:
        RuntimeMissingError: as `library_path`, or the library has no such functions.
    """
    path = library_path()
    library = _library(path)
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    try:
        for name, result, arguments in (
            ("acdbit_model_check", text, [pointer, size]),
            ("acdbit_model_info", None, [pointer]),
            ("acdbit_model_memory", size, [pointer]),
            ("acdbit_model_prepare", text, [pointer, pointer, size]),
            ("acdbit_model_run", None, [pointer] * 4),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        raise RuntimeMissingError(
            f"{path} is of an older acdbit-keras, without the engine for flat files; run `pip install .` in the acdbit-keras"
            " folder again to build it"
        ) from None
    return library


@functools.cache
def _library(path):
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise RuntimeMissingError(f"{path} cannot be loaded: {error}") from error
    for name in ("acdbit_version", "acdbit_kernel_path", "acdbit_kernel_paths", "acdbit_last_error"):
        try:
            getattr(library, name).restype = ctypes.c_char_p
        except AttributeError:
            raise RuntimeMissingError(f"{path} is not the runtime of acdbit-keras: it lacks {name}") from None
    return library


def _machine(path):
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return "no machine (it is not an ELF library)"
    order = "<" if header[5] == 1 else ">"
    [number] = struct.unpack(f"{order}H", header[18:20])
    if header[4] == 2:
        # Loading a library whose end is missing kills the process. Its section headers stand last.
        [place], (width, count) = struct.unpack(f"{order}Q", header[40:48]), struct.unpack(f"{order}HH", header[58:62])
        if place + width * count > size:
            return "no machine (its end is missing)"
    return _MACHINES.get(number, f"ELF machine {number}")
