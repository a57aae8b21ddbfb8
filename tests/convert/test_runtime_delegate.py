"""The delegate in the stock interpreter: threads, shapes, arenas, files that lie, and its C interface."""

import ctypes
import os
import pathlib
import platform
import re
import subprocess
import sys
import threading
from importlib import metadata

import ai_edge_litert.interpreter
import numpy as np
import pytest
import runtime_models

from acdbit_keras.convert import flatbuffer, runtime
from acdbit_keras.convert.interpreter import Interpreter, choose_engine, start_engine

CONVOLUTION = runtime_models.CONVOLUTION_OPTIONS
F32 = np.float32


def chain(rng, batch=1, size=12, expose=False):
    """Quantize, four packed convolutions with a pooling and a dequantization between them, and a float one."""
    graph = runtime_models.Graph()
    x = graph.input((batch, size, size, 64), "float32")
    bits = graph.custom("LceQuantize", [x], [graph.tensor((batch, size, size, 2), "int32")])
    outputs = []
    for kernel in (3, 1, 3, 1):
        filters = graph.constant(runtime_models.pack_bits(runtime_models.random_signs(rng, (64, kernel, kernel, 64))))
        thresholds = graph.constant(rng.integers(28, 36, 64).astype(np.int32) * kernel * kernel)
        y = graph.tensor((batch, size, size, 2), "int32")
        options = {**CONVOLUTION, "channels_in": 64, "padding": 0}
        bits = graph.custom("LceBconv2d", [bits, filters, -1, -1, thresholds], [y], options)
        outputs.append(bits)
    pool = {"padding": 0, "filter_height": 2, "filter_width": 2, "stride_height": 2, "stride_width": 2}
    half = -(-size // 2)
    bits = graph.custom("LceBMaxPool2d", [bits], [graph.tensor((batch, half, half, 2), "int32")], pool)
    real = graph.custom("LceDequantize", [bits], [graph.tensor((batch, half, half, 64), "float32")])
    bits = graph.custom("LceQuantize", [real], [graph.tensor((batch, half, half, 2), "int32")])
    filters = graph.constant(runtime_models.pack_bits(runtime_models.random_signs(rng, (40, 1, 1, 64))))
    multiplier, bias = (graph.constant(rng.normal(size=40).astype(F32)) for _ in range(2))
    y = graph.tensor((batch, half, half, 40), "float32")
    graph.custom("LceBconv2d", [bits, filters, multiplier, bias, -1], [y], {**CONVOLUTION, "channels_in": 64})
    return graph.pack(*(outputs if expose else []), y)


def stock(content, num_threads=1, **options):
    delegate = ai_edge_litert.interpreter.load_delegate(runtime.library_path(), options)
    return ai_edge_litert.interpreter.Interpreter(
        model_content=content, num_threads=num_threads, experimental_delegates=[delegate]
    )


def run_stock(interpreter, x):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[-1]["index"])


def test_chain_equals_larq_for_any_kernels_and_threads():
    rng = np.random.default_rng(0)
    content = chain(rng, expose=True)
    x = rng.normal(size=(1, 12, 12, 64)).astype(F32)
    expected = start_engine("lce", content).run([x])
    for path in runtime.kernel_paths():
        for threads in (1, 2, 5):
            for result, other in zip(start_engine(f"acdbit:{path}", content, threads).run([x]), expected, strict=True):
                np.testing.assert_array_equal(result, other)


def test_hidden_tensors_do_not_change_the_result():
    """Tensors in the delegate's own arena and tensors handed out give the same."""
    x = np.random.default_rng(1).normal(size=(1, 12, 12, 64)).astype(F32)
    hidden, exposed = (chain(np.random.default_rng(0), expose=expose) for expose in (False, True))
    np.testing.assert_array_equal(start_engine("acdbit", hidden).run([x])[-1], start_engine("acdbit", exposed).run([x])[-1])


def test_batch_is_resized_and_back():
    rng = np.random.default_rng(0)
    content = chain(rng)
    images = rng.normal(size=(5, 12, 12, 64)).astype(F32)
    single = start_engine("acdbit", content)
    expected = np.concatenate([single.run([image[None]])[0] for image in images])
    interpreter = stock(content, num_threads=2)
    [source] = interpreter.get_input_details()
    for batch in (5, 1, 3, 5):
        interpreter.resize_tensor_input(source["index"], (batch, 12, 12, 64))
        interpreter.allocate_tensors()
        np.testing.assert_array_equal(run_stock(interpreter, images[:batch]), expected[:batch])
    for shape in ((1, 20, 20, 64), (1, 1, 1, 64)):
        interpreter.resize_tensor_input(source["index"], shape)
        interpreter.allocate_tensors()
        assert run_stock(interpreter, np.zeros(shape, F32)).shape == (1, -(-shape[1] // 2), -(-shape[2] // 2), 40)


def test_a_resize_that_fits_no_op_is_an_error_and_can_be_undone():
    content = chain(np.random.default_rng(0))
    interpreter = stock(content)
    interpreter.allocate_tensors()
    [source] = interpreter.get_input_details()
    interpreter.resize_tensor_input(source["index"], (1, 12, 12, 65))
    with pytest.raises(RuntimeError, match="node 1 .LceBconv2d.: input 0 has 3 words per pixel, its channels take 2"):
        interpreter.allocate_tensors()
    interpreter.resize_tensor_input(source["index"], (1, 12, 12, 64))
    interpreter.allocate_tensors()
    x = np.random.default_rng(1).normal(size=(1, 12, 12, 64)).astype(F32)
    np.testing.assert_array_equal(run_stock(interpreter, x), start_engine("acdbit", content).run([x])[0])


def test_two_interpreters_in_two_threads():
    contents = [chain(np.random.default_rng(seed)) for seed in range(2)]
    x = np.random.default_rng(5).normal(size=(1, 12, 12, 64)).astype(F32)
    expected = [start_engine("acdbit", content).run([x])[0] for content in contents]
    failures = []

    def work(number):
        for threads in (1, 2, 3):
            session = start_engine("acdbit", contents[number], threads)
            for _ in range(30):
                if not np.array_equal(session.run([x])[0], expected[number]):
                    failures.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_one_delegate_serves_two_interpreters_at_once():
    content = chain(np.random.default_rng(0))
    x = np.random.default_rng(5).normal(size=(1, 12, 12, 64)).astype(F32)
    expected = start_engine("acdbit", content).run([x])[0]
    delegate = ai_edge_litert.interpreter.load_delegate(runtime.library_path(), {"num_threads": 2})
    failures = []

    def work():
        interpreter = ai_edge_litert.interpreter.Interpreter(model_content=content, experimental_delegates=[delegate])
        interpreter.allocate_tensors()
        for _ in range(30):
            if not np.array_equal(run_stock(interpreter, x), expected):
                failures.append(1)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


# === Files that lie ===


def spoilt_convolution(**changes):
    """A convolution with one thing wrong: options, or a replaced input."""
    rng = np.random.default_rng(0)
    graph = runtime_models.Graph()
    shape = changes.get("input", (1, 5, 5, 2))
    x = graph.input(shape, changes.get("input_type", "int32"))
    filters = changes.get("filter", runtime_models.pack_bits(runtime_models.random_signs(rng, (8, 3, 3, 64))))
    inputs = [x, graph.constant(filters)]
    inputs.append(graph.constant(changes.get("multiplier", np.ones(8, F32))))
    inputs.append(graph.constant(changes.get("bias", np.zeros(8, F32))))
    inputs.append(graph.constant(changes["thresholds"]) if "thresholds" in changes else -1)
    if "inputs" in changes:
        inputs = changes["inputs"](graph, inputs)
    y = graph.tensor((1, 3, 3, 8), changes.get("output", "float32"), **changes.get("quantization", {}))
    options = changes.get("options", {})
    if isinstance(options, dict):
        options = {key: value for key, value in {**CONVOLUTION, "channels_in": 64, **options}.items() if value is not None}
    graph.custom("LceBconv2d", inputs, [y], options)
    return graph.pack(y)


def without(number):
    return lambda graph, inputs: [-1 if i == number else tensor for i, tensor in enumerate(inputs)]


def computed(number, shape, dtype):
    """Replaces a constant by an input of the graph."""
    return lambda graph, inputs: [graph.input(shape, dtype) if i == number else t for i, t in enumerate(inputs)]


nan = np.full(8, np.nan, F32)
CONVOLUTION_FAULTS = {
    "options of another kind": ({"options": b"\x00\x01\x02"}, "its options are not a flexbuffer map"),
    "no options": ({"options": b""}, "the option channels_in is missing"),
    "a missing option": ({"options": {"stride_width": None}}, "the option stride_width is missing"),
    "a text for a number": ({"options": {"stride_width": "1"}}, "the option stride_width is not an integer"),
    "a float for a number": ({"options": {"stride_width": 1.5}}, "the option stride_width is not an integer"),
    "no stride": ({"options": {"stride_height": 0}}, "stride_height is 0, it must be in"),
    "a negative stride": ({"options": {"stride_height": -1}}, "stride_height is -1, it must be in"),
    "a stride beyond int": ({"options": {"stride_height": 2**40}}, "stride_height is 1099511627776"),
    "a dilation beyond int": ({"options": {"dilation_height_factor": 2**30}}, "its window is too large"),
    "an unknown padding": ({"options": {"padding": 2}}, "the option padding is 2"),
    "an unknown activation": ({"options": {"fused_activation_function": 4}}, "fused_activation_function is 4"),
    "no channels": ({"options": {"channels_in": 0}}, "channels_in is 0"),
    "too many channels": ({"options": {"channels_in": 2**29}}, "not divisible into 8388608 groups"),
    "channels the input lacks": ({"options": {"channels_in": 128}}, "input 0 has 2 words per pixel, its channels take 4"),
    "a window beyond the image": ({"input": (1, 2, 5, 2)}, "its window spans 3 places, the input has 2"),
    "rank 3": ({"input": (5, 5, 2)}, "input 0 has 3 dimensions"),
    "rank 7": ({"input": (1, 1, 1, 1, 5, 5, 2)}, "has 7 dimensions"),
    "an empty batch": ({"input": (0, 5, 5, 2)}, "input 0 is empty"),
    "float bits": ({"input_type": "float32"}, "input 0 holds float32, it must hold int32"),
    "a filter of rank 3": ({"filter": np.zeros((8, 3, 2), np.int32)}, "input 1 has 3 dimensions"),
    "a float filter": ({"filter": np.zeros((8, 3, 3, 2), F32)}, "input 1 holds float32"),
    "an empty filter": ({"filter": np.zeros((8, 0, 3, 2), np.int32)}, "input 1 is empty"),
    "words that do not divide": ({"filter": np.zeros((8, 3, 3, 3), np.int32)}, "3 words of the filter do not divide"),
    "odd groups": ({"filter": np.zeros((7, 3, 3, 1), np.int32)}, "7 outputs are not divisible into 2 groups"),
    "groups of odd width": (
        {"filter": np.zeros((8, 3, 3, 1), np.int32), "options": {"channels_in": 50}},
        "groups need a multiple of 32 channels",
    ),
    "no filter": ({"inputs": without(1)}, "input 1 is missing"),
    "a computed filter": ({"inputs": computed(1, (8, 3, 3, 2), "int32")}, "input 1 must be a constant"),
    "a computed bias": ({"inputs": computed(3, (8,), "float32")}, "input 3 must be a constant"),
    "no multiplier": ({"inputs": without(2)}, "input 2 is missing"),
    "no bias": ({"inputs": without(3)}, "input 3 is missing"),
    "too few inputs": ({"inputs": lambda graph, inputs: inputs[:3]}, "it has 3 inputs"),
    "too many inputs": ({"inputs": lambda graph, inputs: inputs * 4}, "20 inputs"),
    "a short multiplier": ({"multiplier": np.ones(7, F32)}, "input 2 has 7 elements, it must have 8"),
    "an infinite multiplier": ({"multiplier": np.full(8, np.inf, F32)}, "element 0 of input 2 is not finite"),
    "a NaN in the bias": ({"bias": nan}, "element 0 of input 3 is not finite"),
    "an overflowing transform": ({"multiplier": np.full(8, 1e38, F32)}, "multiplier and bias of channel 0 overflow"),
    "no thresholds": ({"output": "int32"}, "input 4 is missing"),
    "float thresholds": ({"output": "int32", "thresholds": np.ones(8, F32)}, "input 4 holds float32"),
    "an activation on bits": (
        {"output": "int32", "thresholds": np.ones(8, np.int32), "options": {"fused_activation_function": 1}},
        "takes no fused activation",
    ),
    "zero padding of bits": (
        {"output": "int32", "thresholds": np.ones(8, np.int32), "options": {"padding": 0, "pad_values": 0}},
        "padding with ones",
    ),
    "no quantization": ({"output": "int8"}, "quantization scale 0"),
    "a negative scale": ({"output": "int8", "quantization": {"scale": -1.0}}, "quantization scale -1"),
    "a NaN scale": ({"output": "int8", "quantization": {"scale": float("nan")}}, "quantization scale"),
    "a zero point out of range": ({"output": "int8", "quantization": {"scale": 1.0, "zero_point": 999}}, "zero point 999"),
    "a bool output": ({"output": "bool"}, "output 0 holds bool"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CONVOLUTION_FAULTS)
def test_faulty_convolution_is_one_sentence(fault):
    changes, message = CONVOLUTION_FAULTS[fault]
    with pytest.raises(ValueError, match="engine 'acdbit' cannot run the model") as caught:
        start_engine("acdbit", spoilt_convolution(**changes))
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert "node 0" in str(caught.value) and "LceBconv2d" in str(caught.value)
    # Whoever fails leaves nothing behind.
    rng = np.random.default_rng(0)
    content = runtime_models.convolution(rng)
    x = rng.normal(size=(1, 5, 5, 32)).astype(F32)
    np.testing.assert_array_equal(start_engine("acdbit", content).run([x])[0], start_engine("lce", content).run([x])[0])


def one_node(name, source, output, options=None, version=1, **quantization):
    graph = runtime_models.Graph()
    x = graph.input(*source)
    y = graph.tensor(*output, **quantization)
    graph.custom(name, [x], [y], options, version)
    return graph.pack(y)


POOL = {"padding": 1, "filter_height": 2, "filter_width": 2, "stride_height": 1, "stride_width": 1}


@pytest.mark.parametrize(
    "content, message",
    [
        (one_node("LceQuantize", ((1, 4), "int32"), ((1, 1), "int32")), "input 0 holds int32"),
        (one_node("LceQuantize", ((1, 4), "int8"), ((1, 1), "int32")), "quantization scale 0"),
        (one_node("LceQuantize", ((), "float32"), ((1, 1), "int32")), "input 0 has 0 dimensions"),
        (one_node("LceQuantize", ((1, 4), "float32"), ((1, 1), "float32")), "output 0 holds float32"),
        (one_node("LceDequantize", ((1, 2), "int32"), ((1, 32), "float32")), "2 words do not hold the 32 channels"),
        (one_node("LceDequantize", ((1, 2), "int32"), ((1, 65), "float32")), "2 words do not hold the 65 channels"),
        (one_node("LceDequantize", ((1, 2), "int32"), ((64,), "float32")), "output 0 has 1 dimensions"),
        (one_node("LceDequantize", ((1, 2), "int32"), ((1, 64), "int8")), "quantization scale 0"),
        (one_node("LceDequantize", ((1, 2), "int32"), ((1, 64), "int32")), "output 0 holds int32"),
        (one_node("LceBMaxPool2d", ((1, 4, 4, 1), "int32"), ((1, 3, 3, 1), "float32"), POOL), "output 0 holds float32"),
        (
            one_node("LceBMaxPool2d", ((1, 4, 4, 1), "int32"), ((1, 3, 3, 1), "int32"), {**POOL, "filter_width": 5}),
            "its window spans 5 places, the input has 4",
        ),
        (
            one_node("LceBMaxPool2d", ((1, 4, 4, 1), "int32"), ((1, 3, 3, 1), "int32"), {**POOL, "filter_width": 0}),
            "filter_width is 0",
        ),
    ],
)
def test_faulty_node_is_one_sentence(content, message):
    with pytest.raises(ValueError, match="cannot run the model") as caught:
        start_engine("acdbit", content)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_model_beyond_memory_is_an_error():
    shape = (2**15, 2**15, 2**10)
    content = one_node("LceQuantize", (shape, "float32"), ((2**15, 2**15, 2**5), "int32"))
    with pytest.raises(ValueError, match="cannot run the model"):
        start_engine("acdbit", content)


def test_a_cycle_and_an_output_written_twice_are_errors():
    for second in ("twice", "cycle"):
        graph = runtime_models.Graph()
        x = graph.input((1, 4, 4, 1), "int32")
        middle, last = (graph.tensor((1, 3, 3, 1), "int32") for _ in range(2))
        graph.custom("LceBMaxPool2d", [last if second == "cycle" else x], [middle], POOL)
        graph.custom("LceBMaxPool2d", *(([x], [middle]) if second == "twice" else ([middle], [last])), POOL)
        with pytest.raises(ValueError, match="cannot run the model"):
            start_engine("acdbit", graph.pack(middle))


def test_a_node_that_writes_what_it_reads_is_a_damaged_file():
    """LiteRT never offers such a node to the delegate, and would only say that it does not know the op."""
    for output in ("input", "constant"):
        graph = runtime_models.Graph()
        x = graph.input((1, 4, 4, 1), "int32")
        graph.custom("LceBMaxPool2d", [x], [x if output == "input" else graph.constant(np.zeros((1, 4, 4, 1), np.int32))], POOL)
        said = "writes tensor 0, which it reads" if output == "input" else "writes tensor 1, which is a constant"
        with pytest.raises(ValueError, match=f"corrupt .*node 0 {said}"):
            Interpreter(graph.pack(x))


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_never_crashes(seed):
    """Bytes of the options, shapes and types at random."""
    rng = np.random.default_rng(seed)
    model = flatbuffer.read(runtime_models.convolution(rng))
    for _ in range(20):
        node = model.subgraphs[0].operators[1]
        options = np.array(node.customOptions, np.uint8)
        for _ in range(int(rng.integers(1, 4))):
            options[rng.integers(len(options))] = rng.integers(256)
        node.customOptions = options[: rng.integers(len(options)) + 1] if rng.random() < 0.2 else options
        tensor = model.subgraphs[0].tensors[int(rng.integers(len(model.subgraphs[0].tensors)))]
        kept = tensor.shape, tensor.type
        if rng.random() < 0.5:
            tensor.shape = rng.integers(0, 9, int(rng.integers(0, 7))).astype(np.int32)
        else:
            tensor.type = int(rng.choice([0, 2, 6, 9]))
        try:
            content = flatbuffer.pack(model)
            flatbuffer.read(content)
            session = start_engine("acdbit", content)
            details = session._interpreter.get_input_details()[0]
            session.run([np.zeros(details["shape"], details["dtype"])])
        except ValueError:
            pass
        tensor.shape, tensor.type = kept


# === The library ===


def test_library_tells_about_itself():
    paths = runtime.kernel_paths()
    assert paths[-1] == "portable" and runtime.kernel_path() in paths and len(set(paths)) == len(paths)
    header = (pathlib.Path(runtime.__file__).parent / "include" / "acdbit_runtime.h").read_text()
    assert f'#define ACDBIT_VERSION "{runtime.version()}"' in header


def test_a_library_that_is_none_or_not_this_one_is_told(tmp_path, monkeypatch):
    path = tmp_path / runtime.LIBRARY
    monkeypatch.setenv("ACDBIT_RUNTIME", os.fspath(path))
    content = chain(np.random.default_rng(0))
    whole = pathlib.Path(runtime.__file__).with_name(runtime.LIBRARY).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImportError, match="its end is missing"):
        start_engine("acdbit", content)
    path.write_text("a text")
    with pytest.raises(ImportError, match="not an ELF library"):
        start_engine("acdbit", content)
    path.unlink()
    (tmp_path / runtime.REASON).write_text("there is no C++ compiler (install one, such as g++)")
    with pytest.raises(ImportError, match="libacdbit_runtime.so, for there is no C.. compiler"):
        start_engine("acdbit", content)
    other = next(place for place in re.findall(r"(/\S+libc\.so\S*)", pathlib.Path("/proc/self/maps").read_text()))
    monkeypatch.setenv("ACDBIT_RUNTIME", other)
    with pytest.raises(ImportError, match="is not the runtime of acdbit-keras: it lacks acdbit_version"):
        start_engine("acdbit", content)


def test_version_is_the_package_s():
    assert runtime.version() == metadata.version("acdbit-keras")


# `putenv` as the shell does it: the library reads the environment of the process.
@pytest.mark.parametrize("wanted, used", [("portable", "portable"), ("", None)])
def test_environment_chooses_the_kernels(wanted, used, monkeypatch):
    monkeypatch.setenv("ACDBIT_KERNELS", wanted)
    assert runtime.kernel_path() == (used or runtime.kernel_paths()[0])
    assert Interpreter(chain(np.random.default_rng(0))).engine == "acdbit"


def test_a_wrong_name_of_kernels_in_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("ACDBIT_KERNELS", "avx2_typo")
    content = chain(np.random.default_rng(0))
    said = r"ACDBIT_KERNELS=avx2_typo is not among the kernels that this CPU can run \(.*portable\)"
    with pytest.raises(ValueError, match=said):
        runtime.kernel_path()
    with pytest.raises(ValueError, match=said):
        start_engine("acdbit", content)
    with pytest.raises(ValueError, match=said):
        ai_edge_litert.interpreter.load_delegate(runtime.library_path())
    start_engine("acdbit:portable", content)


def test_too_many_threads_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="num_threads must be an integer from 1 to 256, got 1000"):
        start_engine("acdbit", chain(np.random.default_rng(0)), 1000)


def test_a_forked_process_runs_and_ends(tmp_path):
    """The child has the pool but none of its threads: it must neither wait for them nor join them."""
    path = tmp_path / "chain.tflite"
    path.write_bytes(chain(np.random.default_rng(0)))
    program = (
        "import gc, os, sys; import numpy as np; from acdbit_keras.convert.interpreter import start_engine\n"
        "session = start_engine('acdbit', open(sys.argv[1], 'rb').read(), 2)\n"
        "detail = session._interpreter.get_input_details()[0]\n"
        "value = np.random.default_rng(0).normal(size=detail['shape']).astype(detail['dtype'])\n"
        "first = session.run([value])[0]\n"
        "child = os.fork()\n"
        "again = session.run([value])[0]\n"
        "del session; gc.collect()\n"
        "assert (first == again).all()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_threads": 0}, "num_threads must be an integer from 1 to 256, got 0"),
        ({"num_threads": -1}, "num_threads must be an integer from 1 to 256, got -1"),
        ({"num_threads": 10**12}, "num_threads must be an integer"),
        ({"num_threads": "two"}, "num_threads must be an integer"),
        ({"kernels": "sse"}, "kernels must be auto or one of .*portable on this CPU, got sse"),
        ({"threads": 1}, "the delegate has the options num_threads, spin, fixed_shapes and kernels, not threads"),
    ],
)
def test_wrong_options_of_the_delegate(options, message):
    with pytest.raises(ValueError, match=message):
        ai_edge_litert.interpreter.load_delegate(runtime.library_path(), options)


def test_unknown_variants_of_the_engine():
    model = flatbuffer.read(chain(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="engine 'acdbit:sse' does not exist here; there are .*'acdbit:portable'"):
        choose_engine(model, "acdbit:sse")
    with pytest.raises(ValueError, match="engine 'lce:fast' does not exist here"):
        choose_engine(model, "lce:fast")


def test_a_missing_library_is_told(monkeypatch, tmp_path):
    content = chain(np.random.default_rng(0))
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "nowhere.so"))
    with pytest.raises(ImportError, match="the compiled runtime is not at .*nowhere.so; install a C.. compiler") as caught:
        start_engine("acdbit", content)
    assert len(str(caught.value).splitlines()) == 1
    assert choose_engine(flatbuffer.read(content)) == "lce"
    graph = runtime_models.Graph()
    x = graph.input((1, 32), "int32")
    graph.custom("AcdBinaryAttention", [x], [graph.tensor((1, 32), "float32")])
    with pytest.raises(ImportError, match="AcdBinaryAttention runs on the engine 'acdbit' only: the compiled runtime is not"):
        choose_engine(flatbuffer.read(graph.pack(1)))


def test_a_library_for_another_machine_is_told(monkeypatch, tmp_path):
    content = bytearray(pathlib.Path(runtime.library_path()).read_bytes())
    other = {"x86_64": 183, "aarch64": 62}[platform.machine()]
    content[18:20] = other.to_bytes(2, "little")
    path = tmp_path / "other.so"
    path.write_bytes(content)
    monkeypatch.setenv(runtime.VARIABLE, str(path))
    with pytest.raises(ImportError, match="is built for .*, this Python for .*; install the wheel for "):
        runtime.library_path()
    path.write_bytes(b"text")
    with pytest.raises(ImportError, match="is built for no machine"):
        runtime.library_path()


def test_last_error_is_the_thread_s():
    with pytest.raises(ValueError):
        start_engine("acdbit", spoilt_convolution(options=b""))
    seen = []
    worker = threading.Thread(target=lambda: seen.append(runtime.last_error()))
    worker.start()
    worker.join()
    assert "channels_in is missing" in runtime.last_error() and seen == [""]


def test_library_needs_no_newer_glibc_than_2_17():
    content = pathlib.Path(runtime.library_path()).read_bytes()
    versions = {tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", content)}
    assert versions and max(versions) <= (2, 17)
    assert b"libstdc++" not in content and b"GLIBCXX" not in content
    assert ctypes.CDLL(runtime.library_path()).tflite_plugin_create_delegate


def test_interpreter_predicts_with_the_delegate():
    rng = np.random.default_rng(0)
    content = chain(rng)
    images = rng.normal(size=(3, 12, 12, 64)).astype(F32)
    results = [Interpreter(content, engine=engine).predict(images) for engine in ("auto", "lce")]
    np.testing.assert_array_equal(*results)
