"""The camera app on this machine: its classes in a JVM with TFLite and the runtime for Android, its screen in Robolectric.

Everything is made below `build/android` and `.android`, and used again. `ACDBIT_ANDROID=full`, which `make test-android` sets,
takes real pictures and many of them, three versions of Android and the untrained pair of models; without it a part of each is
tested.
"""

import fcntl
import hashlib
import os
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "android_demo"
BUILD = ROOT / "build" / "android"
sys.path += [str(DEMO / "tools"), str(DEMO / "tests" / "native")]

import apk
import assets
import native
import packages
import shim

FULL = os.environ.get("ACDBIT_ANDROID") == "full"
PICTURES = 2000 if FULL else 200
SDKS = (24, 34, 35) if FULL else (34,)
JAVA_TESTS = DEMO / "tests" / "java"
ADD_OPENS = [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.io", "java.lang", "java.util", "java.net")]


def student():
    """Name of the app's model for CIFAR-10, whose pictures the tests show it."""
    from acdbit_keras.models.zoo import entries

    [name] = [name for name, _ in assets.chosen() if entries.card(name)["data"]["dataset"] == "cifar10"]
    return name


class Jvm:
    """The app's classes on the desktop's Java, with the libraries for Android on x86_64 behind a shim.

    Args:
        build: `apk.Build`.
    """

    def __init__(self, build):
        self._build = build
        self._shim = BUILD / "shim" / "x86_64"
        self._tests = BUILD / "classes" / "tests"
        fetched = build.fetched
        # Android last: it has classes of the same names as its libraries.
        self._path = [self._tests, *build.classes, *fetched.tflite(), *fetched.robolectric(), build.android]

    def compile(self):
        """Makes the shim and the tests' classes."""
        shim.build("gcc", "x86_64", self._shim, self._build.libraries("x86_64"))
        apk.compile_java([JAVA_TESTS], self._tests, self._path[1:])

    def run(self, main, *arguments, properties=None, android=False, heap="1g"):
        """Runs a class; returns what it printed.

        Args:
            main: name of the class.
            arguments: the program's.
            properties: dict of system properties.
            android: whether the class needs Robolectric.
            heap: of Java, fixed.
        """
        path = [str(part) for part in (self._path if android else self._path[:-1])]
        told = {"java.library.path": BUILD / "x86_64", **(properties or {})}
        command = [
            "java",
            f"-Xms{heap}",
            f"-Xmx{heap}",
            # Then whatever grows in the process is no memory of Java's.
            *(["-XX:+AlwaysPreTouch"] if heap == "256m" else []),
            *ADD_OPENS,
            *(f"-D{key}={value}" for key, value in told.items()),
            "-cp",
            ":".join(path),
            main,
            *map(str, arguments),
        ]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self._shim), "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
        # What TFLite logs would hide what a test says.
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-6000:] or done.stderr[-6000:]
        return done.stdout

    def junit(self, *classes, **options):
        """Runs test classes; returns how many tests passed and what they printed."""
        printed = self.run("org.junit.runner.JUnitCore", *classes, **options)
        return int(re.search(r"OK \((\d+) test", printed)[1]), printed

    def robolectric(self, *classes, sdks=SDKS, properties=None):
        """Runs test classes on versions of Android."""
        told = {
            "robolectric.offline": "true",
            "robolectric.dependency.dir": self._build.fetched.folder / "maven",
            "robolectric.enabledSdks": ",".join(map(str, sdks)),
            # Libraries are loaded once per process, so what calls them must be one class in all versions of Android.
            "org.robolectric.packagesToNotAcquire": "org.acdbit.classifier,org.tensorflow",
            **(properties or {}),
        }
        return self.junit(*classes, properties=told, android=True, heap="3g")


def once(name, make):
    """Makes something of the app's sources unless it is there; of several processes one makes it, and the others wait."""
    BUILD.mkdir(parents=True, exist_ok=True)
    stamp, sources = BUILD / f"{name}.made_from", hashlib.sha256(str(FULL).encode())
    folders = [DEMO, ROOT / "acdbit_keras", ROOT / "tests" / "android"]
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if "__pycache__" not in path.parts and path.suffix != ".so":
            sources.update(path.read_bytes())
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != sources.hexdigest():
            make()
            stamp.write_text(sources.hexdigest())


def pictures(count=PICTURES):
    """uint8 pictures `(count, 32, 32, 3)`: CIFAR-10's first test images in a full run, else scenes made of waves and discs."""
    if FULL:
        from acdbit_keras.models import data

        return np.asarray(data.arrays("cifar10", "test")[0][:count]).astype(np.uint8)
    random, grid = np.random.default_rng(3), np.mgrid[0:32, 0:32] / 32
    made = np.empty((count, 32, 32, 3))
    for picture in made:
        picture[:] = random.uniform(0, 255, 3)
        for _ in range(4):
            wave = np.sin(2 * np.pi * (np.tensordot(random.normal(0, 2, 2), grid, 1) + random.uniform()))
            picture += wave[..., None] * random.normal(0, 40, 3)
            disc = np.hypot(*(grid - random.uniform(0, 1, (2, 1, 1)))) < random.uniform(0.1, 0.4)
            picture[disc] = random.uniform(0, 255, 3)
    return np.clip(made + random.normal(0, 6, made.shape), 0, 255).astype(np.uint8)


def write_rgb(path, images):
    """Pictures as `org.acdbit.classifier.Batch` reads them."""
    with open(path, "wb") as file:
        for image in images:
            height, width, _ = image.shape
            file.write(struct.pack(">8i", width, height, 0, 0, 0, 0, -1, -1))
            file.write(struct.pack(">i", image.size) + image.tobytes())


def write_frame(file, luma, blue, red, rotation, padding, pixel):
    """One camera's picture, planes laid out with padding behind every row; with a pixel stride of 2 in shared memory."""
    height, width = luma.shape
    rows = np.full((height, width + padding), 99, np.uint8)
    rows[:, :width] = luma
    high, wide = blue.shape
    row = wide * pixel + padding
    if pixel == 2:
        # V first, as most phones have it.
        shared = np.full((high, row), 77, np.uint8)
        shared[:, 0 : 2 * wide : 2], shared[:, 1 : 2 * wide : 2] = red, blue
        chroma, places = shared.tobytes(), (1, 0)
    else:
        planes = np.full((2, high, row), 77, np.uint8)
        planes[:, :, :wide] = blue, red
        chroma, places = planes.tobytes(), (0, high * row)
    file.write(struct.pack(">8i", width, height, rotation, width + padding, row, pixel, *places))
    file.write(struct.pack(">i", rows.size) + rows.tobytes() + struct.pack(">i", len(chroma)) + chroma)


def read_batch(path, pixels, classes):
    """What `Batch` wrote: looked at `(n, pixels)`, logits `(n, classes)`."""
    values = np.fromfile(path, ">f4").astype(np.float32).reshape(-1, pixels + classes)
    return values[:, :pixels], values[:, pixels:]


def write_models(folder, bits, twin):
    """Models for the Java tests: the student and its twin, one that takes pixels, and four that are no good."""
    from acdbit_keras.convert import flatbuffer, to_tflite
    from acdbit_keras.models import from_zoo

    for name, path in (("bits", bits), ("float32", twin)):
        (folder / f"{name}.tflite").write_bytes(path.read_bytes())
    card = flatbuffer_card(bits)
    to_tflite(from_zoo(bits.name.split(".")[0]), folder / "uint8.tflite", card=card, input="uint8")
    (folder / "truncated.tflite").write_bytes(bits.read_bytes()[:100_000])

    model = flatbuffer.read(bits)
    model.metadata = []
    (folder / "no_card.tflite").write_bytes(flatbuffer.pack(model))
    model = flatbuffer.read(bits)
    for code in model.operatorCodes:
        if code.customCode is not None:
            code.customCode = "ForeignBlock"
    (folder / "unknown_op.tflite").write_bytes(flatbuffer.pack(model))
    model = flatbuffer.read(bits)
    [graph] = model.subgraphs
    tensor = graph.tensors[graph.inputs[0]]
    tensor.shape = tensor.shapeSignature = np.array([1, 32 * 32 * 3], np.int32)
    (folder / "no_picture.tflite").write_bytes(flatbuffer.pack(model))


def flatbuffer_card(path):
    """The card of a file."""
    from acdbit_keras.convert import flatbuffer, metadata

    return metadata.card(flatbuffer.read(path))


__all__ = ["BUILD", "DEMO", "FULL", "PICTURES", "ROOT", "SDKS", "Jvm", "apk", "assets", "native", "packages", "pictures"]
