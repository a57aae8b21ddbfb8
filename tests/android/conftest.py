"""The app, built once for all tests of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

import harness
from harness import apk, packages


@pytest.fixture(scope="session")
def build():
    fetched = packages.Packages()

    def fetch():
        packages.install({**packages.BUILD_PACKAGES, **packages.TEST_PACKAGES})
        for get in (fetched.aapt2, fetched.tflite, fetched.robolectric, *([fetched.more_sdks] if harness.FULL else [])):
            get()

    harness.once("packages", fetch)
    return apk.Build(harness.BUILD, fetched)


@pytest.fixture(scope="session")
def signed(build):
    """Path of the signed APK; in a full run with the untrained pair of models."""
    harness.once("apk", lambda: build.apk(untrained=harness.FULL))
    return harness.BUILD / "acdbit-demo.apk"


@pytest.fixture(scope="session")
def jvm(build, signed):
    jvm = harness.Jvm(build)
    harness.once("jvm", jvm.compile)
    return jvm


@pytest.fixture(scope="session")
def student(signed):
    """Paths of the CIFAR-10 student's file and of its float twin's."""
    folder = harness.BUILD / "assets" / "models"
    return [folder / f"{harness.student()}.{kind}.tflite" for kind in ("bits", "float32")]


@pytest.fixture(scope="session")
def files(student, tmp_path_factory):
    """A folder of models, good and bad, under the names that the Java tests know."""
    folder = tmp_path_factory.mktemp("models")
    harness.write_models(folder, *student)
    return folder
