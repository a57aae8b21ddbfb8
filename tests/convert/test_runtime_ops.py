"""AcdBinaryAttention and AcdBinaryBlock in the runtime against their numpy reference, and what they refuse."""

import itertools

import numpy as np
import pytest
import reference_ops
import runtime_models

from acdbit_keras import device_ops
from acdbit_keras.convert import runtime
from acdbit_keras.convert.interpreter import start_engine
from acdbit_keras.device_ops import Branches, Rule

F32 = np.float32


def attention_case(rng, queries=10, keys=13, heads=2, head_dim=64, rule=Rule.ELASTIC, key_bias=False, dynamic=False):
    """Options, bool bits and float constants of an attention, as `reference_ops.attention` takes them."""
    c = heads * head_dim
    options = {
        "version": device_ops.VERSION,
        "heads": heads,
        "rule": int(rule),
        "ratio": 0.25,
        "key_bias": key_bias,
        "dynamic": dynamic,
    }
    bits = {name: rng.random((rows, c)) < 0.5 for name, rows in (("query", queries), ("key", keys), ("value", keys))}
    constants = {"score_scale": rng.uniform(0.02, 0.1, heads).astype(F32)}
    if key_bias:
        constants["key_weights"] = rng.normal(0, 0.05, c).astype(F32)
    constants |= {"value_scale": rng.uniform(0.5, 2, c).astype(F32), "value_offset": rng.normal(size=c).astype(F32)}
    constants["probability_scale"] = rng.uniform(0.5 / keys, 3 / keys, heads).astype(F32)
    statistics = {}
    if dynamic:
        for name, rows in (("query", queries), ("key", keys)):
            statistics[f"{name}_scale"] = rng.uniform(0.5, 1.5, (rows, heads)).astype(F32)
            statistics[f"{name}_offset"] = rng.normal(0, 0.1, (rows, heads)).astype(F32)
    return options, bits, constants, statistics


def attention_model(settings, bits, vectors, statistics, shape=lambda rows: (1, 1, rows), **changes):
    graph = runtime_models.Graph()
    words = bits["query"].shape[1] // 32
    tensors = {name: graph.input((*shape(len(rows)), words), "int32") for name, rows in bits.items()}
    tensors |= {name: graph.constant(values) for name, values in {**vectors, **changes.get("constants", {})}.items()}
    tensors |= {name: graph.input((values.size,), "float32") for name, values in statistics.items()}
    inputs = [tensors[name] for name in device_ops.attention_inputs(settings)]
    inputs = changes.get("inputs", lambda inputs: inputs)(inputs)
    y = graph.tensor((*shape(len(bits["query"])), 32 * words), changes.get("output", "float32"))
    graph.custom(
        device_ops.ATTENTION,
        inputs,
        [y],
        {k: v for k, v in {**settings, **changes.get("options", {})}.items() if v is not None},
    )
    return graph.pack(y)


def attention_inputs(bits, statistics, shape=lambda rows: (1, 1, rows)):
    packed = [runtime_models.pack_bits(np.where(rows, -1, 1)).reshape(*shape(len(rows)), -1) for rows in bits.values()]
    return [*packed, *(values.reshape(-1) for values in statistics.values())]


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("key_bias, dynamic", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("queries, keys, heads, head_dim", [(1, 1, 1, 32), (10, 13, 2, 64), (50, 197, 3, 32), (33, 33, 1, 224)])
def test_attention_equals_its_reference(rule, key_bias, dynamic, queries, keys, heads, head_dim):
    rng = np.random.default_rng(queries)
    case = attention_case(rng, queries, keys, heads, head_dim, rule, key_bias, dynamic)
    options, bits, constants, statistics = case
    expected = reference_ops.attention(options, **bits, **constants, **statistics)
    content, inputs = attention_model(*case), attention_inputs(bits, statistics)
    results = [start_engine(f"acdbit:{path}", content).run(inputs)[0] for path in runtime.kernel_paths()]
    results.append(start_engine("acdbit", content, 2).run(inputs)[0])
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    assert results[0].shape == (1, 1, queries, heads * head_dim)
    wrong = (results[0].reshape(expected.shape) != expected).reshape(queries, heads, head_dim).any(-1)
    # The reference's softmax is exact; a probability at its threshold may fall on the other side.
    assert wrong.mean() <= (0.02 if rule in (Rule.ELASTIC, Rule.MEAN) or dynamic or key_bias else 0.0)


@pytest.mark.parametrize("keys", [13, 16, 29])
def test_absent_keys_of_a_ragged_row_take_no_part(keys):
    """Statistics so large that the distance which stands for an absent key would leave the finite numbers."""
    rng = np.random.default_rng(keys)
    options, bits, constants, statistics = attention_case(rng, 20, keys, 1, 64, Rule.ELASTIC, dynamic=True)
    constants["score_scale"][:] = 1.0
    constants["probability_scale"][:] = 0.01
    for name, value in (("query_scale", 5e36), ("query_offset", 0.0), ("key_scale", 0.0), ("key_offset", 2e-37)):
        statistics[name][:] = value
    expected = reference_ops.attention(options, **bits, **constants, **statistics)
    content, inputs = attention_model(options, bits, constants, statistics), attention_inputs(bits, statistics)
    for path in runtime.kernel_paths():
        result = start_engine(f"acdbit:{path}", content).run(inputs)[0]
        np.testing.assert_array_equal(result.reshape(expected.shape), expected)


BLOCK = {
    "version": device_ops.VERSION, "heads": 2, "mlp_ratio": 2, "rule": int(Rule.ELASTIC), "ratio": 0.0, "key_bias": False,
    "branches": True, "dynamic_activation": False, "dynamic_hidden": False, "dynamic_attention": False,
}  # fmt: skip


def block_constants(rng, options, channels, tokens):
    lengths = device_ops.block_vectors(options, channels)
    parts = []
    for name, length in lengths.items():
        values = rng.normal(0, 0.5, length)
        if name == "score_scale":
            values = rng.uniform(0.02, 0.1, length)
        elif name == "probability_scale":
            values = rng.uniform(0.5 / tokens, 3 / tokens, length)
        elif "multiplier" in name:
            values = values / channels
        parts.append(values)
    words = sum(int(np.prod(shape)) for shape in device_ops.block_kernels(options, channels).values())
    return rng.integers(-(2**31), 2**31, words).astype(np.int32), np.concatenate(parts).astype(F32)


def block_model(options, kernels, vectors, shape, taps=0):
    graph = runtime_models.Graph()
    x = graph.input(shape, "float32")
    inputs = [x, graph.constant(kernels), graph.constant(vectors)]
    outputs = [graph.tensor(shape, "float32")] + ([graph.tensor((taps,), "int32")] if taps else [])
    graph.custom(device_ops.BLOCK, inputs, outputs, {k: v for k, v in options.items() if v is not None})
    return graph.pack(*outputs)


@pytest.mark.parametrize("changes", [
    {}, {"branches": False}, {"mlp_ratio": 4}, {"dynamic_activation": True, "dynamic_hidden": True},
    {"dynamic_attention": True, "heads": 4}, {"key_bias": True, "rule": int(Rule.MEAN)},
    {"branches": False, "dynamic_activation": True, "dynamic_attention": True, "mlp_ratio": 4, "dynamic_hidden": True},
    {"rule": int(Rule.MAX_RATIO), "ratio": 0.25}, {"rule": int(Rule.ZERO), "mlp_ratio": 3},
    {"branches": int(Branches.DEPTHWISE)}, {"branches": int(Branches.DEPTHWISE), "dynamic_activation": True, "mlp_ratio": 1},
])  # fmt: skip
@pytest.mark.parametrize("height, width, channels", [(4, 5, 128), (7, 7, 256)])
def test_block_equals_its_reference(changes, height, width, channels):
    rng = np.random.default_rng(3)
    options, shape = {**BLOCK, **changes}, (1, height, width, channels)
    kernels, vectors = block_constants(rng, options, channels, height * width)
    x = rng.normal(size=shape).astype(F32)
    expected, expected_taps = reference_ops.block(options, kernels, vectors, x)
    taps = reference_ops.packed_taps(expected_taps)
    content = block_model(options, kernels, vectors, shape, taps.size)
    results = [start_engine(f"acdbit:{path}", content).run([x]) for path in runtime.kernel_paths()]
    results.append(start_engine("acdbit", content, 3).run([x]))
    results.append([*start_engine("acdbit", block_model(options, kernels, vectors, shape)).run([x]), results[0][1]])
    for result in results:
        np.testing.assert_array_equal(result[0], results[0][0])
        np.testing.assert_array_equal(result[1], results[0][1])
    assert (results[0][1] != taps).mean() <= 1e-3
    if np.array_equal(results[0][1], taps):
        np.testing.assert_array_equal(results[0][0], expected)


def test_images_of_a_batch_do_not_see_each_other():
    import test_runtime_delegate

    rng = np.random.default_rng(0)
    cases = [attention_case(np.random.default_rng(0)) for _ in range(3)]
    for case in cases:
        case[1].update({name: rng.random(rows.shape) < 0.5 for name, rows in case[1].items()})
    content = attention_model(*cases[0])
    single = start_engine("acdbit", content)
    expected = np.concatenate([single.run(attention_inputs(case[1], {}))[0] for case in cases])
    interpreter = test_runtime_delegate.stock(content)
    arrays = [np.concatenate(parts) for parts in zip(*(attention_inputs(case[1], {}) for case in cases))]
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.resize_tensor_input(detail["index"], array.shape)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    np.testing.assert_array_equal(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), expected)

    shape = (1, 4, 5, 128)
    content = block_model(BLOCK, *block_constants(rng, BLOCK, 128, 20), shape)
    single = start_engine("acdbit", content)
    images = rng.normal(size=(3, *shape[1:])).astype(F32)
    expected = np.concatenate([single.run([image[None]])[0] for image in images])
    interpreter = test_runtime_delegate.stock(content, num_threads=2)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    interpreter.allocate_tensors()
    np.testing.assert_array_equal(test_runtime_delegate.run_stock(interpreter, images), expected)


@pytest.mark.parametrize("changes, message", [
    ({"options": {"version": 2}}, "its version 2 is newer than the version 1"),
    ({"options": {"version": None}}, "the option version is missing"),
    ({"options": {"heads": 0}}, "the option heads is 0"),
    ({"options": {"heads": 3}}, "4 words do not divide into 3 heads whose width is a multiple of 32"),
    ({"options": {"heads": 8}}, "4 words do not divide into 8 heads whose width is a multiple of 32"),
    ({"options": {"rule": 4}}, "the option rule is 4"),
    ({"options": {"ratio": float("nan")}}, "the option ratio is not a finite number"),
    ({"options": {"ratio": "a"}}, "the option ratio is not a number"),
    ({"options": {"dynamic": True}}, "it has 7 inputs, it takes 11"),
    ({"options": {"key_bias": True}}, "it has 7 inputs, it takes 8"),
    ({"options": {"key_bias": 2}}, "the option key_bias is not a bool"),
    ({"output": "int32"}, "output 0 holds int32"),
    ({"inputs": lambda i: [i[0], i[1], -1, *i[3:]]}, "input 2 is missing"),
    ({"inputs": lambda i: [i[3], *i[1:]]}, "input 0 holds float32"),
    ({"constants": {"score_scale": np.float32([np.inf, 1])}}, "element 0 of input 3 is not finite"),
    ({"constants": {"score_scale": np.float32([1, 0])}}, "element 1 of input 3 is 0, a scale must be positive"),
    ({"constants": {"score_scale": np.float32([1])}}, "input 3 has 1 elements, it must have 2"),
    ({"constants": {"value_offset": np.full(128, np.nan, F32)}}, "is not finite"),
    ({"constants": {"probability_scale": np.float32([1, -1])}}, "a scale must be positive"),
    ({"constants": {"value_scale": np.full(128, 1e38, F32), "value_offset": np.full(128, -3e38, F32)}}, "overflow"),
])  # fmt: skip
def test_faulty_attention_is_one_sentence(changes, message):
    case = attention_case(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"node 0 \(AcdBinaryAttention\)") as caught:
        start_engine("acdbit", attention_model(*case, **changes))
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_heads_too_wide_for_distances_in_bytes_are_refused():
    sentence = "its heads have 256 channels, at most 224 are supported"
    with pytest.raises(ValueError, match=rf"node 0 \(AcdBinaryAttention\): {sentence}"):
        start_engine("acdbit", attention_model(*attention_case(np.random.default_rng(0), heads=2, head_dim=256)))
    options, shape = {**BLOCK, "heads": 1}, (1, 4, 5, 256)
    kernels, vectors = block_constants(np.random.default_rng(0), options, 256, 20)
    with pytest.raises(ValueError, match=rf"node 0 \(AcdBinaryBlock\): {sentence}"):
        start_engine("acdbit", block_model(options, kernels, vectors, shape))


def test_attention_without_tokens_or_with_unequal_sides_is_refused():
    for rows, message in (
        ((0, 0, 0), "input 0 is empty"),
        ((3, 0, 0), "input 1 is empty"),
        ((3, 4, 5), "4 keys and 5 values"),
    ):
        options, bits, constants, statistics = attention_case(np.random.default_rng(0))
        bits = {name: np.zeros((count, 128), bool) for name, count in zip(bits, rows)}
        with pytest.raises(ValueError, match=message):
            start_engine("acdbit", attention_model(options, bits, constants, statistics))


@pytest.mark.parametrize("changes, shape, message", [
    ({"version": 2}, (1, 4, 5, 128), "its version 2 is newer than the version 1"),
    ({"heads": 8}, (1, 4, 5, 128), "128 channels do not divide into 8 heads whose width is a multiple of 32"),
    ({"heads": 0}, (1, 4, 5, 128), "the option heads is 0"),
    ({"mlp_ratio": 0}, (1, 4, 5, 128), "the option mlp_ratio is 0"),
    ({"mlp_ratio": 2**20}, (1, 4, 5, 128), "too large"),
    ({"mlp_ratio": 4}, (1, 4, 5, 128), "input 1 has 4096 elements"),
    ({"branches": False}, (1, 4, 5, 128), "input 2 has"),
    ({"branches": int(Branches.DEPTHWISE)}, (1, 4, 5, 128), "input 2 has"),
    ({"branches": 3}, (1, 4, 5, 128), "the option branches is 3, it must be in 0..2"),
    ({"branches": -1}, (1, 4, 5, 128), "the option branches is -1, it must be in 0..2"),
    ({"branches": "depthwise"}, (1, 4, 5, 128), "the option branches is not an integer"),
    ({"rule": -1}, (1, 4, 5, 128), "the option rule is -1"),
    ({"branches": None}, (1, 4, 5, 128), "the option branches is missing"),
    ({}, (1, 0, 5, 128), "input 0 is empty"),
    ({}, (1, 20, 128), "input 0 has 3 dimensions"),
    ({}, (1, 4, 5, 64), "input 1 has 4096 elements"),
    ({}, (1, 2**15, 2**15, 128), "too large"),
])  # fmt: skip
def test_faulty_block_is_one_sentence(changes, shape, message):
    kernels, vectors = block_constants(np.random.default_rng(0), BLOCK, 128, 20)
    with pytest.raises(ValueError, match=r"node 0 \(AcdBinaryBlock\)") as caught:
        start_engine("acdbit", block_model({**BLOCK, **changes}, kernels, vectors, shape))
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["score_scale", "probability_scale"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_scales_of_a_block_must_be_positive(name, value):
    kernels, vectors = block_constants(np.random.default_rng(0), BLOCK, 128, 20)
    lengths = device_ops.block_vectors(BLOCK, 128)
    vectors[sum(lengths[other] for other in itertools.takewhile(lambda other: other != name, lengths))] = value
    with pytest.raises(ValueError, match="must be positive" if np.isfinite(value) else "is not finite"):
        start_engine("acdbit", block_model(BLOCK, kernels, vectors, (1, 4, 5, 128)))
