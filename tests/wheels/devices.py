"""What a device does with its wheel: it installs it and classifies, natively and under emulation. `make test-wheels`."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "arm64")]

from userland import Userland

from acdbit_keras.convert import Interpreter

MOST_SECONDS, MOST_MEGABYTES = 1.0, 120


def classes(printed):
    """The classes in the lines of `acdbit watch --json`."""
    return [json.loads(line)["classes"][0]["name"] for line in printed.splitlines()]


def test_auditwheel_agrees_with_the_tag(built, machine):
    command = ["auditwheel", "show", built[machine]]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f'"manylinux_2_17_{machine}"' in " ".join(told.split())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_what_the_device_extra_asks_for_is_there_for_every_python(built, machine, python, tmp_path):
    tags = ["manylinux_2_17", "manylinux2014", "manylinux_2_27", "manylinux_2_28", "manylinux_2_34"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--target", tmp_path, "--only-binary=:all:"]
    command += ["--implementation=cp", f"--python-version={python}", *(f"--platform={tag}_{machine}" for tag in tags)]
    subprocess.run([*command, f"{built[machine]}[device]"], check=True, capture_output=True)


def test_a_bare_environment_answers_within_a_second_of_processor_time_in_120_megabytes(built, work, tmp_path):
    folder, expected = work
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = dict(check=True, cwd=folder, env=bare, stdout=subprocess.PIPE, text=True)
    python, acdbit = (tmp_path / "bin" / name for name in ("python", "acdbit"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path], **options)
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{built['x86_64']}[device]"], **options)
    watch = [acdbit, "watch", "model.tflite", "--folder", "pictures", "--json"]
    assert classes(subprocess.run(watch, **options).stdout) == expected
    code = "from acdbit_keras.convert import Interpreter; from PIL import Image; import numpy, sys"
    code += "; print(Interpreter('model.tflite').classify(numpy.asarray(Image.open('pictures/0.png')))[0].name)"
    code += "; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    process = subprocess.Popen([python, "-c", code], cwd=folder, env=bare, stdout=subprocess.PIPE, text=True)
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0 and told.strip() == expected[0]
    seconds, megabytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3
    print(f"first answer: {seconds:.2f} s of processor time, {megabytes:.0f} MB")
    assert seconds < MOST_SECONDS and megabytes < MOST_MEGABYTES


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_a_64_bit_pi_installs_the_wheel_and_watches(built, work, tmp_path, python):
    folder, expected = work
    userland = Userland(python=python)
    userland.setup()
    userland.install(tmp_path, f"{built['aarch64']}[device]")
    watch = ["-m", "acdbit_keras.cli", "watch", "model.tflite", "--folder", "pictures", "--json"]
    environment = {"PYTHONPATH": str(tmp_path)}
    process = userland.run("python", *watch, cwd=folder, environment=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert classes(process.stdout) == expected


def test_a_32_bit_pi_runs_flat_files_and_says_so_of_others(built, work, tmp_path):
    folder, _ = work
    userland = Userland(machine="armv7l")
    userland.setup()
    userland.install(tmp_path, "--no-deps", built["armv7l"])
    interpreter = Interpreter(folder / "model.acdm")
    expected = [interpreter.classify(np.asarray(Image.open(path)), 1)[0].name for path in sorted((folder / "pictures").iterdir())]
    libraries = userland.root / "usr/lib/arm-linux-gnueabihf"  # Debian's installation would have linked these
    environment = {"PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": f"{libraries}/blas:{libraries}/lapack"}
    options = dict(cwd=folder, environment=environment, capture_output=True, text=True)
    watch = ["-m", "acdbit_keras.cli", "watch"]
    process = userland.run("python", *watch, "model.acdm", "--folder", "pictures", "--json", **options)
    assert process.returncode == 0, process.stderr
    assert classes(process.stdout) == expected
    process = userland.run("python", *watch, "model.tflite", "--folder", "pictures", **options)
    assert process.returncode == 2
    assert process.stderr.strip().endswith(
        "there is no LiteRT for .tflite files on 32-bit ARM; flat files run here: acdbit convert RUN out.acdm"
    )


def test_a_wheel_for_another_machine_says_so(built, work, tmp_path):
    folder, _ = work
    with zipfile.ZipFile(built["aarch64"]) as archive:
        archive.extractall(tmp_path)
    code = "import acdbit_keras.convert.runtime as runtime; runtime.library_path()"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    assert process.returncode == 1
    assert "is built for aarch64, this Python for x86_64; install the wheel for x86_64" in process.stderr.splitlines()[-1]
