"""The libraries and the model out of the signed APK on an emulated arm64 processor, with pages of 4 and of 16 KiB."""

import subprocess
import zipfile

import harness
import numpy as np
import pytest
import shim

from acdbit_keras.convert import Interpreter, cards

PICTURES = 100 if harness.FULL else 8
SYSROOT = "/usr/aarch64-linux-gnu"


@pytest.fixture(scope="module")
def phone(signed, tmp_path_factory):
    """A folder with what an arm64 phone would take out of the APK, and a program that calls it."""
    folder = tmp_path_factory.mktemp("phone")
    names = ("libtensorflowlite_jni.so", "libacdbit_runtime.so")
    with zipfile.ZipFile(signed) as archive:
        for name in names:
            (folder / name).write_bytes(archive.read(f"lib/arm64-v8a/{name}"))
        (folder / "model.tflite").write_bytes(archive.read(f"assets/models/{harness.student()}.bits.tflite"))
    shim.build("aarch64-linux-gnu-gcc", "aarch64", folder / "shim", [folder / name for name in names])
    source = harness.DEMO / "tests" / "native" / "classify.c"
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-o", folder / "classify", source, "-ldl"], check=True)
    return folder


@pytest.fixture(scope="module")
def expected(phone):
    """The logits of Python on this machine, `(n, 10)`."""
    interpreter = Interpreter(phone / "model.tflite")
    offset, factor = cards.normalisation(interpreter.card)
    images = (harness.pictures(harness.PICTURES)[:PICTURES] - offset) * factor
    images.astype(np.float32).tofile(phone / "images")
    return interpreter.predict(images)


@pytest.mark.parametrize("page", [4096, 16384])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_phone_gives_the_classes_that_python_gives(phone, expected, page, threads):
    command = [
        "qemu-aarch64",
        "-cpu",
        "cortex-a72",
        "-p",
        page,
        "-L",
        SYSROOT,
        "-E",
        f"LD_LIBRARY_PATH={phone / 'shim'}:{SYSROOT}/lib",
    ]
    command += [phone / "classify", phone / "libtensorflowlite_jni.so", phone / "libacdbit_runtime.so", phone / "model.tflite"]
    command += [threads, phone / "images", phone / "logits"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"TFLite 2.16.1, kernels neon, pages of {page} bytes" in done.stdout
    logits = np.fromfile(phone / "logits", np.float32).reshape(-1, 10)
    assert len(logits) == PICTURES
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
