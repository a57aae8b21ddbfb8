"""Conversion: every product of bits packed, the same numbers as Keras, and one clear error where it cannot be done."""

import os
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from trained_models import images, jittered, predict_in_batches, trained

from acdbit_keras import models, quantizers
from acdbit_keras.code import Code
from acdbit_keras.convert import Interpreter, export, flatbuffer, rewrite, to_tflite, verify
from acdbit_keras.layers import BinaryDense
from acdbit_keras.models.loading import load_model
from acdbit_keras.quantizers import AlignedSign, WeightSign

# Whole blocks as one op, layers as ops of their own, and what Larq Compute Engine's own runtime executes.
FORMS = {"blocks": {}, "layers": {"fuse_blocks": False}, "float": {"attention": "float"}}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def predictions(model, path, samples):
    ours = model(samples, training=False).numpy()
    return ours, Interpreter(os.fspath(path)).predict(samples)


def sequential(*layers, shape):
    keras.utils.set_random_seed(3)
    return jittered(keras.Sequential([keras.layers.Input(shape), *layers]))


def binary(units, **options):
    return BinaryDense(units, input_quantizer="ste_sign", kernel_quantizer=WeightSign(), **options)


@forms
@pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit"])
def test_every_product_of_bits_of_a_backbone_is_packed(scheme, form, tmp_path):
    model = trained(scheme)
    report = to_tflite(model, tmp_path / "student.tflite", **form)
    assert report.precision == "bits" and report.packed_layers == 6 * model.depth
    # query, key, value, output: 64 x 64 bits; feed-forward: 64 x 256 and 256 x 64 bits.
    assert report.packed_bytes == model.depth * (4 * 64 * 64 + 2 * 64 * 256) // 8
    assert report.bytes == os.path.getsize(tmp_path / "student.tflite")
    assert str(report.packed_layers) in str(report)
    assert report.to_dict()["attention"] == form.get("attention", "binary")


@forms
def test_which_ops_carry_out_a_backbone(form, tmp_path):
    model = trained("acd_bit")
    report = to_tflite(model, tmp_path / "student.tflite", **form)
    binary = {name: count for name, count in report.op_counts.items() if name.startswith(("Lce", "Acd"))}
    depth = model.depth
    if form == FORMS["blocks"]:
        assert binary == {"AcdBinaryBlock": depth}
    elif form == FORMS["layers"]:
        assert binary == {"LceQuantize": 9 * depth, "LceBconv2d": 6 * depth, "AcdBinaryAttention": depth}
    else:
        assert binary == {"LceQuantize": 9 * depth, "LceBconv2d": 6 * depth, "LceDequantize": 3 * depth}
    in_bits = form != FORMS["float"]
    assert (report.attention_products == 0) is (report.float_copies == 0) is in_bits
    assert ("0 attention products in float, 0 float copies of bits" in str(report)) is in_bits


@pytest.mark.parametrize("stem, convolutions", [("pooled", 3), ("wide_pooled", 2)])
@pytest.mark.parametrize("form", [FORMS["blocks"], FORMS["layers"]], ids=["blocks", "layers"])
def test_a_pooled_stem_is_two_ops_per_halving(form, stem, convolutions, tmp_path):
    keras.utils.set_random_seed(3)
    model = jittered(models.build("vit_nano_pooled4_32", "acd_bit", depth=1, stem=stem))
    report = to_tflite(model, tmp_path / "student.tflite", **form)
    if form == FORMS["blocks"]:
        # Positions, mean over tokens, classifier; norm and ReLU are in the convolutions.
        others = {"ADD": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
        assert report.op_counts == {"CONV_2D": convolutions, "MAX_POOL_2D": 2, "AcdBinaryBlock": 1, **others}
    samples = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    assert verify(model, report.path, samples).ok


@pytest.mark.parametrize("form", [FORMS["blocks"], FORMS["layers"]], ids=["blocks", "layers"])
def test_mixed_tokens_are_in_the_blocks_op_or_one_convolution(form, tmp_path):
    keras.utils.set_random_seed(3)
    model = jittered(models.build("vit_nano_patch2_8", "acd_bit", depth=1, mixing="depthwise"))
    report = to_tflite(model, tmp_path / "student.tflite", **form)
    assert (report.packed_layers, report.attention_products, report.float_copies) == (6, 0, 0)
    if form == FORMS["blocks"]:
        assert report.op_counts["AcdBinaryBlock"] == 1 and "DEPTHWISE_CONV_2D" not in report.op_counts
    else:
        assert report.op_counts["DEPTHWISE_CONV_2D"] == 1 and "PAD" not in report.op_counts
    check_logits(model, report.path)


def test_without_a_runtime_attention_stays_in_float(tmp_path, monkeypatch):
    monkeypatch.setenv("ACDBIT_RUNTIME", os.fspath(tmp_path / "nowhere.so"))
    report = to_tflite(trained("acd_bit"), tmp_path / "student.tflite")
    assert report.attention == "float" and Interpreter(report.path).engine == "lce"
    with pytest.raises(ImportError, match="the compiled runtime is not at .*nowhere.so; install a C"):
        to_tflite(trained("acd_bit"), tmp_path / "other.tflite", attention="binary")
    assert not (tmp_path / "other.tflite").exists()


@forms
@pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit"])
def test_a_student_gives_the_logits_of_keras(scheme, form, tmp_path):
    model = trained(scheme)
    to_tflite(model, tmp_path / "model.tflite", **form)
    # Larq Compute Engine's converter writes out a product per head and image where attention is in float.
    check_logits(model, tmp_path / "model.tflite", batches=form != FORMS["float"])


def test_a_teacher_gives_the_logits_of_keras(tmp_path):
    to_tflite(trained("float32"), tmp_path / "model.tflite")
    check_logits(trained("float32"), tmp_path / "model.tflite")


def check_logits(model, path, batches=True):
    ours, theirs = predictions(model, path, images(64))
    difference = np.abs(ours - theirs).max(axis=1)
    # An activation on its threshold may turn the sign of a sample; the rest agrees to rounding.
    assert np.median(difference) < 1e-5 and (difference < 1e-4).mean() > 0.95
    assert np.abs(ours).max() > 0.1
    if batches:
        np.testing.assert_allclose(predict_in_batches(path, images(64)[:12], (3, 1, 8)), theirs[:12], rtol=0, atol=1e-6)


def test_norms_activations_and_pooling_become_single_nodes(tmp_path):
    model = trained("acd_bit")
    counts = to_tflite(model, tmp_path / "student.tflite", fuse_blocks=False).op_counts
    assert counts["PRELU"] == 7 * model.depth and "NEG" not in counts
    assert counts["DEPTHWISE_CONV_2D"] == 2 * model.depth and "STRIDED_SLICE" not in counts and "PAD" not in counts
    assert not {"RSQRT", "SQUARED_DIFFERENCE", "WHILE", "SQRT"} & set(counts)
    file = flatbuffer.read(os.fspath(tmp_path / "student.tflite"))
    assert max(len(tensor.shape) for tensor in flatbuffer.tensors(file)) <= 4


def test_signs_after_a_norm_become_thresholds(tmp_path):
    norm = keras.layers.BatchNormalization
    model = sequential(binary(96), norm(), binary(64), norm(), binary(7), norm(), shape=(48,))
    report = to_tflite(model, tmp_path / "model.tflite")
    nodes = [node for node in flatbuffer.operators(flatbuffer.read(report.path)) if node.name == "LceBconv2d"]
    assert [node.outputs[0].dtype for node in nodes] == ["int32", "int32", "float32"]
    assert report.packed_layers == 3 and report.op_counts["LceQuantize"] == 1
    samples = images(100, (48,))
    ours, theirs = predictions(model, tmp_path / "model.tflite", samples)
    np.testing.assert_allclose(theirs, ours, atol=2e-5)


@pytest.mark.parametrize("shape", [(40,), (5, 40), (3, 5, 40)])
@pytest.mark.parametrize(
    "activation",
    [
        dict(threshold="median", restore="frozen"),
        dict(threshold="learned", scale=None, restore="off"),
        dict(threshold="shifted_median", restore="frozen"),
        dict(threshold="mean", restore="dynamic", scale="std"),
        dict(threshold="median", axis="token", restore="dynamic"),
        dict(threshold="median", axis="tensor", restore="frozen"),
    ],
    ids=lambda options: "-".join(f"{value}" for value in options.values()),
)
def test_every_alignment_of_the_input_is_packed_and_exact(shape, activation, tmp_path):
    weights = WeightSign(center="median", scale="mad", restore=True)
    layer = BinaryDense(33, AlignedSign(**activation), weights, use_bias=True)
    model = sequential(layer, keras.layers.BatchNormalization(), shape=shape)
    report = to_tflite(model, tmp_path / "model.tflite")
    assert report.packed_layers == 1
    samples = images(50, shape)
    ours, theirs = predictions(model, tmp_path / "model.tflite", samples)
    different = np.abs(theirs - ours) > 1e-4 * np.abs(ours).max()
    assert different.mean() < 0.001


@pytest.mark.parametrize("name", ["ste_sign", "approx_sign", "swish_sign", "ste_heaviside"])
def test_larq_quantizers_are_packed(name, tmp_path):
    kernel = "magnitude_aware_sign" if name == "swish_sign" else name
    model = sequential(BinaryDense(32, name, kernel), shape=(6, 64))
    assert to_tflite(model, tmp_path / "model.tflite").packed_layers == 1
    ours, theirs = predictions(model, tmp_path / "model.tflite", images(20, (6, 64)))
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())


def test_ternary_kernels_stay_in_float(tmp_path):
    model = sequential(binary(64), BinaryDense(32, "ste_sign", "ste_tern"), shape=(64,))
    report = to_tflite(model, tmp_path / "model.tflite")
    assert report.packed_layers == 1
    ours, theirs = predictions(model, tmp_path / "model.tflite", images(20, (64,)))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_a_tensor_read_again_behind_a_reshape_survives(tmp_path):
    # Larq Compute Engine's arena would let the subtraction of the threshold overwrite x, which is added afterwards.
    inputs = keras.layers.Input((7, 64))
    x = keras.layers.BatchNormalization()(inputs)
    y = BinaryDense(64, AlignedSign(), WeightSign())(x)
    keras.utils.set_random_seed(3)
    model = jittered(keras.Model(inputs, x + y))
    assert to_tflite(model, tmp_path / "model.tflite").op_counts["CONCATENATION"] == 1
    ours, theirs = predictions(model, tmp_path / "model.tflite", images(30, (7, 64)))
    assert (np.abs(theirs - ours) > 1e-4).mean() < 0.001


def test_mixed_precision_models_are_converted_in_float32(tmp_path):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = jittered(models.build("vit_nano_patch2_8", "acd_bit", depth=1))
    finally:
        keras.config.set_dtype_policy(previous)
    assert to_tflite(model, tmp_path / "model.tflite").packed_layers == 6
    samples = images(20)
    theirs = Interpreter(os.fspath(tmp_path / "model.tflite")).predict(samples)
    np.testing.assert_allclose(np.median(np.abs(export.in_float32(model)(samples).numpy() - theirs)), 0, atol=1e-5)


def test_half_precision_is_stored_and_verified_as_such(tmp_path):
    keras.utils.set_random_seed(0)
    model = jittered(models.build("vit_tiny_patch4_32", "acd_bit", width=64, num_heads=2, depth=1))
    whole, half = (to_tflite(model, tmp_path / f"{half}.tflite", half=half) for half in (False, True))
    file = flatbuffer.read(half.path)
    halved = [tensor for tensor in flatbuffer.tensors(file) if tensor.dtype == "float16"]
    assert [tensor.shape for tensor in halved] == [(64, 4 * 4 * 3)] and half.op_counts["DEQUANTIZE"] == 1
    assert half.attention_products == 0, "the widened kernel is a constant"
    assert whole.bytes - half.bytes == pytest.approx(halved[0].nbytes, abs=500)
    samples = images(20, (32, 32, 3))
    assert verify(model, half.path, samples).ok
    difference = np.abs(Interpreter(half.path).predict(samples) - Interpreter(whole.path).predict(samples))
    assert 1e-6 < np.median(difference) < 0.05


@pytest.mark.parametrize("preset", ["vit_tiny_patch4_32", "vit_micro_patch8_32"])
def test_a_stem_of_8_bits_is_stored_as_such(preset, tmp_path):
    """A patch embedding, and convolutions; what is behind the blocks stays."""
    keras.utils.set_random_seed(0)
    model = jittered(models.build(preset, "acd_bit", width=64, num_heads=2, depth=1))
    whole, stored = (to_tflite(model, tmp_path / f"{stem}.tflite", stem=stem) for stem in ("float32", "int8"))
    nodes = [list(flatbuffer.operators(flatbuffer.read(report.path))) for report in (whole, stored)]
    saved = 0
    for node, other in zip(*nodes, strict=True):
        assert node.name == other.name
        behind = other.index > [n.name for n in nodes[1]].index("AcdBinaryBlock")
        if node.name not in ("CONV_2D", "FULLY_CONNECTED"):
            continue
        assert other.inputs[1].dtype == ("float32" if behind else "int8")
        if not behind:
            weights = node.inputs[1].data.view("<f4").reshape(node.inputs[1].shape[0], -1)
            scales = np.abs(weights).max(axis=1, keepdims=True) / 127
            error = weights - scales * other.inputs[1].data.view(np.int8).reshape(weights.shape)
            assert (np.abs(error) <= 0.501 * scales).all()
            saved += 3 * weights.size
    assert saved and whole.bytes - stored.bytes == pytest.approx(saved, abs=2500)
    samples = images(20, (32, 32, 3))
    first, second = (Interpreter(report.path, untrusted=True).predict(samples) for report in (whole, stored))
    assert 1e-6 < np.median(np.abs(first - second)) < 0.2 * np.abs(first).mean()
    parity = verify(model, stored.path, samples)
    assert parity.stem == "int8" and (parity.ok or "its accuracy on labelled images" in str(parity))


@pytest.mark.parametrize("precision, tolerance", [("dynamic", 0.1), ("int8", 0.5)])
def test_quantized_exports_of_the_teacher(precision, tolerance, tmp_path):
    model = trained("float32")
    calibration = tf.data.Dataset.from_tensor_slices((images(64), np.zeros(64))).batch(16) if precision == "int8" else None
    smaller = to_tflite(model, tmp_path / "q.tflite", precision=precision, calibration=calibration)
    full = to_tflite(model, tmp_path / "f.tflite")
    assert full.precision == "float32" and smaller.bytes < 0.6 * full.bytes
    ours, theirs = predictions(model, tmp_path / "q.tflite", images(32))
    error = np.abs(ours - theirs).mean() / np.abs(ours).mean()
    assert 1e-5 < error < tolerance


def test_float_twin_of_a_binary_model(tmp_path):
    model = trained("acd_bit")
    report = to_tflite(model, tmp_path / "twin.tflite", precision="float32")
    assert report.packed_layers == 0 and "LceBconv2d" not in report.op_counts
    ours, theirs = predictions(model, tmp_path / "twin.tflite", images(16))
    assert np.median(np.abs(ours - theirs)) < 1e-5


@keras.saving.register_keras_serializable(package="test")
class HiddenSign(quantizers.Quantizer):
    """A sign in a form that no converter recognises."""

    levels = "sign"

    def call(self, inputs, training=None):
        return Code(keras.ops.clip(keras.ops.floor(inputs) * 2.0 + 1.0, -1.0, 1.0))


@keras.saving.register_keras_serializable(package="test")
class ThreeLevels(quantizers.Quantizer):
    """Says that it has two."""

    levels = "sign"

    def call(self, inputs, training=None):
        return Code(keras.ops.sign(keras.ops.round(inputs * 5.0)))


@pytest.mark.parametrize(
    "layer, reason",
    [
        (lambda: BinaryDense(32, HiddenSign(), "ste_sign", name="culprit"), "not recognised as a sign"),
        (lambda: BinaryDense(32, "ste_sign", ThreeLevels(), name="culprit"), "kernel quantizer"),
    ],
)
def test_a_layer_that_cannot_be_packed_is_named(layer, reason, tmp_path):
    model = sequential(binary(64), keras.layers.BatchNormalization(), layer(), shape=(64,))
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    with pytest.raises(export.ConversionError, match=f"culprit.*{reason}") as caught:
        to_tflite(model, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.tflite"]


def test_a_scale_per_channel_of_the_input_cannot_be_packed(tmp_path):
    class ScaledOnDevice(quantizers.PlainSign):
        """Keras would refuse the product at once; this one changes when it is converted."""

        scaled = False

        def call(self, inputs, training=None):
            quantized = super().call(inputs)
            return quantized._replace(scale=keras.ops.ones_like(inputs)) if self.scaled else quantized

    quantizer = ScaledOnDevice()
    model = sequential(BinaryDense(32, quantizer, "ste_sign", name="culprit"), shape=(64,))
    quantizer.scaled = True
    with pytest.raises(export.ConversionError, match="culprit cannot be packed: the scale"):
        to_tflite(model, tmp_path / "model.tflite")


class TestBadInput:
    def test_not_a_model(self, tmp_path):
        with pytest.raises(ValueError, match="model must be a keras.Model, not str"):
            to_tflite("student.keras", tmp_path / "m.tflite")

    def test_unbuilt(self, tmp_path):
        with pytest.raises(ValueError, match="'empty' is not built"):
            to_tflite(keras.Sequential([keras.layers.Dense(3)], name="empty"), tmp_path / "m.tflite")

    def test_free_size(self, tmp_path):
        with pytest.raises(ValueError, match="only the first size"):
            to_tflite(sequential(binary(32), shape=(None, 64)), tmp_path / "m.tflite")

    @pytest.mark.parametrize(
        "options, message",
        [
            (dict(attention="integer"), "attention must be one of 'binary', 'float', not 'integer'"),
            (dict(precision="int4"), "precision must be one of 'bits', 'float32', 'float16', 'dynamic', 'int8', not 'int4'"),
            (dict(precision="int8"), "needs calibration images"),
            (dict(precision="float32", half=True), "half=True is for precision='bits', not 'float32'"),
            (dict(precision="float32", stem="int8"), "stem='int8' is for precision='bits', not 'float32'"),
            (dict(half=True, stem="int8"), "half=True and stem='int8' both say how the stem is stored"),
            (dict(stem="int4"), "stem must be one of 'float32', 'int8', not 'int4'"),
            (dict(calibration=np.zeros((1, 64), np.float32)), "takes no calibration images"),
        ],
    )
    def test_options(self, options, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            to_tflite(sequential(binary(32), shape=(64,)), tmp_path / "m.tflite", **options)

    def test_bits_of_a_float_model(self, tmp_path):
        with pytest.raises(ValueError, match="this one has none"):
            to_tflite(sequential(keras.layers.Dense(3), shape=(64,)), tmp_path / "m.tflite", precision="bits")

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            to_tflite(sequential(binary(32), shape=(64,)), tmp_path / "nowhere" / "m.tflite")

    def test_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"old")
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="cannot write .*m.tflite: No space left"):
            to_tflite(sequential(binary(32), shape=(64,)), path)
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["m.tflite"]

    def test_converter_not_installed(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "larq_compute_engine", None)
        with pytest.raises(ImportError, match="pip install larq-compute-engine"):
            to_tflite(sequential(binary(32), shape=(64,)), tmp_path / "m.tflite")


class TestLoadModel:
    def test_round_trip(self, tmp_path):
        model = trained("acd_bit")
        model.save(tmp_path / "m.keras")
        loaded = load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(loaded(images(4)).numpy(), model(images(4)).numpy())

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            load_model(tmp_path / "m.keras")

    @pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
    def test_truncated(self, keep, tmp_path):
        trained("acd_bit").save(tmp_path / "m.keras")
        content = (tmp_path / "m.keras").read_bytes()
        (tmp_path / "m.keras").write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
        with pytest.raises(ValueError, match="truncated or not a .keras file"):
            load_model(tmp_path / "m.keras")

    def test_unknown_class(self, tmp_path):
        sequential(BinaryDense(32, HiddenSign(), "ste_sign"), shape=(64,)).save(tmp_path / "m.keras")
        with zipfile.ZipFile(tmp_path / "m.keras") as old, zipfile.ZipFile(tmp_path / "n.keras", "w") as new:
            for member in old.namelist():
                new.writestr(member, old.read(member).replace(b"HiddenSign", b"LostLayer"))
        with pytest.raises(ValueError, match="class unknown here: test>LostLayer"):
            load_model(tmp_path / "n.keras")


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 64, 100])
def test_packing_follows_the_converter(channels):
    signs = np.where(np.random.default_rng(channels).random((5, channels)) < 0.5, -1, 1)
    words = rewrite.pack_bits(signs)
    assert words.shape == (5, -(-channels // 32)) and words.dtype == np.int32
    np.testing.assert_array_equal(rewrite.unpack_bits(words, channels), signs)
    assert (words[:, 0].view(np.uint32) & 1 == (signs[:, 0] < 0)).all()
