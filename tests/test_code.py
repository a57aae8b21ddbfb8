"""The algebra of codes against a plain float64 product of the decoded operands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numerics import array

from acdbit_keras import code
from acdbit_keras.code import Code

pytestmark = pytest.mark.any_backend

LEVELS = {"sign": (-1.0, 1.0), "zero_one": (0.0, 1.0)}
# What a component may vary along, as the axes it keeps: of the rows `(..., n, d)` and of the columns `(..., d, m)`.
LEFT_SCALES = (None, "number", "tensor", "token", "shared_token")
LEFT_OFFSETS = (None, "tensor", "token", "channel", "sample_channel", "full")
RIGHT_SCALES = (None, "number", "tensor", "column", "sample_column")
RIGHT_OFFSETS = (None, "tensor", "column", "row", "full", "sample_column")
sizes = st.sampled_from([1, 2, 7])
widths = st.sampled_from([1, 7, 8, 31, 32, 33, 97])


def part(rng, kind, shape, neutral):
    """One scale or offset of a code of that shape."""
    if kind is None:
        return neutral
    if kind == "number":
        return 1.75
    rank = len(shape)
    kept = {
        "tensor": (),
        "token": range(rank - 1),
        "shared_token": (rank - 2,),
        "channel": (rank - 1,),
        "sample_channel": (*range(rank - 2), rank - 1),
        "column": (rank - 1,),
        "sample_column": (*range(rank - 2), rank - 1),
        "row": (rank - 2,),
        "full": range(rank),
    }[kind]
    return rng.normal(size=[size if axis in kept else 1 for axis, size in enumerate(shape)]).astype(np.float32)


def draw_code(rng, shape, levels, scale, offset):
    signs = rng.choice(np.float32(LEVELS[levels]), shape) if levels in LEVELS else rng.normal(size=shape).astype(np.float32)
    return Code(signs, part(rng, scale, shape, 1.0), part(rng, offset, shape, 0.0))


def exact(a, b):
    """The product of the decoded operands and the largest it could be: the unit of its rounding error."""
    left, right = (x.signs.astype(np.float64) * x.scale + x.offset for x in (a, b))
    return left @ right, np.max(np.abs(left) @ np.abs(right))


def check(a, b, **known):
    expected, size = exact(a, b)
    result = array(code.matmul(a, b, **known))
    assert result.shape == expected.shape
    # Offsets are multiplied out, so terms larger than their sum may cancel.
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-5 * max(size, 1.0))


@given(
    lead=st.sampled_from([(), (2,), (2, 3)]),
    size=st.tuples(sizes, sizes, sizes),
    levels=st.tuples(st.sampled_from(["sign", "zero_one", "real"]), st.sampled_from(["sign", "zero_one", "real"])),
    scales=st.tuples(st.sampled_from(LEFT_SCALES), st.sampled_from(RIGHT_SCALES)),
    offsets=st.tuples(st.sampled_from(LEFT_OFFSETS), st.sampled_from(RIGHT_OFFSETS)),
    shared=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_of_codes(lead, size, levels, scales, offsets, shared, seed):
    rng, (n, d, m) = np.random.default_rng(seed), size
    a = draw_code(rng, (*lead, n, d), levels[0], scales[0], offsets[0])
    b = draw_code(rng, (d, m) if shared else (*lead, d, m), levels[1], scales[1], offsets[1])
    check(a, b)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("left_offset", LEFT_OFFSETS)
@pytest.mark.parametrize("right_offset", RIGHT_OFFSETS)
def test_every_pair_of_offsets(left_offset, right_offset, shared):
    """Every pair of offsets, with every pair of scales and levels below it, at an odd width."""
    rng = np.random.default_rng(3)
    pairs = [(left, right) for left in LEFT_SCALES for right in RIGHT_SCALES]
    for index, (left, right) in enumerate(pairs):
        levels = (("sign", "sign"), ("zero_one", "sign"), ("sign", "zero_one"), ("zero_one", "zero_one"))[index % 4]
        a = draw_code(rng, (2, 3, 7), levels[0], left, left_offset)
        b = draw_code(rng, (7, 5) if shared else (2, 7, 5), levels[1], right, right_offset)
        check(a, b)


def test_products_carried_out_elsewhere_are_used():
    rng = np.random.default_rng(4)
    a = draw_code(rng, (2, 4, 33), "sign", "token", "token")
    b = draw_code(rng, (33, 5), "sign", "column", "column")
    check(a, b, product=a.signs @ b.signs, row_sums=a.signs.sum(-1, keepdims=True))
    doubled = array(code.matmul(a.without_offset(), b.without_offset(), product=2 * (a.signs @ b.signs)))
    np.testing.assert_allclose(doubled, 2 * exact(a.without_offset(), b.without_offset())[0], atol=1e-4)


@pytest.mark.parametrize(
    "left, right, side",
    [
        (Code(np.ones((2, 3, 5)), scale=np.ones((1, 1, 5))), Code(np.ones((5, 4))), "left"),
        (Code(np.ones((2, 3, 5))), Code(np.ones((5, 4)), scale=np.ones((5, 1))), "right"),
        (Code(np.ones((2, 3, 5))), Code(np.ones((2, 5, 4)), scale=np.ones((1, 5, 4))), "right"),
    ],
)
def test_scale_along_the_contracted_axis_is_refused(left, right, side):
    with pytest.raises(ValueError, match=rf"scale of the {side} operand .*varies along the contracted axis"):
        code.matmul(left, right)


@given(d=widths, seed=st.integers(0, 2**32 - 1))
def test_popcount_identity(d, seed):
    """s.t = d - 2 popcount(s xor t) on bit-packed signs (1 = negative), whatever fills the last byte equally."""
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), (2, d))
    s, t = (int.from_bytes(np.packbits(row < 0).tobytes(), "big") for row in signs)
    product = array(code.matmul(Code(signs[:1]), Code(signs[1:].T)))
    assert product.item() == d - 2 * (s ^ t).bit_count()


@given(d=widths, seed=st.integers(0, 2**32 - 1))
def test_popcount_identity_of_zero_one_rows(d, seed):
    """b.t = 2 popcount(b and t+) - popcount(b), the form of probabilities times values."""
    rng = np.random.default_rng(seed)
    b, t = rng.choice(np.float32([0, 1]), (1, d)), rng.choice(np.float32([-1, 1]), (1, d))
    bits, positive = (int.from_bytes(np.packbits(row > 0).tobytes(), "big") for row in (b, t))
    product = array(code.matmul(Code(b), Code(t.T)))
    assert product.item() == 2 * (bits & positive).bit_count() - bits.bit_count()


def test_decode_map_and_real():
    signs = np.float32([[1, -1, 1]])
    quantized = Code(signs, np.float32([[2.0]]), np.float32([[0.5]]))
    np.testing.assert_array_equal(quantized.decode(), [[2.5, -1.5, 2.5]])
    turned = quantized.map(np.transpose)
    np.testing.assert_array_equal(turned.decode(), [[2.5], [-1.5], [2.5]])
    assert Code(signs).map(np.transpose).scale == 1.0
    np.testing.assert_array_equal(quantized.without_offset().decode(), 2 * signs)
    np.testing.assert_array_equal(code.real(signs).decode(), signs)
