"""The isotropic backbone: sizes, taps, every preset and scheme, compiled and in half precision."""

import inspect

import keras
import numpy as np
import pytest
from numerics import array, nameless

from acdbit_keras import models, schemes
from acdbit_keras.models.cnn import ConvolutionalNetwork
from acdbit_keras.models.sizes import registry
from acdbit_keras.models.vit import VisionTransformer

NANO = dict(image_size=8, patch_size=4, channels=1, width=32, depth=1, num_heads=1, mlp_ratio=2, classes=3)
SCHEMES = schemes.names()


def images(count=2, size=8, channels=1):
    return np.random.default_rng(0).normal(size=(count, size, size, channels)).astype(np.float32)


@pytest.mark.parametrize(
    "preset, scheme",
    [
        (preset, scheme)
        for preset in models.presets()
        if registry.get(preset).backbone is not ConvolutionalNetwork  # without blocks and schemes: tests/models/test_cnn.py
        for scheme in (SCHEMES if "nano" in preset else ("float32", "acd_bit"))
    ],
)
def test_every_preset_and_scheme_build(preset, scheme):
    """Shallow: further blocks are copies."""
    found = registry.get(preset)
    sizes = found.sizes
    given = {name: parameter.default for name, parameter in inspect.signature(found.backbone).parameters.items()} | sizes
    shallow = {"depth": 2} if "depth" in given else {"depths": (1,) * len(given["depths"])}
    model = models.build(preset, scheme, classes=7, **shallow)
    assert model.compute_output_shape((None, *model.input_shape_of_images)) == (None, 7)
    config = model.get_config()
    assert {name: config[name] for name in sizes if name not in shallow} == {
        name: value for name, value in sizes.items() if name not in shallow
    }
    # Sequences have no width.
    side = model.image_size[0] if preset.startswith("vit1d") else model.image_size
    assert side == int(preset.rpartition("_")[2]) and model.count_params() > 0


def test_deit_small_has_its_published_size():
    """DeiT-S with 1000 classes has 22,050,664 parameters, of which a class token and its position are 384 each."""
    model = models.build("vit_small_patch16_224", "float32", classes=1000)
    assert model.count_params() == 22_050_664 - 2 * 384
    assert (model.width, model.depth, model.num_heads, model.grid) == (384, 12, 6, 14)


@pytest.mark.any_backend
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size, patch, stem", [(6, 2, "patch"), (8, 4, "convolutional"), (8, 2, "pooled")])
def test_taps(scheme, size, patch, stem):
    options = {**NANO, "image_size": size, "patch_size": patch, "depth": 2, "stem": stem, "width": 64, "num_heads": 2}
    model = VisionTransformer(scheme=scheme, **options)
    outputs = model(images(3, size), return_taps=True)
    grid = size // patch
    assert outputs["logits"].shape == (3, 3) and len(outputs["taps"]) == 2
    for tap in outputs["taps"]:
        assert tap["query"].shape == tap["key"].shape == (3, grid**2, 2, 32)
        assert tap["probabilities"].shape == (3, 2, grid**2, grid**2)
        assert tap["features"].shape == (3, grid, grid, 64)
    np.testing.assert_array_equal(array(model(images(3, size))), array(outputs["logits"]))
    quantizer, probabilities = model.blocks[0].attention.probabilities_quantizer, array(outputs["taps"][0]["probabilities"])
    if quantizer.is_binary:
        assert len(set(np.unique(probabilities)) - {0.0}) <= 1
    elif quantizer.bits == 32:
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_query_tap_is_real_and_carries_gradient(scheme):
    outputs = VisionTransformer(scheme=scheme, **NANO)(images(), return_taps=True)
    assert len(np.unique(array(outputs["taps"][0]["query"]))) > 4


def test_the_student_has_one_position_per_token_at_any_size():
    for size in (4, 12, 20):
        model = VisionTransformer(**{**NANO, "image_size": size})
        assert model.positions.shape == (1, size // 4, size // 4, 32)
        assert model(images(1, size)).shape == (1, 3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 10}, "image_size=10 is not divisible by patch_size=4"),
        ({"width": 48, "num_heads": 5}, "the width 48 is not divisible by num_heads=5"),
        ({"width": 96, "num_heads": 2}, "the head width 48 .* not a multiple of 32: .* 32-bit words"),
        ({"classes": 0}, "classes must be an integer of at least 1, not 0"),
        ({"depth": 1.5}, "depth must be an integer of at least 1, not 1.5"),
        ({"stem": "conv"}, "stem must be one of 'patch', 'convolutional', 'pooled', 'wide_pooled', not 'conv'"),
        ({"mixing": "conv"}, "mixing must be one of 'pooling', 'depthwise', not 'conv'"),
        ({"scheme": "acd_bot"}, "unknown scheme 'acd_bot'; known: .*float32.*did you mean 'acd_bit'"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**{**NANO, **changes})


def test_unknown_preset():
    with pytest.raises(
        ValueError, match="unknown preset 'vit_nano'; known: .*vit_tiny_patch4_32.*did you mean 'vit_nano_patch2_8'"
    ):
        models.build("vit_nano")


def test_images_of_another_size_are_refused():
    """One of a single patch would broadcast against the positions."""
    model = VisionTransformer(**NANO)
    for wrong in (images(2, 4), images(2, 16), images(2, 8, 3)):
        with pytest.raises(ValueError, match="expected shape=.None, 8, 8, 1."):
            model(wrong)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_config_round_trip(scheme):
    model = VisionTransformer(scheme=scheme, **NANO, drop_path=0.25)
    again = VisionTransformer.from_config(model.get_config())
    assert nameless(again.get_config()) == nameless(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(array(again(images())), array(model(images())))


@pytest.mark.parametrize("scheme", ["acd_bit", "bit", "float32"])
def test_mixing_is_what_branches_have_and_nothing_elsewhere(scheme):
    pooled, mixed = (VisionTransformer(scheme=scheme, **NANO, mixing=mixing) for mixing in ("pooling", "depthwise"))
    again = VisionTransformer.from_config(mixed.get_config())
    assert again.mixing == "depthwise" and all(block.mixing == "depthwise" for block in again.blocks)
    more = mixed.count_params() - pooled.count_params()
    assert more == (len(mixed.blocks) * mixed.width * (9 - 4) if scheme == "acd_bit" else 0)


def test_configurations_from_before_mixing_could_be_chosen_pool():
    config = VisionTransformer(**NANO).get_config()
    assert config.pop("mixing") == "pooling"
    assert VisionTransformer.from_config(config).blocks[0].pooling.gain.shape[0] == 2


def test_schemes_have_copies_of_their_quantizers():
    first, second = (VisionTransformer(**NANO) for _ in range(2))
    ids = [{id(weight) for weight in model.weights} for model in (first, second)]
    assert not ids[0] & ids[1]
    assert first.blocks[0].query_product.dense.input_quantizer is not second.blocks[0].query_product.dense.input_quantizer


COMPILED = keras.config.backend() == "jax"


def step(jit_compile=COMPILED):
    keras.utils.set_random_seed(5)
    model = VisionTransformer(scheme="acd_bit", **NANO)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit_compile)
    x, y = images(8), np.arange(8) % 3
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    return model, np.array(history.history["loss"])


def test_jit_compile_changes_nothing():
    """The same steps with XLA and without, running statistics included."""
    (plain, plain_loss), (compiled, compiled_loss) = step(False), step(True)
    np.testing.assert_allclose(compiled_loss, plain_loss, rtol=1e-3)
    for a, b in zip(plain.weights, compiled.weights):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-2, atol=1e-3, err_msg=a.path)


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.any_backend)])
def test_mixed_precision_runs_a_step(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, loss = step()
        assert model.blocks[0].query_product.dense.compute_dtype == policy.removeprefix("mixed_")
        taps = model(images(), return_taps=True)["taps"]
        assert str(keras.backend.standardize_dtype(taps[0]["query"].dtype)) == policy.removeprefix("mixed_")
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.all(np.isfinite(loss))
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)
    # A model that was trained in half precision is not tied to it.
    again = VisionTransformer.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert again.compute_dtype == "float32" and np.all(np.isfinite(array(again(images()))))


def test_stochastic_depth_drops_whole_images():
    model = VisionTransformer(**{**NANO, "depth": 2}, drop_path=0.5)
    assert [block.drop_path_rate for block in model.blocks] == [0.0, 0.5]
    x = np.repeat(images(1), 64, 0)
    features = array(model.blocks[1](np.repeat(np.float32(array(model.patch_embedding(x[:1]))), 64, 0), training=True)[0])
    # Two draws per image: four outcomes, of which a batch of 64 equal images shows all.
    assert len(np.unique(np.round(features.reshape(64, -1), 3), axis=0)) == 4
