"""Compact files: what they keep, what they cost, and what a bad one says."""

import resource
import signal

import keras
import numpy as np
import pytest
from numerics import array

from acdbit_keras import quantizers, schemes
from acdbit_keras.models import build, load_compact, save_compact
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.pyramid import PyramidVisionTransformer
from acdbit_keras.models.vit import VisionTransformer

TINY = dict(image_size=8, patch_size=4, channels=1, width=64, depth=1, num_heads=2, mlp_ratio=2, classes=3)
PYRAMID = dict(image_size=8, patch_size=2, channels=1, widths=(32, 64), depths=(1, 1), num_heads=(1, 2))
PYRAMID |= dict(mlp_ratios=(2, 2), reductions=(2, 1), classes=3)


def trained(cls, scheme, sizes):
    """A model whose every weight is as training leaves it: no two numbers alike."""
    model, rng = cls(scheme=scheme, **sizes), np.random.default_rng(0)
    model(rng.normal(size=(4, *model.input_shape_of_images)).astype("float32"), training=True)
    for weight in model.variables:
        if keras.backend.is_float_dtype(weight.dtype) and not weight.path.endswith("started"):
            noise = np.exp(0.1 * rng.normal(size=weight.shape))
            shift = 0.0 if "variance" in weight.path else 0.01 * rng.normal(size=weight.shape)
            weight.assign(array(weight) * noise + shift)
    return model


def with_weight(weight):
    return schemes.get("acd_bit").replace(weight=quantizers.get(weight))


MODELS = {
    "float_twin": (VisionTransformer, "float32", TINY),
    "acd_bit": (VisionTransformer, "acd_bit", TINY),
    "learned_scale": (VisionTransformer, "bivit", TINY),
    "per_tensor": (VisionTransformer, "bit", TINY),
    "restored": (VisionTransformer, with_weight(quantizers.WeightSign("mean", "mad", restore=True)), TINY),
    "zero_one": (VisionTransformer, with_weight("ste_heaviside"), TINY),
    "half_float": (VisionTransformer, schemes.get("acd_bit").replace(real=("mlp",)), TINY),
    "pyramid": (PyramidVisionTransformer, "acd_bit", PYRAMID),
}


@pytest.fixture(scope="module")
def student():
    return trained(*MODELS["acd_bit"])


def images(model):
    return np.random.default_rng(1).normal(size=(8, *model.input_shape_of_images)).astype("float32")


def logits(model):
    return array(model(images(model), training=False))


# One of them under JAX too: the others differ in what is stored, which no backend touches.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.any_backend if name == "acd_bit" else ()) for name in MODELS]
)
def test_a_loaded_model_computes_the_same(name, tmp_path):
    model = trained(*MODELS[name])
    written = save_compact(model, tmp_path / "a.acdbit", "float32")
    loaded = load_compact(tmp_path / "a.acdbit")
    assert written == (tmp_path / "a.acdbit").stat().st_size
    np.testing.assert_allclose(logits(loaded), logits(model), rtol=0, atol=1e-5)


def test_fewer_bytes_per_number_mean_smaller_files_and_less_precision(student, tmp_path):
    sizes, errors = [], []
    for precision in ("float32", "float24", "float16"):
        sizes.append(save_compact(student, tmp_path / "a.acdbit", precision))
        loaded = load_compact(tmp_path / "a.acdbit")
        gamma = [array(model.blocks[0].attention_norm.gamma) for model in (student, loaded)]
        errors.append(np.abs(gamma[1] / gamma[0] - 1).max())
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] == 0 < errors[1] <= 2.0**-16 < errors[2] <= 2.0**-11


def test_a_block_takes_a_twentieth_of_its_float_weights_in_deit_small(tmp_path):
    sizes = {**TINY, "width": 384, "num_heads": 6, "mlp_ratio": 4}
    bytes_, parameters = [], []
    for depth in (1, 2):
        model = trained(VisionTransformer, "acd_bit", {**sizes, "depth": depth})
        bytes_.append(save_compact(model, tmp_path / "a.acdbit"))
        parameters.append(sum(np.prod(weight.shape) for weight in model.trainable_variables))
    assert 20 * (bytes_[1] - bytes_[0]) < 4 * (parameters[1] - parameters[0])


def test_numbers_beyond_half_precision_are_kept(student, tmp_path):
    shift = student.blocks[0].mlp_norm.moving_mean
    before = array(shift)
    shift.assign(before + 1e6)
    save_compact(student, tmp_path / "a.acdbit", "float16")
    loaded = load_compact(tmp_path / "a.acdbit")
    np.testing.assert_allclose(array(loaded.blocks[0].mlp_norm.moving_mean), before + 1e6, rtol=2.0**-15)
    shift.assign(before)


def test_it_is_saved_again_in_either_form(student, tmp_path):
    save_compact(student, tmp_path / "a.acdbit")
    loaded = load_compact(tmp_path / "a.acdbit")
    save_compact(loaded, tmp_path / "b.acdbit")
    loaded.save(tmp_path / "c.keras")
    assert (tmp_path / "a.acdbit").read_bytes() == (tmp_path / "b.acdbit").read_bytes()
    for name in ("b.acdbit", "c.keras"):
        np.testing.assert_allclose(logits(load_model(tmp_path / name)), logits(loaded), rtol=0, atol=1e-6)


def test_it_refuses_to_be_trained(student, tmp_path):
    save_compact(student, tmp_path / "a.acdbit")
    loaded = load_compact(tmp_path / "a.acdbit")
    assert not loaded.trainable_variables
    loaded.trainable = True
    with pytest.raises(ValueError, match="has the signs of its weights only, which cannot be trained"):
        loaded(images(loaded), training=True)
    loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    with pytest.raises(ValueError, match="which cannot be trained"):
        loaded.fit(images(loaded), np.zeros(8, int), verbose=0)


def test_bad_files_say_what_is_wrong(student, tmp_path):
    path = tmp_path / "a.acdbit"
    save_compact(student, path)
    content = path.read_bytes()

    def error(changed):
        path.write_bytes(changed)
        with pytest.raises(ValueError) as caught:
            load_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    for length in (9, 19, 25, len(content) // 2, len(content) - 1):
        assert "truncated" in error(content[:length])
    assert "damaged" in error(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    for foreign in (b"", b"PK\x03\x04" + bytes(100)):
        assert "is not a compact model file" in error(foreign)
    newer = bytearray(content)
    newer[8] = 9
    assert "format version 9, this acdbit-keras reads up to 1" in error(bytes(newer))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_compact(tmp_path / "none.acdbit")


def test_what_is_not_of_one_bit_is_refused(student, tmp_path):
    with pytest.raises(ValueError, match="weights of one bit, or of the scheme 'float32', not the scheme 'fq_vit_w8a4'"):
        save_compact(build("vit_nano_patch2_8", "fq_vit_w8a4", depth=1), tmp_path / "a.acdbit")
    with pytest.raises(ValueError, match="holds a backbone, not Sequential"):
        save_compact(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), tmp_path / "a.acdbit")
    with pytest.raises(ValueError, match="precision must be one of 'float16', 'float24', 'float32', not 'int8'"):
        save_compact(student, tmp_path / "a.acdbit", "int8")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(student, tmp_path):
    path = tmp_path / "a.acdbit"
    path.write_bytes(b"old")
    # A file-size limit fails the write in its middle, as a full disk does.
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write .*a.acdbit: File too large; what was there before is kept"):
            save_compact(student, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["a.acdbit"]
