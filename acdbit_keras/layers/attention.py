"""Multi-head attention between codes: the products that no CPU engine executes in bits today."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from acdbit_keras import checks, code, execution, freezing, masking, quantizers
from acdbit_keras.code import Code
from acdbit_keras.contract import WORD_BITS
from acdbit_keras.typing import QuantizerLike, Shape, Tensor

if TYPE_CHECKING:
    from acdbit_keras.code import Code


@keras.saving.register_keras_serializable(package="acdbit")
class BinaryAttention(keras.layers.Layer):
    """softmax(Q K^T / sqrt(head_dim)) V, each of Q, K, V and the probabilities through a quantizer.

    Quantizers see `(batch, tokens, heads, head_dim)`: their `"token"` statistics are per token and head, their
    `"channel"` statistics per head and channel. With every quantizer `None` this is the float attention.

    Args:
        num_heads: number of heads, at least 1; divides the channels. For bits, channels / num_heads must be a multiple of 32,
            the width of a packed word.
        query_quantizer, key_quantizer, value_quantizer: quantizer, its name or config, any Larq quantizer, or `None`, the
            default, for a real tensor.
        probabilities_quantizer: likewise for the softmax output, {0, 1} codes such as `"elastic_binary"`, or for the scores
            where it takes those.

    Call arguments:
        query: `(batch, n, channels)` or `(batch, height, width, channels)`, real.
        key, value: `(batch, m, channels)` or on a grid of their own.
        query_mask, key_mask, value_mask: booleans `(batch, n)` and `(batch, m)`, which Keras hands over where there are some:
            keys that they leave out get no probability, and no position left out counts in a statistic.
        return_probabilities: whether the decoded probabilities `(batch, heads, n, m)` are returned, too; default False.

    Returns:
        Context of the shape of `query`.

    Raises:
        ValueError: if the channels do not divide into the heads, or bits do not fill words.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1, 16, 64)).astype("float32")
        >>> attention = acd.BinaryAttention(2, "ste_sign", "ste_sign", "ste_sign", "elastic_binary")
        >>> context, probabilities = attention(x, x, x, return_probabilities=True)
        >>> print(context.shape, probabilities.shape)
        (1, 16, 64) (1, 2, 16, 16)
        >>> print(np.unique(probabilities))  # of 16 keys: 0 and 4 / 16
        [0.   0.25]
    """

    # === Config ===
    def __init__(
        self,
        num_heads: int,
        query_quantizer: QuantizerLike = None,
        key_quantizer: QuantizerLike = None,
        value_quantizer: QuantizerLike = None,
        probabilities_quantizer: QuantizerLike = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.integer("num_heads", num_heads, 1)
        self.num_heads = num_heads
        self.query_quantizer = quantizers.own(query_quantizer)
        self.key_quantizer = quantizers.own(key_quantizer)
        self.value_quantizer = quantizers.own(value_quantizer)
        self.probabilities_quantizer = quantizers.own(probabilities_quantizer)
        self.supports_masking = True

    def build(self, query_shape: Shape, key_shape: Shape | None = None, value_shape: Shape | None = None) -> None:
        channels = query_shape[-1]
        check_heads(channels, self.num_heads, self.is_binary)
        self.channels = channels
        heads = (self.num_heads, channels // self.num_heads)
        for quantizer, shape in (
            (self.query_quantizer, query_shape),
            (self.key_quantizer, key_shape or query_shape),
            (self.value_quantizer, value_shape or query_shape),
        ):
            quantizer.build((shape[0], None, *heads))
        tokens = [_tokens(shape) for shape in (query_shape, key_shape or query_shape)]
        self.probabilities_quantizer.build((query_shape[0], self.num_heads, *tokens))
        self.built = True

    @property
    def is_binary(self) -> bool:
        """Whether both products are between bits."""
        return all(
            quantizer.is_binary
            for quantizer in (self.query_quantizer, self.key_quantizer, self.value_quantizer, self.probabilities_quantizer)
        )

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        training: bool | None = None,
        return_probabilities: bool = False,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        # Keras gives the masks of the three by these names.
        with masking.attending(query_mask, key_mask if key_mask is not None else value_mask):
            return self._attend(query, key, value, training, return_probabilities)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """That of the query, to whose positions the context belongs."""
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def _attend(self, query, key, value, training, return_probabilities):
        context, probabilities = execution.current().attention(
            self, self._split(query), self._split(key), self._split(value), freezing.mode(self, training)
        )
        context = ops.reshape(context, ops.shape(query))
        return (context, probabilities) if return_probabilities else context

    def codes(self, query: Tensor, key: Tensor, value: Tensor, training: bool | None) -> tuple[Code, Code, Code]:
        """Codes of the real tensors, all `(batch, tokens, heads, head_dim)`; 1 / sqrt(head_dim) is in the query's scale."""
        factor = float(query.shape[-1]) ** -0.5
        with masking.only(masking.of_queries()):
            query = self.query_quantizer(query, training=training)
        query = query._replace(scale=query.scale * factor, offset=query.offset * factor)
        with masking.only(masking.of_keys()):
            key, value = self.key_quantizer(key, training=training), self.value_quantizer(value, training=training)
        if not self.probabilities_quantizer.takes_scores and (code.is_constant(key.offset) or key.offset.shape[1] == 1):
            # All that such an offset adds is constant along the keys, which the softmax ignores.
            key = key.without_offset()
        return query, key, value

    def probabilities(self, scores: Tensor, training: bool | None) -> Code:
        """Code of softmax(scores) over the last axis, or of what the quantizer makes of the scores instead."""
        if not self.probabilities_quantizer.takes_scores:
            # In float32: in half precision a row of many keys sums to no 1.
            scores = ops.cast(ops.softmax(ops.cast(scores, "float32"), axis=-1), scores.dtype)
        with masking.only(masking.of_pairs(), of_pairs=True):
            return self.probabilities_quantizer(scores, training=training)

    def _split(self, x):
        heads = (self.num_heads, x.shape[-1] // self.num_heads)
        tokens = _tokens(x.shape)
        return ops.reshape(x, (ops.shape(x)[0], -1, *heads) if tokens is None else (-1, tokens, *heads))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "query_quantizer": quantizers.serialize(self.query_quantizer),
            "key_quantizer": quantizers.serialize(self.key_quantizer),
            "value_quantizer": quantizers.serialize(self.value_quantizer),
            "probabilities_quantizer": quantizers.serialize(self.probabilities_quantizer),
        }


def check_heads(channels, num_heads, binary):
    """Raises ValueError unless the heads divide the channels and, for bits, each fills whole words."""
    if channels % num_heads:
        raise ValueError(f"the width {channels} is not divisible by num_heads={num_heads}")
    head_dim = channels // num_heads
    if binary and head_dim % WORD_BITS:
        raise ValueError(
            f"the head width {head_dim} (width {channels} / {num_heads} heads) is not a multiple of {WORD_BITS}: "
            f"binary attention packs the channels of a head into {WORD_BITS}-bit words"
        )


def _tokens(shape):
    """How many tokens a shape `(batch, ..., channels)` has, `None` where that is open."""
    return None if None in shape[1:-1] else math.prod(shape[1:-1])
