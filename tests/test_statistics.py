"""Statistics against the closed forms of known laws, and against numpy."""

import keras
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numerics import array

from acdbit_keras import execution, statistics

pytestmark = pytest.mark.any_backend

LN2 = np.log(2.0)
# law: (median, mean |z - median|, standard deviation)
LAWS = {
    "normal": (scipy.stats.norm(), (0.0, np.sqrt(2 / np.pi), 1.0)),
    "uniform": (scipy.stats.uniform(), (0.5, 0.25, np.sqrt(1 / 12))),
    "exponential": (scipy.stats.expon(), (LN2, LN2, 1.0)),
    "laplace": (scipy.stats.laplace(), (0.0, 1.0, np.sqrt(2.0))),
}


def quantiles(law, count):
    """`count` equally probable values of a law, shuffled, `(count, 1)`."""
    values = law.ppf((np.arange(count) + 0.5) / count)
    return np.random.default_rng(0).permutation(values).astype(np.float32)[:, None]


@pytest.mark.parametrize("count", [20000, 20001])
@pytest.mark.parametrize("law", LAWS)
def test_known_laws(law, count):
    law, (median, deviation, std) = LAWS[law]
    z = quantiles(law, count)
    np.testing.assert_allclose(array(statistics.median(z, 0)), [[median]], atol=2e-4)
    np.testing.assert_allclose(array(statistics.select_median(z, 0)), [[median]], atol=2e-4)
    np.testing.assert_allclose(array(statistics.mean_absolute_deviation(z, np.float32(median), 0)), [[deviation]], rtol=1e-3)
    np.testing.assert_allclose(z.std(), std, rtol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 5, 7), (1, 2, 1)])
def test_median_over_axes_equals_numpy(shape, axis):
    rng = np.random.default_rng(1)
    for x in (rng.normal(size=shape), rng.integers(0, 3, shape), np.maximum(rng.normal(size=shape), 0)):
        x = x.astype(np.float32)
        np.testing.assert_allclose(array(statistics.median(x, axis)), np.median(x, axis, keepdims=True), rtol=1e-6)


floats = st.floats(-4, 4, width=32, allow_subnormal=False)
values = st.one_of(floats, st.integers(-3, 3).map(float))


@given(
    x=st.sampled_from([1, 2, 3, 8, 17]).flatmap(lambda size: st.lists(values, min_size=size, max_size=size)),
    shift=st.sampled_from([0.0, 1.0, 1000.0]),
    repeat=st.sampled_from([1, 2]),
)
def test_select_median_within_its_bound(x, shift, repeat):
    """Constants, duplicates, odd and even sizes, and a location far larger than the range."""
    x = np.float32(np.repeat(x, repeat) + shift)[:, None]
    # The stated bound, and the rounding of the mean of the two middle values.
    bound = np.ptp(x) * 2.0**-24 + 2 * np.spacing(np.max(np.abs(x)))
    assert abs(array(statistics.select_median(x, 0)).item() - np.median(x)) <= bound


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 97, 384])
def test_select_median_of_matrix_columns(rows):
    x = np.random.default_rng(2).normal(size=(rows, 5)).astype(np.float32)
    np.testing.assert_allclose(array(statistics.select_median(x, 0)), np.median(x, 0, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(array(statistics.select_median(x.T, 1)), np.median(x, 0, keepdims=True).T, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 97, 384])
def test_ranked_median_of_matrix_columns(rows):
    """Exact, with elements that are equal, too."""
    rng = np.random.default_rng(5)
    for x in (rng.normal(size=(rows, 5)), rng.integers(-2, 3, (rows, 5)), np.zeros((rows, 1))):
        x = x.astype(np.float32)
        np.testing.assert_array_equal(array(statistics.ranked_median(x)), np.median(x, 0, keepdims=True))


@pytest.mark.parametrize("device", ["cpu", "gpu", "tpu"])
def test_medians_of_weights_are_ranked_where_jax_has_an_accelerator(device, monkeypatch):
    """A bisection is a hundred small programs to it; a processor takes longer to compare all pairs."""
    on_jax, taken = keras.backend.backend() == "jax", []
    if on_jax:
        monkeypatch.setattr("jax.default_backend", lambda: device)
    for name in ("ranked_median", "select_median"):
        real = getattr(statistics, name)
        monkeypatch.setattr(statistics, name, lambda *x, name=name, real=real, **k: taken.append(name) or real(*x, **k))
    x = np.random.default_rng(6).normal(size=(8, 3)).astype(np.float32)
    medians = execution.KerasExecutor().column_medians(keras.ops.convert_to_tensor(x), training=True)
    np.testing.assert_allclose(array(medians), np.median(x, 0, keepdims=True), atol=1e-6)
    assert taken == ["ranked_median" if on_jax and device != "cpu" else "select_median"]


def test_select_median_counts_long_half_precision_rows():
    x = (np.random.default_rng(3).permutation(5001) / 1024).astype(np.float16)[:, None]
    assert array(statistics.select_median(x, 0)).item() == pytest.approx(np.median(x), abs=2e-3)


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_pinball_converges_to_the_median_of_a_skewed_law(start):
    """Between mean (3) and mode (2) of a shifted exponential law, from any start, without a sort."""
    rng = np.random.default_rng(4)
    m = np.float32(start)
    for updates in range(1500):
        z = 2.0 + rng.exponential(size=128)
        spread, mean_sign = np.float32(np.mean(np.abs(z - m))), np.float32(np.mean(np.where(z >= m, 1.0, -1.0)))
        rate = statistics.tracking_rate(np.float32(updates), 0.99)
        m = array(statistics.pinball_step(m, mean_sign, spread, np.float32(z.mean()), np.float32(updates), rate))
    assert m == pytest.approx(2.0 + LN2, abs=0.03)


def test_pinball_starts_from_the_mean():
    first = statistics.pinball_step(np.float32(9.0), np.float32(1.0), np.float32(1.0), np.float32(0.5), np.float32(0.0), 1.0)
    assert array(first) == 0.5


def test_running_average_is_unbiased():
    """A plain average at first, whatever the start; then exponential with the momentum."""
    values_ = np.random.default_rng(5).normal(3.0, 1.0, 40).astype(np.float32)
    average = np.float32(100.0)
    seen = []
    for updates, value in enumerate(values_):
        rate = statistics.tracking_rate(np.float32(updates), 0.9)
        average = array(statistics.running_average(average, value, rate))
        seen.append(average)
    plain = np.cumsum(values_) / np.arange(1, 41)
    np.testing.assert_allclose(seen[:10], plain[:10], rtol=1e-5)
    expected = seen[9]
    for value, average in zip(values_[10:], seen[10:]):
        expected = 0.9 * expected + 0.1 * value
        assert average == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "axis, rank, channel_axes, expected",
    [
        ("token", 3, 1, (2,)),
        ("channel", 3, 1, (0, 1)),
        ("tensor", 3, 1, (0, 1, 2)),
        ("channel", 4, 2, (0, 1)),
        ("tensor", 4, 2, (0, 1, 3)),
        ("channel", 2, 1, (0,)),
    ],
)
def test_reduction_axes(axis, rank, channel_axes, expected):
    assert statistics.reduction_axes(axis, rank, channel_axes) == expected


def test_unknown_axis():
    with pytest.raises(ValueError, match="axis must be 'token', 'channel' or 'tensor', not 'row'"):
        statistics.reduction_axes("row", 3)


@pytest.mark.parametrize("law", LAWS)
def test_alignment_at_the_median_is_balanced_and_least_squares(law):
    law, (median, deviation, _) = LAWS[law]
    z = quantiles(law, 20000)
    m = array(statistics.median(z, 0))
    alpha, mu = array(statistics.mean_absolute_deviation(z, m, 0)).item(), float(z.mean())
    signs = np.where(z >= m, 1.0, -1.0)
    assert np.mean(signs > 0) == 0.5
    best, *_ = np.linalg.lstsq(np.hstack([signs, np.ones_like(signs)]), np.float64(z[:, 0]), rcond=None)
    np.testing.assert_allclose([alpha, mu], best, atol=1e-4)
    # Hence the share of the variance that is lost: 1 - alpha^2 / variance.
    assert np.mean((z - alpha * signs - mu) ** 2) / z.var() == pytest.approx(1 - deviation**2 / law.var(), abs=3e-3)


def test_exponential_law_loses_less_at_its_mean_than_at_its_median():
    """With the best affine map of the signs: 1 - ln(2)^2 at the median, 1 - (2/e)^2 / (1 - (2/e - 1)^2) at the mean."""
    z = quantiles(scipy.stats.expon(), 20000)[:, 0].astype(np.float64)
    lost = {}
    for name, m in (("median", LN2), ("mean", 1.0)):
        signs = np.where(z >= m, 1.0, -1.0)
        lost[name] = 1 - np.corrcoef(z, signs)[0, 1] ** 2
    assert lost["median"] == pytest.approx(1 - LN2**2, abs=1e-3)  # .520
    assert lost["mean"] == pytest.approx(1 - (2 / np.e) ** 2 / (1 - (2 / np.e - 1) ** 2), abs=1e-3)  # .418
