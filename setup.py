"""Compiles the runtime (acdbit_keras/convert/runtime) and the training kernels (acdbit_keras/training); all else is in setup.cfg.

Without a C++ compiler the package installs all the same: it converts, but runs its files on Larq Compute Engine's interpreter
only, and it trains, but slowly. ACDBIT_PRESET names a preset of acdbit_keras/convert/runtime/CMakePresets.json to compile the
runtime alone for another machine, for instance `ACDBIT_PRESET=linux-arm64 pip wheel .`; ACDBIT_TRAINING_PRESET one of
acdbit_keras/training/CMakePresets.json. `make wheels` builds all wheels of a release so.
"""

import os
import pathlib
import platform
import re
import shutil
import struct
import subprocess
import sys
import warnings

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Of an editable installation setuptools warns that a folder here is named like the package, which it is.
warnings.filterwarnings("ignore", "Editable installation")

ROOT = pathlib.Path(__file__).parent.resolve()
# The folder of each library's sources and of itself, its name, and the variable that names its preset.
LIBRARIES = {
    "acdbit_keras/convert/runtime": ("acdbit_runtime", "ACDBIT_PRESET"),
    "acdbit_keras/training": ("acdbit_training", "ACDBIT_TRAINING_PRESET"),
}
PRESETS = {name: os.environ.get(variable) for name, variable in LIBRARIES.values()}
if PRESETS["acdbit_runtime"] and not PRESETS["acdbit_training"]:
    del LIBRARIES["acdbit_keras/training"]  # nobody trains on what is cross-compiled for
# Beside where the library would be: why it is not there. most pips show warnings of a build that succeeds to nobody.
REASON = "not_compiled.txt"
MACHINES = {62: "x86_64", 183: "aarch64", 40: "armv7l"}  # ELF's numbers
MANYLINUX = (2, 17)


class BuildLibraries(build_ext):
    """Runs CMake instead of Python's compiler; a failure is told, noted in the package, and forgiven."""

    def run(self):
        if not sys.platform.startswith("linux"):
            self.warn("acdbit-keras: the compiled libraries are for Linux; the package is installed without them.")
            return
        super().run()

    def build_extension(self, extension):
        sources, name = ROOT / pathlib.Path(*extension.name.split(".")[:-1]), extension.name.split(".")[-1]
        build = pathlib.Path(self.build_temp).resolve() / name
        shutil.rmtree(build, ignore_errors=True)  # an older one refers to tools of a build environment that is gone
        target = pathlib.Path(self.get_ext_fullpath(extension.name))
        target.unlink(missing_ok=True)
        target.with_name(REASON).unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = ["--preset", PRESETS[name]] if PRESETS[name] else ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
        try:
            _run(sources, "cmake", "-S", sources, "-B", build, *kind)
            _run(sources, "cmake", "--build", build, "--target", name)
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(f"acdbit-keras: {_reason(error, name)}; the package is installed without lib{name}.so.")
            target.with_name(REASON).write_text(_reason(error, name))
            return
        shutil.copyfile(build / target.name, target)

    def get_ext_filename(self, name):
        # No suffix of a Python version: this is no extension module.
        *folders, library = name.split(".")
        return os.path.join(*folders, f"lib{library}.so")


class Wheel(bdist_wheel):
    """Tags the wheel by the libraries in it: any Python, the machine they are for, and the glibc they need."""

    def get_tag(self):
        found = [path.read_bytes() for path in pathlib.Path(self.bdist_dir).rglob("libacdbit_*.so")]
        return ("py3", "none", _platform_tag(found) if found else "any")


def _platform_tag(libraries):
    [number] = struct.unpack("<H", libraries[0][18:20])
    machine = MACHINES.get(number, platform.machine())
    versions = (version for library in libraries for version in re.findall(rb"GLIBC_(\d+)\.(\d+)", library))
    needed = max((int(major), int(minor)) for major, minor in versions)
    return f"manylinux_2_17_{machine}" if needed <= MANYLINUX else f"linux_{machine}"


def _run(folder, *command):
    subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True, text=True)


def _reason(error, name):
    if isinstance(error, OSError):
        return f"{error.filename or 'cmake'} cannot be run ({error.strerror})"
    lines = [line.strip() for line in (error.stderr + error.stdout).splitlines() if line.strip()]
    for variable, language, example in (("CMAKE_CXX_COMPILER", "C++", "g++"), ("CMAKE_C_COMPILER", "C", "gcc")):
        if any(f"No {variable} could be found" in line or f"{variable} not set" in line for line in lines):
            return f"there is no {language} compiler (install one, such as {example})"
    at = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
    # CMake gives a place of its own on one line and what happened there on the next ones.
    said = " ".join(lines[at + 1 : at + 4] if lines[at : at + 1] and lines[at].endswith("(message):") else lines[at : at + 1])
    return f"compiling {name} failed ({said or 'no reason given'})"


setup(
    ext_modules=[
        Extension(f"{folder.replace('/', '.')}.{name}", sources=[], optional=True) for folder, (name, _) in LIBRARIES.items()
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
)
