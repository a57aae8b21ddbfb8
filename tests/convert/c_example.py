"""examples/c/classify.c on a machine of choice, against TensorFlow's C library from the npm package tfjs-tflite-node."""

import pathlib
import subprocess
import tarfile
import zipfile

import numpy as np
from PIL import Image

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "c"
RUNTIME = REPOSITORY / "acdbit_keras" / "convert" / "runtime"
PACKAGE = "tfjs-tflite-node@0.0.2"  # TensorFlow 2.9, the oldest ABI that the runtime supports
MACHINES = {"x86_64": "linux_amd64", "aarch64": "linux_arm64"}


def call(*command, **options):
    process = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, **options
    )
    assert process.returncode == 0, process.stdout[-4000:]
    return process.stdout


def tensorflow(folder, machine):
    """Unpacks TensorFlow's headers and C library into a folder; returns (folder of the headers, library)."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, timeout=300)
    [archive] = folder.glob("*.tgz")
    wanted = ("package/cc_deps/include/", f"package/cc_deps/{MACHINES[machine]}/libtensorflowlite_c.so")
    with tarfile.open(archive) as content:
        content.extractall(folder, [m for m in content if m.isfile() and m.name.startswith(wanted)], filter="data")
    return folder / "package" / "cc_deps" / "include", folder / wanted[1]


def compile_example(folder, runtime_build, machine, *options):
    """The program, linked with the runtime that a build folder installs beside it; returns (program, folders of libraries)."""
    headers, library = tensorflow(folder / "tensorflow", machine)
    prefix = folder / "prefix"
    call("cmake", "--install", runtime_build, "--prefix", prefix)
    [package] = prefix.rglob("acdbit_runtimeConfig.cmake")
    # By its folder: a toolchain looks for packages below its root alone.
    found = [f"-Dacdbit_runtime_DIR={package.parent}", f"-DTFLITE_INCLUDE={headers}", f"-DTFLITE_LIBRARY={library}"]
    call(
        "cmake",
        "-S",
        EXAMPLE,
        "-B",
        folder / "build",
        "-G",
        "Ninja",
        "-DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=BOTH",
        *found,
        *options,
    )
    call("cmake", "--build", folder / "build")
    [runtime] = prefix.rglob("libacdbit_runtime.so")
    return folder / "build" / "classify", [runtime.parent, library.parent]


def write_inputs(folder, file, pictures):
    """The labels that travel in a file, and pictures (height, width, 3 or 1) as PPM and PGM; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.txt"
    labels.write_bytes(zipfile.ZipFile(file).read("labels.txt"))
    paths = []
    for index, pixels in enumerate(pictures):
        paths.append(folder / f"{index}.ppm")
        Image.fromarray(pixels.squeeze()).save(paths[-1], "PPM")
    return labels, paths


def pictures(channels, count=6):
    """Smooth random pictures: as large as a model's, larger in both directions, and smaller."""
    rng = np.random.default_rng(3)
    for size in [(32, 32), (120, 80), (64, 200), (20, 24)][:count]:
        pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        yield np.array(image.convert("L"))[..., None] if channels == 1 else np.array(image)
