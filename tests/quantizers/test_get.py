"""Every form a quantizer is given in, and the round trip through its config."""

import numpy as np
import pytest
from numerics import array

from acdbit_keras import quantizers

pytestmark = pytest.mark.any_backend

EXAMPLES = [
    quantizers.AlignedSign(threshold="learned", scale=None, restore="off", sign="approx_sign", channel_axes=2),
    quantizers.AlignedSign(threshold="mean", axis="tensor", tracking="batch", scale="std", restore="dynamic", sign="ste_sign"),
    quantizers.AlignedSign(axis="token", momentum=0.5),
    quantizers.AlignedSign(contracts="tokens", channel_axes=2),
    quantizers.ElasticBinary(initial_scale=0.02),
    quantizers.WeightSign(center="median", scale="mad", restore=True, per="tensor", sign="swish_sign"),
    quantizers.ElasticBinary(initial_scale=None, signed=True, bits=2, lsq=True),
    quantizers.WeightSign(center=None, scale="learned", through_scale=True, limit=1.0),
    quantizers.ThresholdedProbabilities("mean", scale="kept_mean", momentum=0.9),
    quantizers.LogarithmicSoftmax(bits=3),
    quantizers.UniformQuantizer(bits=5, range="average"),
    quantizers.PowerOfTwoFactor(),
    quantizers.PlainSign("ste_tern"),
    quantizers.Identity(),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_round_trip_and_clone(example):
    again = quantizers.get(quantizers.serialize(example))
    assert type(again) is type(example) and again is not example
    assert again.get_config() == example.get_config()
    x = np.abs(np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32))
    if isinstance(example, quantizers.WeightSign):
        x = x[0, 0]
    copy = quantizers.clone(example)
    assert {**copy.get_config(), "name": None} == {**example.get_config(), "name": None}
    np.testing.assert_array_equal(array(copy(x, training=True).decode()), array(again(x, training=True).decode()))
    assert not set(map(id, copy.weights)) & set(map(id, again.weights))


def test_clone_with_changes():
    changed = quantizers.clone(quantizers.AlignedSign(momentum=0.5), threshold="mean")
    assert (changed.threshold, changed.momentum) == ("mean", 0.5)


@pytest.mark.parametrize("name", quantizers.names())
def test_every_name(name):
    quantizer = quantizers.get(name)
    assert isinstance(quantizer, quantizers.Quantizer)
    assert quantizer.is_binary == (quantizer.levels in ("sign", "zero_one"))


def test_none_and_a_quantizer_itself():
    assert isinstance(quantizers.get(None), quantizers.Identity)
    assert quantizers.get(EXAMPLES[0]) is EXAMPLES[0]
    x = np.ones((2, 3), "float32")
    assert quantizers.get(None)(x).scale == 1.0


def test_symbolic_call_gives_a_code():
    import keras

    code = quantizers.AlignedSign()(keras.Input((5, 7)))
    assert code.signs.shape == (None, 5, 7) and code.offset.shape == (1, 1, 7)
