"""The runtime's convolutions, poolings and packing against Larq Compute Engine's own interpreter, on generated files."""

import time

import numpy as np
import pytest
import runtime_models

from acdbit_keras.convert import flatbuffer, runtime
from acdbit_keras.convert.interpreter import start_engine

CASES = 340


def draw(rng):
    """Random arguments of `runtime_models.convolution`, all of which Larq Compute Engine accepts."""
    groups = int(rng.choice([1, 1, 1, 2, 4]))
    channels = int(rng.choice([32, 64])) * groups if groups > 1 else int(rng.choice([1, 7, 32, 33, 64, 96, 100, 160]))
    output = str(rng.choice(["float32", "int8", "int32"]))
    kernel = (1, 1) if rng.random() < 0.3 else tuple(int(k) for k in rng.integers(1, 5, 2))
    dilation = [int(d) for d in rng.integers(1, 4, 2)]
    stride = [1, 1] if rng.random() < 0.5 else [int(s) for s in rng.integers(1, 4, 2)]
    padding = int(rng.integers(2))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    size = [int(rng.integers(1, 12)) + (extent if padding else 0) for extent in extents]
    # Padding with zeros is defined for float outputs without an activation only.
    zeros = padding == 0 and output == "float32" and groups == 1 and rng.random() < 0.5
    if zeros:
        # Larq Compute Engine's correction for it is wrong where the window exceeds the image; see below.
        size = [max(pair) for pair in zip(size, extents)]
    return {
        "image": (int(rng.choice([1, 1, 2, 3])), *size, channels),
        "outputs": groups * int(rng.choice([1, 3, 8, 16, 31, 32, 33, 65])),
        "kernel": kernel,
        "groups": groups,
        "output": output,
        "source": str(rng.choice(["float32", "int8", "bool", "int32"])),
        "stride_height": stride[0],
        "stride_width": stride[1],
        "dilation_height_factor": dilation[0],
        "dilation_width_factor": dilation[1],
        "padding": padding,
        "pad_values": 0 if zeros else 1,
        "fused_activation_function": 0 if zeros or output == "int32" else int(rng.integers(4)),
    }


def values(rng, case):
    """An input for `case`."""
    shape, source = case["image"], case["source"]
    if source == "float32":
        return rng.normal(size=shape).astype(np.float32)
    if source == "int8":
        return rng.integers(-40, 40, shape).astype(np.int8)
    if source == "bool":
        return rng.random(shape) < 0.5
    return runtime_models.pack_bits(runtime_models.random_signs(rng, shape))


@pytest.mark.parametrize("seed", range(CASES))
def test_convolution_equals_larq(seed):
    rng = np.random.default_rng(seed)
    case = draw(rng)
    content = runtime_models.convolution(rng, **case)
    inputs = [values(rng, case)]
    [expected] = start_engine("lce", content).run(inputs)
    results = [start_engine(f"acdbit:{path}", content).run(inputs)[0] for path in runtime.kernel_paths()]
    results.append(start_engine("acdbit", content, 2).run(inputs)[0])
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    assert results[0].shape == expected.shape and results[0].dtype == expected.dtype
    if case["pad_values"] == 0:
        # Larq Compute Engine takes the padding out in floats.
        np.testing.assert_allclose(results[0], expected, rtol=0, atol=1e-4)
    else:
        np.testing.assert_array_equal(results[0], expected)


INT8_CASES = 300


def test_int8_outputs_equal_larq_to_the_unit():
    """Constants of two decimals: then many outputs lie halfway between two integers, where the last bit of a bias decides."""
    halfway = 0
    for seed in range(INT8_CASES):
        rng = np.random.default_rng(1000 + seed)
        case = {**draw(rng), "output": "int8", "pad_values": 1, "fused_activation_function": int(rng.integers(4)), "decimals": 2}
        content = runtime_models.convolution(rng, **case)
        inputs = [values(rng, case)]
        [expected] = start_engine("lce", content).run(inputs)
        [result] = start_engine("acdbit", content).run(inputs)
        np.testing.assert_array_equal(result, expected, err_msg=f"seed {seed}")
        halfway += count_halfway(content, case)
    assert halfway > 1000


def count_halfway(content, case):
    """Products that would have an output halfway between two integers, of all possible sums of all channels."""
    node = list(flatbuffer.operators(flatbuffer.read(content)))[-1]
    multiplier, bias = (tensor.data.view(np.float32).astype(np.float64) for tensor in node.inputs[2:4])
    products = int(np.prod(case["kernel"])) * case["image"][-1] // case["groups"]
    outputs = (np.arange(-products, products + 1, 2)[:, None] * multiplier + bias) / node.outputs[0].scale
    return int((np.abs(outputs - np.floor(outputs) - 0.5) < 1e-6).sum())


def exact_convolution(content, case, x):
    """The definition, in float64, of a convolution with zero padding."""
    node = list(flatbuffer.operators(flatbuffer.read(content)))[-1]
    (height, width), channels = case["kernel"], case["image"][-1]
    filters = runtime_models.unpack_bits(node.inputs[1].data.view(np.int32).reshape(node.inputs[1].shape), channels)
    signs = np.where(x < 0, -1, 1)
    rows, columns = (-(-size // case[f"stride_{axis}"]) for size, axis in zip(x.shape[1:3], ("height", "width")))
    sums = np.zeros((x.shape[0], rows, columns, case["outputs"]))
    for i, j, ky, kx in np.ndindex(rows, columns, height, width):
        place = []
        for out, count, size, tap, taps, axis in (
            (i, rows, x.shape[1], ky, height, "height"),
            (j, columns, x.shape[2], kx, width, "width"),
        ):
            stride, dilation = case[f"stride_{axis}"], case[f"dilation_{axis}_factor"]
            before = max((count - 1) * stride + (taps - 1) * dilation + 1 - size, 0) // 2
            place.append(out * stride - before + tap * dilation)
        if 0 <= place[0] < x.shape[1] and 0 <= place[1] < x.shape[2]:
            sums[:, i, j] += signs[:, place[0], place[1]] @ filters[:, ky, kx].T
    return sums * node.inputs[2].data.view(np.float32) + node.inputs[3].data.view(np.float32)


@pytest.mark.parametrize("seed", range(30))
def test_zero_padding_equals_its_definition(seed):
    """Windows larger than the image included."""
    rng = np.random.default_rng(seed)
    case = {
        **draw(rng), "image": (int(rng.integers(1, 3)), *(int(n) for n in rng.integers(1, 8, 2)), 64), "groups": 1,
        "output": "float32", "source": "float32", "padding": 0, "pad_values": 0, "fused_activation_function": 0,
    }  # fmt: skip
    content = runtime_models.convolution(rng, **case)
    x = values(rng, case)
    expected = exact_convolution(content, case, x)
    for path in runtime.kernel_paths():
        [result] = start_engine(f"acdbit:{path}", content).run([x])
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_pooling_equals_larq(seed):
    rng = np.random.default_rng(seed)
    channels, padding = int(rng.choice([1, 32, 70])), int(rng.integers(2))
    window = [int(k) for k in rng.integers(1, 5, 2)]
    size = [int(rng.integers(1, 9)) + (k if padding else 0) for k in window]
    image = (int(rng.integers(1, 3)), *size, channels)
    graph = runtime_models.Graph()
    x = graph.input((*image[:-1], runtime_models.words(channels)), "int32")
    options = {
        "padding": padding, "filter_height": window[0], "filter_width": window[1],
        "stride_height": int(rng.integers(1, 4)), "stride_width": int(rng.integers(1, 4)),
    }  # fmt: skip
    y = graph.custom("LceBMaxPool2d", [x], [graph.tensor((1, 1, 1, runtime_models.words(channels)), "int32")], options)
    content = graph.pack(y)
    inputs = [runtime_models.pack_bits(runtime_models.random_signs(rng, image))]
    [expected] = start_engine("lce", content).run(inputs)
    np.testing.assert_array_equal(start_engine("acdbit", content, 2).run(inputs)[0], expected)


def test_pooling_over_windows_as_large_as_the_input():
    """In seconds: a file of some hundred bytes must not keep a processor for hours."""
    size, before = 300, 149
    graph = runtime_models.Graph()
    x = graph.input((1, size, size, 1), "int32")
    options = {"padding": 0, "filter_height": size, "filter_width": size, "stride_height": 1, "stride_width": 1}
    y = graph.custom("LceBMaxPool2d", [x], [graph.tensor((1, size, size, 1), "int32")], options)
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (size, size)).astype(np.int32) | ~(1 << 5)
    words[:, :260] |= 1 << 5
    windows = [slice(max(i - before, 0), i - before + size) for i in range(size)]
    down = np.stack([np.bitwise_and.reduce(words[row]) for row in windows])
    expected = np.stack([np.bitwise_and.reduce(down[:, column], axis=1) for column in windows], axis=1)
    start = time.perf_counter()
    [result] = start_engine("acdbit", graph.pack(y)).run([words.reshape(1, size, size, 1)])
    assert time.perf_counter() - start < 10
    np.testing.assert_array_equal(result[0, :, :, 0], expected)
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
@pytest.mark.parametrize("channels", [1, 31, 32, 33, 96])
@pytest.mark.parametrize("shape", [(5,), (1, 3), (2, 3, 4)])
def test_packing_and_unpacking_equal_larq(dtype, channels, shape):
    rng = np.random.default_rng(channels)
    quantization = {"scale": 0.07, "zero_point": -3} if dtype == "int8" else {}
    graph = runtime_models.Graph()
    x = graph.input((*shape, channels), dtype, **quantization)
    bits = graph.custom("LceQuantize", [x], [graph.tensor((*shape, runtime_models.words(channels)), "int32")])
    y = graph.custom("LceDequantize", [bits], [graph.tensor((*shape, channels), dtype, **quantization)])
    content = graph.pack(bits, y)
    inputs = [values(rng, {"image": (*shape, channels), "source": dtype})]
    expected = start_engine("lce", content).run(inputs)
    for path in runtime.kernel_paths():
        for result, other in zip(start_engine(f"acdbit:{path}", content).run(inputs), expected, strict=True):
            np.testing.assert_array_equal(result, other)
