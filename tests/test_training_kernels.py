"""The compiled training kernels against the Keras form of a block: values, gradients, statistics, and where they step back."""

import warnings

import keras
import numpy as np
import pytest
from numerics import array, layer_gradient

from acdbit_keras import execution, models, schemes, statistics
from acdbit_keras.models.blocks import BinaryBlock, FloatBlock
from acdbit_keras.models.vit import VisionTransformer
from acdbit_keras.quantizers import AlignedSign
from acdbit_keras.training import KernelExecutor, available, executor_for, library, why_not

KERAS = execution.KerasExecutor()
TAPS = ("query", "key", "value", "probabilities", "features")
PLACES = ("output", *TAPS)
# One block of the smallest size, and one each that differs in the width of a head, the MLP, the grid, what fills no chunk.
SIZES = [
    dict(width=32, heads=1, mlp_ratio=1, grid=(2, 2), batch=3),
    dict(width=64, heads=1, mlp_ratio=4, grid=(4, 4), batch=9),
    dict(width=96, heads=3, mlp_ratio=3, grid=(3, 5), batch=7),
    dict(width=128, heads=4, mlp_ratio=2, grid=(8, 8), batch=4),
    dict(width=64, heads=2, mlp_ratio=2, grid=(9, 8), batch=2),
    dict(width=288, heads=9, mlp_ratio=4, grid=(2, 2), batch=2),
]
ACD_BIT = schemes.get("acd_bit")
KNOWN = (
    "acd_bit",
    "binary_vit",
    "binary_former",
    "acd_bit[threshold=mean]",
    "acd_bit[restore=off]",
    "acd_bit[threshold=learned]",
    "acd_bit[threshold=shifted_median]",
    "acd_bit[scale=none]",
    "acd_bit[threshold=none,shifts=off]",
    "binary_vit[shifts=off]",
)


def block_of(scheme, width, heads, mlp_ratio, grid, batch, drop_path=0.0, mixing="pooling", seed=0):
    """A block with weights and running statistics that are not those of the start, and a batch for it."""
    keras.utils.set_random_seed(seed)
    block = BinaryBlock(width, heads, mlp_ratio, scheme, drop_path, mixing=mixing, name="block")
    block.build((None, *grid, width))
    random = np.random.default_rng(seed)
    for variable in block.trainable_variables:
        variable.assign(array(variable) + 0.05 * random.normal(size=variable.shape).astype("float32"))
    return block, random.normal(size=(batch, *grid, width)).astype("float32")


def outputs_of(block, images, training, executor):
    """Output, taps and variables after one call."""
    with execution.using(executor):
        outputs, taps = block(images, training=training)
    named = {"output": outputs, **{name: taps[name] for name in TAPS}}
    return {name: array(value) for name, value in named.items()}, [array(v) for v in block.non_trainable_variables]


def all_gradients(block, images, executor, training):
    """Gradients for a sum of the output and of each tap with a gradient, with respect to the input and every weight."""
    shape = (4, *images.shape)
    upstream = np.random.default_rng(1).normal(size=shape).astype("float32")

    def result(outputs):
        output, taps = outputs
        parts = [output, *(keras.ops.reshape(taps[name], images.shape) for name in ("query", "key", "value"))]
        return keras.ops.stack(parts)

    with execution.using(executor):
        by_inputs, by_weights = layer_gradient(block, images, upstream, result, training=training)
    return [by_inputs, *by_weights]


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) + 1e-6)


def assert_alike(block, images, training, executor):
    """Two steps each: the first one sets the running statistics, the second one moves them."""
    start = block.get_weights()
    calls = {}
    for name, own in (("kernels", executor), ("keras", KERAS)):
        block.set_weights(start)
        outputs_of(block, images[::-1].copy(), training, own)
        gradients = all_gradients(block, images, own, training)
        calls[name] = (*outputs_of(block, images, training, own), gradients)
    (values, moved, gradients), (expected, expected_moved, expected_gradients) = calls.values()
    for name in PLACES:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for ours, theirs, variable in zip(moved, expected_moved, block.non_trainable_variables):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=variable.path)
    for ours, theirs, name in zip(gradients, expected_gradients, ["inputs", *(v.path for v in block.trainable_variables)]):
        assert relative(ours, theirs) < 1e-3, name


# === The same numbers ===
@pytest.mark.any_backend
def test_the_kernels_are_compiled_and_called_here():
    assert available(), f"no training kernels at {library.library_path()}"


@pytest.mark.any_backend
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit"])
def test_values_gradients_and_statistics_are_those_of_the_keras_form(scheme, training):
    block, images = block_of(scheme, **SIZES[2])
    assert why_not(block) is None
    assert_alike(block, images, training, KernelExecutor())


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes['width']}x{sizes['heads']}")
@pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit"])
def test_they_are_the_same_for_every_size(scheme, sizes):
    block, images = block_of(scheme, **sizes)
    assert_alike(block, images, True, KernelExecutor())


@pytest.mark.parametrize("scheme", KNOWN)
def test_every_kind_of_sign_that_they_know_is_the_same(scheme):
    block, images = block_of(scheme, **SIZES[1])
    assert why_not(block) is None
    assert_alike(block, images, True, KernelExecutor())


@pytest.mark.any_backend
def test_depthwise_mixing_is_the_same():
    block, images = block_of("acd_bit", **SIZES[0], mixing="depthwise")
    assert why_not(block) is None
    assert_alike(block, images, True, KernelExecutor())


@pytest.mark.parametrize("instructions", ["avx512", "avx2", "portable"])
def test_every_set_of_instructions_is_the_same(monkeypatch, instructions):
    """Where this processor lacks one, the next one runs."""
    monkeypatch.setenv("ACDBIT_KERNELS", instructions)
    for sizes in (SIZES[2], SIZES[3], {**SIZES[2], "mixing": "depthwise"}):
        assert_alike(*block_of("acd_bit", **sizes), True, KernelExecutor())


@pytest.mark.any_backend
def test_stochastic_depth_draws_the_same_numbers():
    results = []
    for executor in (KernelExecutor(), KERAS):
        block, images = block_of("acd_bit", **SIZES[1], drop_path=0.5)
        keras.utils.set_random_seed(3)
        results.append(outputs_of(block, images, True, executor)[0]["output"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    for sizes in (SIZES[0], SIZES[3]):
        block, images = block_of("acd_bit", **sizes)
        start, calls = block.get_weights(), []
        for count in (1, threads):
            block.set_weights(start)
            executor = KernelExecutor(count)
            values, moved = outputs_of(block, images, True, executor)
            calls.append([*values.values(), *moved, *all_gradients(block, images, executor, True)])
        for alone, together in zip(*calls):
            np.testing.assert_array_equal(alone, together)


@pytest.mark.any_backend
@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 16), (7, 37), (64, 16), (129, 5)])
def test_medians_are_those_of_the_columns(rows, columns):
    random = np.random.default_rng(rows * columns)
    for matrix in (random.normal(size=(rows, columns)), random.integers(-2, 3, (rows, columns)), np.zeros((rows, columns))):
        matrix = matrix.astype("float32")
        with execution.using(KernelExecutor()) as executor:
            medians = array(executor.column_medians(keras.ops.convert_to_tensor(matrix), True))
        np.testing.assert_allclose(medians, np.median(matrix, axis=0, keepdims=True), rtol=0, atol=1e-6)
        np.testing.assert_allclose(medians, array(statistics.select_median(keras.ops.convert_to_tensor(matrix))), atol=1e-6)


@pytest.mark.any_backend
def test_what_is_not_a_number_stays_none():
    block, images = block_of("acd_bit", **SIZES[0])
    images[1, 0, 0, 3] = np.nan
    with execution.using(KernelExecutor()):
        outputs, _ = block(images, training=False)
    assert np.isnan(array(outputs)[1]).any()


# === Where they step back ===
@pytest.mark.any_backend
@pytest.mark.parametrize(
    "scheme, reason",
    [
        ("acd_bit[restore=dynamic]", "the quantizer of query is not a sign with frozen statistics"),
        ("acd_bit[axis=token]", "the quantizer of query is not a sign with frozen statistics"),
        ("acd_bit[tracking=batch]", "the quantizer of query is not a sign with frozen statistics"),
        ("bit", "the quantizer of query is not a sign"),
        ("bivit", "its probabilities are not compared with a learned scale"),
        ("bibert", "its probabilities are not compared with a learned scale"),
        ("xnor_net", "the quantizer of attention's query is not a sign with frozen statistics"),
        (ACD_BIT.replace(value=AlignedSign(channel_axes=2, batch_share=0.25)), "value has statistics or a scale over other axes"),
        (ACD_BIT.replace(query=AlignedSign(batch_share=0.25)), "attention's query has statistics or a scale over other axes"),
    ],
)
def test_other_schemes_are_told_why_they_have_no_kernels_and_run_in_keras(scheme, reason):
    block, images = block_of(scheme, **SIZES[0])
    assert reason in why_not(block)
    assert type(executor_for([block])) is execution.KerasExecutor
    start, results = block.get_weights(), []
    for executor in (KernelExecutor(), KERAS):
        block.set_weights(start)
        results.append(outputs_of(block, images, True, executor)[0]["output"])
    np.testing.assert_array_equal(*results)


@pytest.mark.any_backend
def test_other_blocks_and_precisions_run_in_keras():
    assert "not a binary block" in why_not(FloatBlock(32, 1, 2, "float32"))
    reduced = BinaryBlock(32, 1, 2, "acd_bit", reduction=2)
    reduced.build((None, 4, 4, 32))
    assert "fewer keys" in why_not(reduced)
    large = BinaryBlock(32, 1, 2, "acd_bit")
    large.build((None, 65, 64, 32))
    assert "more than 4096 tokens" in why_not(large)
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = BinaryBlock(32, 1, 2, "acd_bit")
    half.build((None, 4, 4, 32))
    keras.config.set_dtype_policy("float32")
    assert "bfloat16" in why_not(half)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 32)).astype("float32")
    for block in (reduced, half):
        with execution.using(KernelExecutor()):
            assert np.isfinite(array(keras.ops.cast(block(images, training=True)[0], "float32"))).all()


@pytest.mark.any_backend
def test_a_frozen_norm_keeps_its_statistics():
    block, images = block_of("acd_bit", **SIZES[0])
    block.mlp_norm.trainable = False
    before = array(block.mlp_norm.moving_mean)
    with execution.using(KernelExecutor()):
        block(images, training=True)
    np.testing.assert_array_equal(array(block.mlp_norm.moving_mean), before)


@pytest.mark.any_backend
def test_without_the_library_all_runs_in_keras(monkeypatch, tmp_path):
    block, images = block_of("acd_bit", **SIZES[0])
    expected = outputs_of(block, images, False, KERAS)[0]["output"]
    monkeypatch.setenv("ACDBIT_TRAINING", str(tmp_path / "missing.so"))
    assert not available() and type(executor_for([block])) is execution.KerasExecutor
    np.testing.assert_array_equal(outputs_of(block, images, False, KernelExecutor())[0]["output"], expected)


@pytest.mark.any_backend
def test_a_library_that_cannot_be_loaded_is_told_once_and_done_without(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setenv("ACDBIT_TRAINING", str(broken))
    with pytest.warns(UserWarning, match="training runs without compiled kernels, for .*broken.so cannot be loaded"):
        assert not available()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not available()


def test_inside_what_xla_compiles_on_tensorflow_the_keras_form_runs():
    import tensorflow as tf

    block, images = block_of("acd_bit", **SIZES[1])
    inside = {}

    def step(compiled):
        inside[compiled] = available()
        with execution.using(KernelExecutor()):
            return block(images, training=False)[0]

    results = [tf.function(lambda c=compiled: step(c), jit_compile=compiled)().numpy() for compiled in (True, False)]
    assert inside == {True: False, False: True}
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.any_backend
def test_parameters_of_another_size_are_refused_in_a_sentence():
    x = keras.ops.zeros((2, 4, 4, 32))
    options = np.array([1, 2, 1, 1, 1, 0.9, 1e-5, 0.99, 1.0] + [1.0, 0, 0, 0, 0] * 9, "float32")
    few = keras.ops.zeros((3,))
    with pytest.raises(Exception, match="the parameters are not those of a block of this size"):
        array(library.block(x, keras.ops.ones((2, 2)), few, few, few, options)[0])


@pytest.mark.any_backend
@pytest.mark.parametrize("threads", [0, -1])
def test_a_kernel_has_one_thread_at_least(threads):
    with pytest.raises(ValueError, match=f"threads must be at least 1, not {threads}"):
        KernelExecutor(threads)


# === Networks ===
def small_network(scheme="acd_bit"):
    keras.utils.set_random_seed(0)
    sizes = dict(image_size=16, patch_size=4, channels=3, width=64, depth=2, num_heads=2, mlp_ratio=2)
    return VisionTransformer(scheme=scheme, classes=4, stem="pooled", **sizes)


@pytest.mark.parametrize("executor", [KernelExecutor(), KERAS], ids=["kernels", "keras"])
def test_without_shifts_nothing_is_added_per_channel_after_training_either(executor):
    network = small_network("acd_bit[shifts=off]")
    whole = small_network()
    assert len(whole.trainable_variables) - len(network.trainable_variables) == 2 * (9 + 2 * 7 + 3)
    network.trainable = False
    network.trainable = True
    random = np.random.default_rng(0)
    network.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with execution.using(executor):
        network.fit(random.normal(size=(32, 16, 16, 3)), random.integers(0, 4, 32), epochs=2, verbose=0)
    held, moved = [], []
    for variable in network.variables:
        if "block" in variable.path:
            name = variable.path.rpartition("/")[2]
            (held if name in ("beta", "shift", "shift_in", "shift_out") else moved).append(variable)
    assert len(held) == 2 * (9 + 2 * 7 + 3) and not any(array(variable).any() for variable in held)
    assert sum(bool(array(v).any()) for v in moved) > len(moved) / 2


@pytest.mark.any_backend
def test_a_network_trained_on_kernels_is_saved_like_any_other_and_runs_without_them(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 64)
    images = (random.normal(size=(64, 16, 16, 3)) + labels[:, None, None, None]).astype("float32")
    losses, paths = {}, {}
    for executor in (KernelExecutor(), KERAS):
        network = small_network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.AdamW(2e-3), loss, jit_compile=keras.config.backend() == "jax")
        with execution.using(executor):
            history = network.fit(images, labels, batch_size=32, epochs=3, verbose=0, shuffle=False)
        losses[executor] = history.history["loss"]
        path = tmp_path / "model.keras"
        network.save(path)
        paths[executor] = [(v.path.partition("/")[2], tuple(v.shape)) for v in models.load_model(path).variables]
        np.testing.assert_allclose(
            array(models.load_model(path)(images[:8])), array(network(images[:8], training=False)), rtol=1e-5, atol=1e-5
        )
    on_kernels, in_keras = losses.values()
    assert on_kernels[0] == pytest.approx(in_keras[0], rel=1e-3)
    assert on_kernels[-1] < on_kernels[0]
    assert len({tuple(names) for names in paths.values()}) == 1
