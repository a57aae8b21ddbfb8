"""What a scheme is: which quantizer goes to which place, and which distillation belongs to it."""

import dataclasses
from typing import Any

from acdbit_keras import quantizers

PLACES = ("weight", "activation", "hidden", "query", "key", "value", "probabilities")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A quantization scheme. Every quantizer is a prototype: each layer of a backbone gets a copy with its own weights.

    Attributes:
        name: how it is asked for.
        title: how tables print it.
        block: `"float"`, the pre-norm transformer block with LayerNorm and GELU, or `"binary"`, the BinaryViT block
            with BatchNorm, RPReLU and a residual around every product.
        weight: quantizer of every kernel of the blocks; `None` is float.
        activation: of the inputs of the query, key, value, output and first feed-forward products.
        hidden: of the input of the second feed-forward product.
        query, key, value: of the operands of attention, on `(batch, tokens, heads, head_dim)`.
        probabilities: of the attention probabilities.
        branches: whether the block has LayerScale and pooling branches (binary block only).
        distillation: terms of the distillation loss with their default weights.
    """

    name: str
    title: str
    block: str = "binary"
    weight: Any = None
    activation: Any = None
    hidden: Any = None
    query: Any = None
    key: Any = None
    value: Any = None
    probabilities: Any = None
    branches: bool = True
    distillation: tuple = ()

    @property
    def is_binary(self):
        """Whether weights and activations are both one bit."""
        return quantizers.get(self.weight).is_binary and quantizers.get(self.activation).is_binary

    def quantizer(self, place):
        """A fresh quantizer for one of `PLACES`."""
        return quantizers.clone(getattr(self, place))

    def replace(self, **changes):
        """A scheme with some fields changed, e.g. for an ablation."""
        return dataclasses.replace(self, **changes)

    def get_config(self):
        """Everything the backbone needs; the distillation belongs to training and is not part of it."""
        config = {"name": self.name, "title": self.title, "block": self.block, "branches": self.branches}
        for place in PLACES:
            config[place] = quantizers.serialize(quantizers.get(getattr(self, place)))
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for place in PLACES:
            config[place] = quantizers.get(config[place])
        return cls(**config)
