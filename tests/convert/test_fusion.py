"""The constants that our ops are given: with them the ops' arithmetic, in numpy, is that of the Keras layers."""

import keras
import numpy as np
import pytest
import reference_ops
from trained_models import jittered

from acdbit_keras import device_ops, models, schemes
from acdbit_keras.convert import fusion
from acdbit_keras.quantizers import AlignedSign, ElasticBinary, PlainSign, WeightSign

DYNAMIC = dict(threshold="median", restore="dynamic")
ACD_BIT = schemes.get("acd_bit")
SCHEMES = {
    "acd_bit": ACD_BIT,
    "binary_vit": schemes.get("binary_vit"),
    "dynamic activations": ACD_BIT.replace(activation=AlignedSign(**DYNAMIC), hidden=AlignedSign(**DYNAMIC)),
    "dynamic attention": ACD_BIT.replace(
        query=AlignedSign(**DYNAMIC, channel_axes=2), key=AlignedSign(**DYNAMIC, channel_axes=2)
    ),
    "without branches": ACD_BIT.replace(branches=False),
    "statistics per tensor": ACD_BIT.replace(
        activation=AlignedSign(axis="tensor"), query=AlignedSign(axis="tensor", channel_axes=2), hidden=AlignedSign(axis="tensor")
    ),
    "plain signs": ACD_BIT.replace(activation=PlainSign(), query=PlainSign(), key=PlainSign(), value=PlainSign()),
    "hidden of two levels, 0 and a": ACD_BIT.replace(hidden=ElasticBinary(initial_scale=0.7)),
}


def block_of(scheme, ratio=4, **sizes):
    keras.utils.set_random_seed(1)
    model = jittered(models.build("vit_nano_patch2_8", scheme, depth=1, mlp_ratio=ratio, **sizes))
    block = model.blocks[0]
    block.attention.probabilities_quantizer.factor.assign(0.4)
    return block


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_block_is_its_op(scheme, ratio):
    assert_is_its_op(block_of(scheme, ratio))


@pytest.mark.parametrize("scheme", ["acd_bit", "without branches"])
def test_a_block_that_mixes_its_tokens_is_its_op(scheme):
    block = block_of(SCHEMES[scheme], mixing="depthwise")
    assert device_ops.block_options(block)["branches"] == (2 if scheme == "acd_bit" else 0)
    assert_is_its_op(block)


def assert_is_its_op(block):
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 64)).astype(np.float32)
    options, kernels, vectors = fusion.block_constants(block)
    outputs, signs = reference_ops.block(options, kernels, vectors, x)
    expected, taps = block(x)
    np.testing.assert_allclose(outputs, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(signs["probabilities"], np.asarray(taps["probabilities"])[0] > 0)
    assert 0 < signs["probabilities"].mean() < 1
    assert {name: bits.size for name, bits in signs.items()} == {
        name: np.prod(shape) * 32 if name != "probabilities" else 2 * 16 * 16
        for name, shape in device_ops.block_taps(options, 64, 16).items()
    }


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(activation=AlignedSign(axis="token", restore="dynamic")), "query: its input_quantizer takes more than"),
        (dict(query=AlignedSign(**DYNAMIC, channel_axes=2)), "attention: query and key must both have"),
        (dict(weight=WeightSign(restore=True)), "query: its kernel has an offset"),
        (dict(weight=None), "query: its kernel is not one of signs"),
        (dict(probabilities=PlainSign("ste_heaviside")), "no device rule for the probabilities of PlainSign"),
    ],
)
def test_what_has_no_form_is_named(change, reason):
    with pytest.raises(device_ops.NotExpressibleError, match=reason):
        fusion.block_constants(block_of_any(ACD_BIT.replace(**change)))


def test_heads_too_wide_for_the_runtime_are_named():
    block = models.build("vit_nano_patch2_8", "acd_bit", depth=1, width=256, num_heads=1).blocks[0]
    with pytest.raises(device_ops.NotExpressibleError, match="attention: its heads have 256 channels, at most 224 are supported"):
        fusion.block_constants(block)


def block_of_any(scheme):
    return models.build("vit_nano_patch2_8", scheme, depth=1).blocks[0]
