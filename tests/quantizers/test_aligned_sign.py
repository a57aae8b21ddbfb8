"""Alignment in every combination of its options against a float64 reference written from its docstring."""

import itertools

import numpy as np
import pytest
from numerics import array, layer_gradient

from acdbit_keras.quantizers import AlignedSign
from acdbit_keras.quantizers.aligned import AXES, RESTORES, SCALES, THRESHOLDS, TRACKINGS

pytestmark = pytest.mark.any_backend

SHAPES = {1: (3, 5, 7), 2: (2, 5, 3, 7)}


def valid(axis, restore, contracts):
    return not (contracts == "tokens" and (axis == "token" or restore == "dynamic"))


LEARNED = ("learned", "shifted_median")


def over(axis, rank, channel_axes):
    """The axes that a statistic of that kind runs over."""
    lead = tuple(range(rank - channel_axes))
    return {"token": (rank - 1,), "channel": lead, "tensor": (*lead, rank - 1)}[axis]


class Reference:
    """`code(z) = alpha * s(z - m) + mu`, one method per quantity; `state` holds the running statistics and the learned shift."""

    def __init__(self, z, state, training, threshold, axis, tracking, scale, restore, channel_axes, contracts):
        self.z, self.scale = np.float64(z), scale
        self.axes = over(axis, z.ndim, channel_axes)
        self.exact = axis == "token" or (tracking == "batch" and training)
        self.m = {
            None: lambda: 0.0,
            "learned": lambda: state["threshold"],
            "mean": lambda: self.batch_mean() if self.exact else state["location"],
            "median": lambda: self.median(state),
            "shifted_median": lambda: self.median(state) + state["threshold"],
        }[threshold]()
        self.signs = np.where(self.z >= self.m, 1.0, -1.0)
        self.alpha, self.mu = 1.0, 0.0
        statistic_axes = (-1,) if restore == "dynamic" else self.axes
        # The running alpha and mu include the batch, and the first batch sets them.
        computed = self.exact or restore == "dynamic" or training
        if scale is not None:
            self.alpha = self.spread(statistic_axes) if computed else state["spread"]
            if contracts == "channels":
                self.alpha = self.alpha.mean(-1, keepdims=True)
        if restore != "off":
            self.mu = self.z.mean(statistic_axes, keepdims=True) if computed else state["mean"]
        self.value = self.alpha * self.signs + self.mu

    def median(self, state):
        return np.median(self.z, self.axes, keepdims=True) if self.exact else state["location"]

    def batch_mean(self):
        return self.z.mean(self.axes, keepdims=True)

    def spread(self, axes):
        if self.scale == "std":
            return self.z.std(axes, keepdims=True)
        return np.abs(self.z - self.m).mean(axes, keepdims=True)


def randomise(quantizer, rng):
    """Gives the weights values a start does not have, and returns them as a reference's state."""
    state = {}
    for name in ("location", "mean", "spread"):
        if name in quantizer.running_statistics:
            weight = getattr(quantizer, f"running_{name}")
            state[name] = np.abs(rng.normal(size=weight.shape)) + 0.1 if name == "spread" else rng.normal(size=weight.shape)
            weight.assign(state[name])
    if quantizer.threshold in LEARNED:
        state["threshold"] = rng.normal(size=quantizer.shift.shape)
        quantizer.shift.assign(state["threshold"])
    return state


@pytest.mark.parametrize("channel_axes", [1, 2])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("tracking", TRACKINGS)
def test_every_combination(threshold, axis, tracking, channel_axes):
    """At inference from given running statistics, and in the first step of training."""
    rng = np.random.default_rng(0)
    z = (rng.normal(size=SHAPES[channel_axes]) + 0.3).astype(np.float32)
    for scale, restore, contracts in itertools.product(SCALES, RESTORES, ("channels", "tokens")):
        options = dict(
            threshold=threshold, axis=axis, tracking=tracking, scale=scale, restore=restore,
            channel_axes=channel_axes, contracts=contracts,
        )  # fmt: skip
        if not valid(axis, restore, contracts):
            with pytest.raises(ValueError, match="statistics per token vary along the tokens"):
                AlignedSign(**options)
            continue
        quantizer = AlignedSign(**options)
        quantizer.build(z.shape)
        state = randomise(quantizer, rng)
        for training in (False, True):
            code = quantizer(z, training=training)
            expected = Reference(z, state, training, **options)
            np.testing.assert_array_equal(array(code.signs), expected.signs, err_msg=str(options))
            np.testing.assert_allclose(array(code.decode()), expected.value, rtol=2e-5, atol=2e-5, err_msg=str(options))
            kept = -1 if contracts == "channels" else -3
            assert isinstance(code.scale, float) or code.scale.shape[kept] == 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("restore", ["off", "frozen", "dynamic"])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("tracking", TRACKINGS)
def test_what_one_batch_moves(threshold, tracking, restore, scale):
    """The first batch sets the running statistics; inference then uses them and moves nothing."""
    z = np.random.default_rng(1).exponential(size=(4, 9, 5)).astype(np.float32)
    options = dict(threshold=threshold, axis="channel", tracking=tracking, scale=scale, restore=restore, channel_axes=1)
    quantizer = AlignedSign(**options)
    quantizer.build(z.shape)
    before = {"location": 0.0, "threshold": 0.0}
    reference = Reference(z, before, True, **options, contracts="channels")
    quantizer(z, training=True)
    expected = {}
    if threshold not in (None, "learned"):
        # The tracked median starts from the mean.
        expected["location"] = reference.m if tracking == "batch" else reference.batch_mean()
    if restore == "frozen":
        expected["mean"] = reference.batch_mean()
    if scale and restore != "dynamic":
        expected["spread"] = reference.spread((0, 1))
    assert set(quantizer.running_statistics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(array(getattr(quantizer, f"running_{name}")), value, rtol=1e-4, err_msg=name)
    frozen = [array(weight) for weight in quantizer.weights]
    code = quantizer(z, training=False)
    after = Reference(z, {**before, **expected}, False, **options, contracts="channels")
    np.testing.assert_allclose(array(code.decode()), after.value, rtol=1e-4, atol=1e-5)
    for weight, value in zip(quantizer.weights, frozen):
        np.testing.assert_array_equal(array(weight), value)


@pytest.mark.parametrize("restore", RESTORES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(
    "sign, phi",
    [
        ("approx_sign", lambda v: (2 - 2 * np.abs(v)) * (np.abs(v) <= 1)),
        ("ste_sign", lambda v: (np.abs(v) <= 1) * 1.0),
    ],
)
def test_gradient(sign, phi, threshold, scale, restore):
    """dz = dcode * alpha * phi(z - m), m, alpha and mu constants; a learned m gets the opposite."""
    rng = np.random.default_rng(2)
    z, upstream = rng.normal(size=(2, 6, 5)).astype(np.float32), rng.normal(size=(2, 6, 5)).astype(np.float32)
    options = dict(threshold=threshold, axis="channel", tracking="batch", scale=scale, restore=restore, channel_axes=1)
    quantizer = AlignedSign(**options, sign=sign)
    quantizer.build(z.shape)
    state = randomise(quantizer, rng)
    reference = Reference(z, state, True, **options, contracts="channels")
    expected = upstream * reference.alpha * phi(reference.z - reference.m)
    by_inputs, by_weights = layer_gradient(quantizer, z, upstream, result=lambda code: code.decode(), training=True)
    np.testing.assert_allclose(by_inputs, expected, rtol=1e-4, atol=1e-5)
    assert len(by_weights) == (threshold in LEARNED)
    if by_weights:
        np.testing.assert_allclose(by_weights[0], -expected.sum((0, 1), keepdims=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tracking", TRACKINGS)
def test_a_shifted_median_is_tracked_as_a_median(tracking):
    """Wherever the threshold went, the running location comes to lie where as many are above as below."""
    z = np.random.default_rng(3).exponential(size=(64, 16, 3)).astype(np.float32)
    plain, shifted = (AlignedSign(threshold=threshold, tracking=tracking) for threshold in ("median", "shifted_median"))
    for quantizer in (plain, shifted):
        quantizer.build(z.shape)
    shifted.shift.assign(np.full(shifted.shift.shape, 0.5))
    for _ in range(200):
        for quantizer in (plain, shifted):
            quantizer(z, training=True)
    median = np.median(z, (0, 1))
    np.testing.assert_allclose(array(shifted.running_location)[0, 0], median, atol=0.02)
    np.testing.assert_allclose(shifted.comparison().threshold[0, 0], array(plain.running_location)[0, 0] + 0.5, atol=0.02)
    np.testing.assert_array_equal(array(shifted(z).signs), np.where(z >= shifted.comparison().threshold, 1.0, -1.0))


def test_a_share_of_the_batch_is_its_first_samples():
    """Statistics from ceil(5 / 4) samples of 5; the code itself covers all."""
    z = np.random.default_rng(0).normal(size=(5, 6, 4)).astype("float32")
    part, whole = (AlignedSign(batch_share=share) for share in (0.25, 1.0))
    code, expected = part(z, training=True), whole(z[:2], training=True)
    for name in part.running_statistics:
        np.testing.assert_allclose(array(getattr(part, f"running_{name}")), array(getattr(whole, f"running_{name}")), rtol=1e-5)
    assert code.signs.shape == z.shape and part.get_config()["batch_share"] == 0.25
    np.testing.assert_array_equal(array(code.signs)[:2], array(expected.signs))


@pytest.mark.parametrize("tracking", TRACKINGS)
def test_the_running_threshold_balances_the_bits(tracking):
    """On skewed channels of different location and width; without alignment the same signs are all but constant."""
    rng = np.random.default_rng(3)
    location, width = np.linspace(-3, 4, 6), np.linspace(0.2, 3, 6)

    def draw(count):
        return (location + width * rng.exponential(size=(count, 6))).astype(np.float32)

    quantizer = AlignedSign(tracking=tracking, momentum=0.97)
    for _ in range(300):
        quantizer(draw(64), training=True)
    fresh = draw(4000)
    code = quantizer(fresh)
    positive = np.mean(array(code.signs) > 0, axis=0)
    np.testing.assert_allclose(positive, 0.5, atol=0.05)
    # The mean restore: the first moment of every channel is that of its input.
    np.testing.assert_allclose(array(code.decode()).mean(0), fresh.mean(0), atol=0.25 * width.max() * 0.5)
    assert np.ptp(np.mean(fresh > 0, axis=0)) > 0.9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": "mode"}, "threshold must be one of None, 'median', 'mean', 'learned', 'shifted_median', not 'mode'"),
        ({"axis": "row"}, "axis must be one of 'token', 'channel', 'tensor', not 'row'"),
        ({"batch_share": 0.0}, r"batch_share must be in \(0, 1\], not 0.0"),
        ({"tracking": "none"}, "tracking must be one of 'running', 'batch', not 'none'"),
        ({"scale": "mean"}, "scale must be one of None, 'mad', 'std', not 'mean'"),
        ({"restore": True}, "restore must be one of 'off', 'frozen', 'dynamic', not True"),
        ({"channel_axes": 3}, "channel_axes must be one of 1, 2, not 3"),
        ({"contracts": "rows"}, "contracts must be one of 'channels', 'tokens', not 'rows'"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), not 1.0"),
        ({"sign": "ste_heaviside"}, "sign must be a function to -1 and .1, .* not 'ste_heaviside'"),
        ({"sign": "ste_tern"}, "not 'ste_tern'"),
        ({"sign": "approx_sing"}, "did you mean 'approx_sign'"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        AlignedSign(**options)


def test_half_precision_inputs_keep_float32_statistics():
    z = (np.random.default_rng(4).normal(size=(8, 16, 5)) + 2).astype(np.float16)
    quantizer = AlignedSign(dtype="mixed_float16")
    code = quantizer(z, training=True)
    assert quantizer.running_mean.dtype == "float32" and "float16" in str(code.decode().dtype)
    np.testing.assert_allclose(array(quantizer.running_mean)[0, 0], np.float32(z).mean((0, 1)), rtol=1e-4)
