"""The algebra of 1-bit tensors, written once.

A 1-bit quantizer replaces a real tensor by a `Code`: signs in {-1, +1} (or {0, 1}) and the affine map that
gives them a magnitude. A product of two codes is the product of their signs, which a device computes with
xor/and and popcount, plus rank-1 corrections (see `matmul`). Training, the reference and the exporter all
go through this module, so what is trained is what is exported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from acdbit_keras.typing import Tensor


class Code(NamedTuple):
    """A quantized tensor: `scale * signs + offset`.

    Attributes:
        signs: tensor `(..., n, d)`; values in {-1, +1} or {0, 1} for a 1-bit code. An unquantized
            ("real") code carries the tensor itself here.
        scale: `1.0`, or a tensor of the rank of `signs` that broadcasts to it.
        offset: `0.0`, or a tensor of the rank of `signs` that broadcasts to it.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> code = acd.Code(np.float32([[1, -1], [-1, -1]]), scale=0.5, offset=np.float32([[0, 3]]))
        >>> print(code.decode())
        [[ 0.5  2.5]
         [-0.5  2.5]]
    """

    signs: Tensor
    scale: Tensor | float = 1.0
    offset: Tensor | float = 0.0

    def decode(self) -> Tensor:
        """The real tensor that the code stands for, of the shape of `signs`."""
        decoded = _scaled(self.signs, self.scale)
        return decoded if _is_zero(self.offset) else decoded + self.offset

    def map(self, function: Callable[[Tensor], Tensor]) -> Code:
        """Applies a change of layout (reshape, transpose) to every component that is a tensor."""
        return Code(*(part if is_constant(part) else function(part) for part in self))

    def without_offset(self) -> Code:
        return self._replace(offset=0.0)


def real(x: Tensor) -> Code:
    """The code of an unquantized tensor."""
    return Code(x)


def is_constant(part: Tensor | float) -> bool:
    """Whether a component of a code is a Python number, rather than a tensor."""
    return isinstance(part, (int, float))


def matmul(a: Code, b: Code, product: Tensor | None = None, row_sums: Tensor | None = None) -> Tensor:
    """Product of two codes over the last axis of `a` and the second last axis of `b`.

    With `a = alpha * S + M` and `b = beta * T + N`:

        a @ b = alpha * beta * (S @ T) + alpha * (S @ N) + beta * (M @ T) + M @ N

    Only `S @ T` is a matrix product between the signs. An offset that is constant along the contracted
    axis costs one sum of signs per row (a rank-1 term); one that varies along it costs a product with a
    vector, which is constant when the statistics are frozen.

    Args:
        a: `Code` with `signs` of shape `(..., n, d)`.
        b: `Code` with `signs` of shape `(..., d, m)`, or of rank 2, then shared by all leading axes of `a`.
        product: tensor S @ T, `(..., n, m)`, if it was carried out already, e.g. as a convolution of bits; by default it is
            carried out here.
        row_sums: tensor `(..., n, 1)`, the sums of S over its last axis, likewise.

    Returns:
        Tensor `(..., n, m)`.

    Raises:
        ValueError: if a scale varies along the contracted axis. Such a product has no popcount form.

    Source: the rank-1 terms of the paper's alignment, written out by us (reconstruction).

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> a = acd.Code(np.float32([[1, -1, 1]]), scale=2.0, offset=np.float32([[1]]))
        >>> b = acd.Code(np.float32([[1], [1], [-1]]), scale=0.5)
        >>> print(np.asarray(acd.matmul(a, b)), a.decode() @ b.decode())
        [[-0.5]] [[-0.5]]
    """
    _require_constant(a.scale, -1, "left")
    _require_constant(b.scale, -2, "right")
    depth = a.signs.shape[-1]
    if product is None:
        product = _dot(a.signs, b.signs)
    product = _scaled(product, a.scale, _column(b.scale, a.signs))
    if not _is_zero(b.offset):
        offset = _lift(b.offset, a.signs)
        if offset.shape[-2] == 1:
            term = (ops.sum(a.signs, axis=-1, keepdims=True) if row_sums is None else row_sums) * offset
        else:
            term = _dot(a.signs, b.offset)
        product = product + _scaled(term, a.scale)
    if not _is_zero(a.offset):
        if a.offset.shape[-1] == 1:
            term = a.offset * _lift(ops.sum(b.signs, axis=-2, keepdims=True), a.signs)
        else:
            term = _dot(a.offset, b.signs)
        product = product + _scaled(term, _column(b.scale, a.signs))
        if not _is_zero(b.offset):
            product = product + _offset_product(a.offset, b.offset, depth)
    return product


def _dot(x, y):
    """`x @ y`, where a matrix `y` is shared by all leading axes of `x` (one GEMM, not a batch of them)."""
    if len(y.shape) == 2 and len(x.shape) > 2:
        lead = ops.shape(x)[:-1]
        flat = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), y)
        return ops.reshape(flat, (*lead, y.shape[-1]))
    return ops.matmul(x, y)


def _offset_product(m, n, depth):
    if m.shape[-1] == 1 and n.shape[-2] == 1:
        return depth * m * _lift(n, m)
    m = ops.broadcast_to(m, (*m.shape[:-1], depth)) if m.shape[-1] == 1 else m
    n = ops.broadcast_to(n, (*n.shape[:-2], depth, n.shape[-1])) if n.shape[-2] == 1 else n
    return _dot(m, n)


def _scaled(x, *scales):
    for scale in scales:
        if not (is_constant(scale) and scale == 1.0):
            x = x * scale
    return x


def _column(scale, like):
    return scale if is_constant(scale) else _lift(scale, like)


def _lift(x, like):
    """Adds leading axes, so that a matrix's statistics broadcast against a batch of matrices."""
    missing = len(like.shape) - len(x.shape)
    return ops.reshape(x, (1,) * missing + tuple(x.shape)) if missing > 0 else x


def _is_zero(offset):
    return is_constant(offset) and offset == 0.0


def _require_constant(scale, axis, side):
    if not is_constant(scale) and scale.shape[axis] != 1:
        raise ValueError(
            f"the scale of the {side} operand has shape {tuple(scale.shape)}, which varies along the contracted "
            f"axis ({axis}); a product of bits needs a scale of size 1 there"
        )
