"""The pyramid backbone: its published size, reduced keys and values, merging of tokens, distillation from its float twin."""

import json

import keras
import numpy as np
import pytest
from numerics import array, layer_gradient, nameless

from acdbit_keras import Distiller, models, schemes
from acdbit_keras.layers.pooling import average_windows, gather_windows, spread_windows
from acdbit_keras.models.blocks import BLOCKS, PatchMerging
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.pyramid import PyramidVisionTransformer

NANO = dict(
    image_size=8, patch_size=1, channels=1, classes=3,
    widths=(32, 64), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(4, 2), reductions=(4, 2),
)  # fmt: skip
SCHEMES = ["float32", "binary_vit", "acd_bit"]
WIDTHS, DEPTHS, HIDDEN = (64, 128, 256, 512), (3, 4, 8, 4), (512, 1024, 1024, 2048)


def images(count=2, size=8, channels=1):
    return np.random.default_rng(0).normal(size=(count, size, size, channels)).astype(np.float32)


def trained(scheme):
    """Statistics and shifts that no start has."""
    model = PyramidVisionTransformer(scheme, **NANO)
    rng = np.random.default_rng(1)
    model(images(16), training=True)
    for weight in model.trainable_weights:
        if not weight.path.endswith("probabilities_quantizer/scale"):
            weight.assign_add(0.05 * rng.normal(size=weight.shape))
    return model


# --- Sizes ----------------------------------------------------------------------------------------------------------


def test_binary_vit_has_its_published_size():
    """22.49 million at 1000 classes, running statistics not counted.

    Ours differ in two vectors: the four pooling branches of a block, which are added, have one shift between them
    instead of one each, and the merging product has a threshold for each channel of its four tokens instead of one.
    """
    model = models.build("pyramid_small_patch4_224", "binary_vit", classes=1000)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    shifts = 3 * sum(width * depth for width, depth in zip(WIDTHS, DEPTHS))
    thresholds = 3 * sum(WIDTHS[:-1])
    assert (trainable + shifts - thresholds) / 1e6 == pytest.approx(22.49, abs=0.005)
    reduced = [depth if side > 1 else 0 for depth, side in zip(DEPTHS, model.reductions)]
    kernels = sum(
        depth * (4 * width**2 + 2 * width * hidden) + extra * width**2
        for width, depth, hidden, extra in zip(WIDTHS, DEPTHS, HIDDEN, reduced)
    ) + sum(4 * width * 2 * width for width in WIDTHS[:-1])
    found = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights if "kernel" in weight.path)
    assert found == kernels + 4 * 4 * 3 * 64 + 512 * 1000
    assert [tuple(merging.positions.shape[1:3]) for merging in model.mergings] == [(28, 28), (14, 14), (7, 7)]


@pytest.mark.parametrize(
    "preset, tokens, keys",
    [
        ("pyramid_nano_patch1_8", [64, 16], [16, 16]),
        ("pyramid_micro_patch2_32", [256, 64, 16], [16, 16, 16]),
        ("pyramid_small_patch2_32", [256, 64, 16, 4], [16, 16, 16, 4]),
        ("pyramid_small_patch2_64", [1024, 256, 64, 16], [16, 16, 64, 16]),
    ],
)
def test_presets_have_the_tokens_they_say(preset, tokens, keys):
    model = models.build(preset, "acd_bit", depths=(1,) * len(tokens))
    taps = model(images(1, model.image_size, model.channels), return_taps=True)["taps"]
    assert [tap["query"].shape[1] for tap in taps] == tokens
    assert [tap["key"].shape[1] for tap in taps] == keys


# --- Taps, gradients, configuration ---------------------------------------------------------------------------------


@pytest.mark.any_backend
@pytest.mark.parametrize("scheme", SCHEMES)
def test_taps(scheme):
    model = PyramidVisionTransformer(scheme, **NANO)
    outputs = model(images(3), return_taps=True)
    assert outputs["logits"].shape == (3, 3)
    for tap, tokens, keys, heads in zip(outputs["taps"], (64, 16), (4, 4), (1, 2)):
        assert tap["query"].shape == (3, tokens, heads, 32)
        assert tap["key"].shape == tap["value"].shape == (3, keys, heads, 32)
        assert tap["probabilities"].shape == (3, heads, tokens, keys)
    assert [tap["features"].shape for tap in outputs["taps"]] == [(3, 8, 8, 32), (3, 4, 4, 64)]
    np.testing.assert_array_equal(array(model(images(3))), array(outputs["logits"]))


@pytest.mark.parametrize("scheme, merging", [("float32", "binary"), ("acd_bit", "binary"), ("acd_bit", "float")])
def test_every_weight_gets_a_gradient(scheme, merging):
    model = PyramidVisionTransformer(scheme, merging=merging, **NANO)
    # From thresholds and gains that are not 0, which would stop it.
    for weight in model.trainable_weights:
        if weight.path.endswith("gain"):
            weight.assign(np.full(weight.shape, 0.5))
    _, gradients = layer_gradient(model, images(8), np.ones((8, 3), np.float32) * np.array([1, -2, 3], np.float32), training=True)
    without = [weight.path for weight, value in zip(model.trainable_weights, gradients) if not np.any(value)]
    assert not without


@pytest.mark.parametrize("scheme", SCHEMES)
def test_config_and_file_round_trip(scheme, tmp_path):
    model = trained(scheme)
    again = PyramidVisionTransformer.from_config(json.loads(json.dumps(model.get_config())))
    assert nameless(again.get_config()) == nameless(model.get_config())
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(load_model(tmp_path / "model.keras")(images())), array(model(images())))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"widths": (32, 64, 128)}, r"depths must have one number per stage, as many as widths=\(32, 64, 128\), not \(1, 1\)"),
        ({"widths": 32}, "widths must have one number per stage"),
        ({"depths": (1, 0)}, "depths must be an integer of at least 1, not 0"),
        ({"merging": "conv"}, "merging must be one of 'binary', 'float', not 'conv'"),
        ({"image_size": 7}, "image_size=7 and patch_size=1 give 7 tokens per side, which 2 stages cannot halve 1 times"),
        ({"reductions": (3, 1)}, "a grid of 8 x 8 tokens does not divide into windows of side 3, the reduction"),
        ({"widths": (64, 96), "num_heads": (1, 3)}, "the width 96 is not a multiple of 64"),
        ({"num_heads": (1, 4)}, "the head width 16 .* not a multiple of 32"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        PyramidVisionTransformer(**{**NANO, **changes})


# --- What the parts compute -----------------------------------------------------------------------------------------


@pytest.mark.any_backend
def test_windows():
    x = np.random.default_rng(2).normal(size=(2, 4, 6, 3)).astype(np.float32)
    windows = x.reshape(2, 2, 2, 3, 2, 3)
    np.testing.assert_allclose(array(average_windows(x, 2)), windows.mean((2, 4)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(array(spread_windows(x, 3)), x.repeat(3, 1).repeat(3, 2))
    np.testing.assert_array_equal(array(gather_windows(x, 2)), windows.transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 3, 12))


@pytest.mark.any_backend
@pytest.mark.parametrize("name", ["float32", "acd_bit"])
def test_keys_and_values_are_those_of_windows(name):
    """Exchanging tokens within windows exchanges the queries and leaves keys and values as they are; beyond, it does not."""
    scheme = schemes.get(name)
    block = BLOCKS[scheme.block](32, 1, 2, scheme, reduction=2)
    x = np.random.default_rng(3).normal(size=(1, 4, 4, 32)).astype(np.float32)
    block.build((None, 4, 4, 32))
    taps, within, beyond = (block(moved)[1] for moved in (x, x[:, [1, 0, 3, 2]], x[:, [0, 2, 1, 3]]))
    for place in ("key", "value"):
        assert taps[place].shape[1] == 4
        np.testing.assert_allclose(array(within[place]), array(taps[place]), rtol=1e-4, atol=1e-5)
        assert np.abs(array(beyond[place]) - array(taps[place])).max() > 1e-2
    rows = array(taps["query"]).reshape(4, 4, 32)
    np.testing.assert_allclose(array(within["query"]).reshape(4, 4, 32), rows[[1, 0, 3, 2]], rtol=1e-4, atol=1e-5)


@pytest.mark.any_backend
def test_keys_and_values_are_added_to_all_tokens_of_their_window():
    """Behind zero attention, norms that pass everything and an open activation the context is q + up(k) + up(v)."""
    block = BLOCKS["binary"](32, 1, 1, schemes.get("binary_vit").replace(branches=False), reduction=2)
    block.build((None, 4, 4, 32))
    block.attention.probabilities_quantizer.factor.assign(2.1)  # no probability reaches half of it: P = 0
    block.context_activation.slope.assign(np.ones(32))
    seen = {}
    block.output_product.call = lambda inputs, shortcut, training=None: seen.update(context=inputs) or inputs
    x = np.random.default_rng(4).normal(size=(1, 4, 4, 32)).astype(np.float32)
    taps = block(x)[1]
    query, key, value = (array(taps[place])[0, :, 0] for place in ("query", "key", "value"))
    spread = (key + value).reshape(2, 2, 32).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(array(seen["context"])[0], query.reshape(4, 4, 32) + spread, rtol=1e-4, atol=1e-5)


@pytest.mark.any_backend
def test_merging_is_a_convolution_of_2_x_2_tokens_and_stride_2():
    x = np.random.default_rng(5).normal(size=(2, 4, 6, 32)).astype(np.float32)

    def convolved(tokens, kernel):
        return array(keras.ops.conv(tokens, np.reshape(kernel, (2, 2, 32, 64)), strides=2))

    real = PatchMerging(64, "float32")
    real.build(x.shape)
    expected = array(real.norm(convolved(x, array(real.dense.kernel)))) + array(real.positions)
    np.testing.assert_allclose(array(real(x)), expected, rtol=1e-4, atol=1e-4)

    binary = PatchMerging(64, "binary_vit")
    binary.build(x.shape)
    kernel = array(binary.product.dense.kernel)
    scale = np.abs(kernel).mean(0)
    signs = np.where(kernel >= kernel.mean(0), 1, -1) * scale
    u = x / np.sqrt(1 + 1e-5)
    product = convolved(np.where(u >= 0, 1, -1).astype(np.float32), signs.astype(np.float32)) / np.sqrt(1 + 1e-5)
    z = product + np.tile(u.reshape(2, 2, 2, 3, 2, 32).mean((2, 4)), 2)
    expected = np.where(z > 0, z, 0.25 * z) + array(binary.positions)
    np.testing.assert_allclose(array(binary(x)), expected, rtol=1e-4, atol=1e-4)


# --- Distillation ---------------------------------------------------------------------------------------------------


def test_a_student_learns_from_its_float_twin():
    teacher, student = (PyramidVisionTransformer(scheme, **NANO) for scheme in ("float32", "acd_bit"))
    distiller = Distiller(teacher, student)
    # Eager on TensorFlow: tracing takes longer than these steps.
    distiller.compile(keras.optimizers.Adam(5e-3), metrics=["accuracy"], run_eagerly=keras.config.backend() == "tensorflow")
    x, y = images(16), np.arange(16) % 3
    history = distiller.fit(x, y, batch_size=16, epochs=4, verbose=0, shuffle=False).history
    assert min(history["query_key_loss"]) < history["query_key_loss"][0]
    assert history["loss"][-1] < history["loss"][0]


def test_a_teacher_with_other_reductions_is_refused():
    teacher = PyramidVisionTransformer("float32", **{**NANO, "reductions": (2, 1)})
    with pytest.raises(ValueError, match="block 0: the teacher has 16 key tokens, the student 4; they must agree"):
        Distiller(teacher, PyramidVisionTransformer("acd_bit", **NANO))
