"""The runtime's own tests in C++: every instruction set of this CPU against scalar references, bit for bit."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RUNTIME = REPOSITORY / "acdbit_keras" / "convert" / "runtime"
sys.path.append(str(REPOSITORY / "tests" / "arm64"))

from userland import install_host_packages

TESTS = sorted(path.stem for path in (RUNTIME / "tests").glob("*_test.cc"))


@pytest.fixture(scope="module")
def build():
    install_host_packages("g++", "cmake", "ninja", "/usr/src/googletest/CMakeLists.txt")
    folder = REPOSITORY / "build" / "runtime-tests"
    configure = ["cmake", "-S", RUNTIME, "-B", folder, "-G", "Ninja", "-DACDBIT_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", folder, "--parallel", str(os.cpu_count()), "--target", *TESTS]):
        process = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.returncode == 0, process.stdout[-4000:]
    return folder


@pytest.mark.parametrize("name", TESTS)
def test_cpp(build, name):
    process = subprocess.run([build / name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode == 0, process.stdout[-4000:]
    assert re.search(r"\[  PASSED  \] [1-9]", process.stdout)
