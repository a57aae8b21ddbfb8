"""Compiles the runtime (acdbit_keras/convert/runtime) with the package; all else is in setup.cfg.

Without a C++ compiler the package installs all the same and converts, but runs its files on Larq Compute Engine's
interpreter only. ACDBIT_PRESET names a preset of acdbit_keras/convert/runtime/CMakePresets.json to cross-compile, for instance
`ACDBIT_PRESET=linux-arm64 pip wheel .`.
"""

import os
import pathlib
import platform
import re
import shutil
import struct
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = pathlib.Path(__file__).parent.resolve() / "acdbit_keras" / "convert" / "runtime"
LIBRARY = "libacdbit_runtime.so"
# Beside where the library would be: why it is not there. pip shows warnings of a build that succeeds to nobody.
REASON = "not_compiled.txt"
MACHINES = {62: "x86_64", 183: "aarch64"}  # ELF's numbers
MANYLINUX = (2, 17)


class BuildRuntime(build_ext):
    """Runs CMake instead of Python's compiler; a failure is told, noted in the package, and forgiven."""

    def run(self):
        if not sys.platform.startswith("linux"):
            self.warn("acdbit-keras: the compiled runtime is for Linux; the package is installed without it.")
            return
        super().run()

    def build_extension(self, extension):
        build = pathlib.Path(self.build_temp).resolve() / "runtime"
        shutil.rmtree(build, ignore_errors=True)  # an older one refers to tools of a build environment that is gone
        preset = os.environ.get("ACDBIT_PRESET")
        target = pathlib.Path(self.get_ext_fullpath(extension.name))
        target.unlink(missing_ok=True)
        target.with_name(REASON).unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = ["--preset", preset] if preset else ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
        try:
            _run("cmake", "-S", SOURCES, "-B", build, *kind)
            _run("cmake", "--build", build, "--target", "acdbit_runtime")
        except (OSError, subprocess.CalledProcessError) as error:
            self.warn(f"acdbit-keras: {_reason(error)}; the package is installed without its compiled runtime.")
            target.with_name(REASON).write_text(_reason(error))
            return
        shutil.copyfile(build / LIBRARY, target)

    def get_ext_filename(self, name):
        # No suffix of a Python version: this is no extension module.
        return os.path.join(*name.split(".")[:-1], LIBRARY)


class Wheel(bdist_wheel):
    """Tags the wheel by the library in it: any Python, the machine it is for, and the glibc it needs."""

    def get_tag(self):
        found = list(pathlib.Path(self.bdist_dir).rglob(LIBRARY))
        return ("py3", "none", _platform_tag(found[0].read_bytes()) if found else "any")


def _platform_tag(library):
    [number] = struct.unpack("<H", library[18:20])
    machine = MACHINES.get(number, platform.machine())
    needed = max((int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", library))
    return f"manylinux_2_17_{machine}" if needed <= MANYLINUX else f"linux_{machine}"


def _run(*command):
    subprocess.run([str(part) for part in command], cwd=SOURCES, check=True, capture_output=True, text=True)


def _reason(error):
    if isinstance(error, OSError):
        return f"{error.filename or 'cmake'} cannot be run ({error.strerror})"
    lines = [line.strip() for line in (error.stderr + error.stdout).splitlines() if line.strip()]
    for variable, language, example in (("CMAKE_CXX_COMPILER", "C++", "g++"), ("CMAKE_C_COMPILER", "C", "gcc")):
        if any(f"No {variable} could be found" in line or f"{variable} not set" in line for line in lines):
            return f"there is no {language} compiler (install one, such as {example})"
    at = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
    # CMake gives a place of its own on one line and what happened there on the next ones.
    said = " ".join(lines[at + 1 : at + 4] if lines[at : at + 1] and lines[at].endswith("(message):") else lines[at : at + 1])
    return f"compiling the runtime failed ({said or 'no reason given'})"


setup(
    ext_modules=[Extension("acdbit_keras.convert.runtime.acdbit_runtime", sources=[], optional=True)],
    cmdclass={"build_ext": BuildRuntime, "bdist_wheel": Wheel},
)
