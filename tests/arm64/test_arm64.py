"""The runtime on arm64, under emulation: its C++ tests, its files in the stock interpreter, and its instruction counts.

The userland is made in `.arm64` at the repository's root the first time (userland.py), which needs Debian and root.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from acdbit_keras import device_ops as ops
from acdbit_keras.convert.interpreter import start_engine

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "convert")]

import c_example
import runtime_models
import test_runtime_convolution
from userland import Userland

RUNTIME = HERE.parents[1] / "acdbit_keras" / "convert" / "runtime"
CPP_TESTS = sorted(path.stem for path in (RUNTIME / "tests").glob("*_test.cc"))
CONVOLUTIONS = 300
F32 = np.float32

# Executed instructions at 196 tokens, 384 channels and 6 heads may not exceed these.
MOST_INSTRUCTIONS = {
    "xor_popcount 196x384x384": 800_000,
    "quantize 196x384": 100_000,
    "attention_keys frozen": 100_000,
    "attention_rows frozen": 1_600_000,
    "block_project frozen": 3_700_000,
    "block_finish frozen": 11_000_000,
    "block_mix frozen": 650_000,
    "block_mix depthwise": 900_000,
}


@pytest.fixture(scope="module")
def userland():
    userland = Userland()
    userland.setup()
    return userland


@pytest.fixture(scope="module")
def build(userland):
    """Folder of the cross build, with the library, the tests and the benchmark that is counted."""
    folder = userland.folder / "build"
    configure = ["cmake", "-S", RUNTIME, "-B", folder, "-G", "Ninja", "-DACDBIT_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={RUNTIME / 'cmake' / 'linux-arm64.cmake'}"
    targets = ["acdbit_runtime", "instructions_bench", *CPP_TESTS]
    for command in (
        [*configure, toolchain],
        ["cmake", "--build", folder, "--parallel", str(os.cpu_count()), "--target", *targets],
    ):
        process = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.returncode == 0, process.stdout[-4000:]
    return folder


@pytest.mark.parametrize("name", CPP_TESTS)
def test_cpp(userland, build, name):
    process = userland.run(build / name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode == 0, process.stdout[-4000:]
    assert re.search(r"\[  PASSED  \] [1-9]", process.stdout)


def test_library_runs_on_any_distribution(build):
    """No libstdc++, and no symbol newer than glibc 2.17."""
    readelf = ["aarch64-linux-gnu-readelf", "--wide", "--dynamic", "--dyn-syms", str(build / "libacdbit_runtime.so")]
    text = subprocess.run(readelf, check=True, stdout=subprocess.PIPE, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", text))
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1"}
    versions = {tuple(map(int, version.split("."))) for version in re.findall(r"@GLIBC_([0-9.]+)", text)}
    assert versions and max(versions) <= (2, 17)


def test_the_c_example_gives_python_s_classes(userland, build, tmp_path):
    from acdbit_keras.convert import Interpreter
    from acdbit_keras.studies import zoo

    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={RUNTIME / 'cmake' / 'linux-arm64.cmake'}"
    program, libraries = c_example.compile_example(tmp_path, build, "aarch64", toolchain)
    file = tmp_path / "model.tflite"
    file.write_bytes(pathlib.Path(zoo.converted("cifar10_vit_micro_acd_bit", tmp_path, input="uint8")).read_bytes())
    pictures = list(c_example.pictures(3))
    labels, paths = c_example.write_inputs(tmp_path / "inputs", file, pictures)
    interpreter = Interpreter(file)
    # qemu looks for what is not below its root in the host's folders.
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    for pixels, path in zip(pictures, paths):
        process = userland.run(program, file, labels, path, environment=environment, stdout=subprocess.PIPE, text=True)
        assert process.returncode == 0
        assert process.stdout.rsplit(" ", 1)[0] == interpreter.classify(pixels, 1)[0].name


def attention(rng, rule, key_bias, dynamic, heads=3, head_dim=64, queries=37, keys=70):
    """An AcdBinaryAttention on its own, and its inputs."""
    graph = runtime_models.Graph()
    words = heads * head_dim // 32
    tensors = {
        name: graph.input((1, count, words), "int32") for name, count in (("query", queries), ("key", keys), ("value", keys))
    }
    constants = {"score_scale": rng.uniform(0.05, 0.3, heads)}
    constants["key_weights"] = rng.normal(size=heads * head_dim) * 0.05
    constants["value_scale"] = rng.uniform(0.5, 1, heads * head_dim)
    constants["value_offset"] = rng.normal(size=heads * head_dim)
    constants["probability_scale"] = rng.uniform(0.01, 0.04, heads)
    for name, tokens in (("query", queries), ("key", keys)):
        constants[f"{name}_scale"] = rng.uniform(0.5, 1, tokens * heads)
        constants[f"{name}_offset"] = rng.normal(size=tokens * heads) * 0.2
    options = {
        "version": ops.VERSION, "heads": heads, "rule": int(rule), "ratio": 0.25,
        "key_bias": key_bias, "dynamic": dynamic,
    }  # fmt: skip
    y = graph.tensor((1, queries, heads * head_dim), "float32")
    for name in ops.attention_inputs(options):
        if name in constants:
            tensors[name] = graph.constant(constants[name].astype(F32))
    graph.custom(ops.ATTENTION, [tensors[name] for name in ops.attention_inputs(options)], [y], options)
    bits = [rng.integers(-(2**31), 2**31, (1, count, words)).astype(np.int32) for count in (queries, keys, keys)]
    return graph.pack(y), bits


def block(rng, dynamic, key_bias=False, branches=True, mlp_ratio=4, height=5, width=6, channels=192, heads=3):
    """An AcdBinaryBlock with all its signs as a second output, and its input."""
    options = {
        "version": ops.VERSION, "heads": heads, "mlp_ratio": mlp_ratio, "rule": int(ops.Rule.ELASTIC), "ratio": 0.0,
        "key_bias": key_bias, "branches": branches, "dynamic_activation": dynamic, "dynamic_hidden": dynamic,
        "dynamic_attention": dynamic,
    }  # fmt: skip
    graph = runtime_models.Graph()
    x = graph.input((1, height, width, channels), "float32")
    shapes = ops.block_kernels(options, channels).values()
    kernels = [rng.integers(-(2**31), 2**31, int(np.prod(shape))).astype(np.int32) for shape in shapes]
    vectors = []
    for name, length in ops.block_vectors(options, channels).items():
        low, high = {
            "score_scale": (0.05, 0.2), "probability_scale": (0.02, 0.1), "gain_1": (0.5, 1.5), "gain_2": (0.5, 1.5),
        }.get(name, (-0.2, 0.2))  # fmt: skip
        if name.endswith("multiplier"):
            low, high = -0.03, -0.01
        vectors.append(rng.uniform(low, high, length).astype(F32))
    constants = [graph.constant(np.concatenate(parts)) for parts in (kernels, vectors)]
    y = graph.tensor((1, height, width, channels), "float32")
    taps = sum(int(np.prod(shape)) for shape in ops.block_taps(options, channels, height * width).values())
    graph.custom(ops.BLOCK, [x, *constants], [y, graph.tensor((taps,), "int32")], options)
    return graph.pack(y, y + 1), [rng.normal(size=(1, height, width, channels)).astype(F32)]


def corpus():
    """Name, model and inputs of everything that must give the same bits on arm64."""
    for seed in range(CONVOLUTIONS):
        rng = np.random.default_rng(seed)
        case = test_runtime_convolution.draw(rng)
        model = runtime_models.convolution(rng, **case)
        yield f"convolution_{seed}", model, [test_runtime_convolution.values(rng, case)]
    rng = np.random.default_rng(1)
    for rule in ops.Rule:
        for key_bias, dynamic in ((False, False), (True, False), (False, True), (True, True)):
            yield f"attention_{rule.name}_{key_bias}_{dynamic}", *attention(rng, rule, key_bias, dynamic)
    yield "attention_narrow", *attention(rng, ops.Rule.ELASTIC, False, False, heads=2, head_dim=32)
    yield "attention_widest", *attention(rng, ops.Rule.ELASTIC, False, False, heads=1, head_dim=ops.MAX_HEAD_DIM)
    for dynamic in (False, True):
        for mlp_ratio in (1, 2, 4):
            yield f"block_{dynamic}_{mlp_ratio}", *block(rng, dynamic, mlp_ratio=mlp_ratio)
        yield f"block_{dynamic}_plain", *block(rng, dynamic, key_bias=True, branches=False)
        yield f"block_{dynamic}_depthwise", *block(rng, dynamic, branches=int(ops.Branches.DEPTHWISE), mlp_ratio=2)


def test_same_bits_as_on_x86_64(userland, build, tmp_path):
    count = 0
    for name, model, inputs in corpus():
        outputs = start_engine("acdbit", model).run(inputs)
        assert np.isfinite(outputs[0]).all()
        arrays = {f"input_{i}": value for i, value in enumerate(inputs)}
        arrays |= {f"output_{i}": value for i, value in enumerate(outputs)}
        (tmp_path / f"{name}.tflite").write_bytes(model)
        np.savez(tmp_path / f"{name}.npz", **arrays)
        count += 1
    arguments = [HERE / "run_models.py", build / "libacdbit_runtime.so", tmp_path]
    process = userland.run("python", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 0, process.stderr[-4000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert {"neon", "portable"} <= set(report["kernels"])
    assert (report["models"], report["differences"]) == (count, [])


def test_instruction_counts(userland, build):
    """They repeat to the instruction; another compiler may need other limits."""
    process, regions = userland.count(build / "instructions_bench", stdout=subprocess.PIPE, text=True)
    assert process.returncode == 0
    tags = dict(reversed(line.split(" ", 1)) for line in process.stdout.splitlines())
    counts = {name: regions[int(tag)].instructions for name, tag in tags.items()}
    print(json.dumps(counts, indent=2))
    assert {name: counts[name] for name, most in MOST_INSTRUCTIONS.items() if counts[name] > most} == {}
