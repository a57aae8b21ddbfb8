"""The contract between the exporter and the runtime as data: what `device_ops` says in words, written once.

Names, order and shapes of the inputs of our custom ops and of what is packed into them. Python reads them here, the C++
runtime reads `convert/runtime/src/contract.h`, which `python -m acdbit_keras.convert.runtime.contract_header` writes. Files
hold tensors without names, so that another order is another `VERSION`. Needs neither Keras nor TensorFlow.
"""

import enum
import math
from typing import NamedTuple

VERSION = 1  # of both ops
ATTENTION = "AcdBinaryAttention"
BLOCK = "AcdBinaryBlock"
WORD_BITS = 32
ALIGNMENT = 64  # bytes, of all memory that kernels are given: a cache line, and the widest vector
# Up to here a distance between a query and a key, popcount(query xor key), fits a byte and leaves 31 values of it free, by
# which kernels mark keys that are not there.
MAX_HEAD_DIM = 224


class Rule(enum.IntEnum):
    """How the probabilities become {0, 1}."""

    ELASTIC = 0
    MAX_RATIO = 1
    ZERO = 2
    MEAN = 3


class Branches(enum.IntEnum):
    """What a block has beside its products: gains of their branches, and one that mixes neighbouring tokens."""

    NONE = 0
    POOLING = 1
    DEPTHWISE = 2


class Part(NamedTuple):
    """An input of an op, or a section of an input in which sections stand one behind the other.

    Attributes:
        name: as in the formulas of `device_ops`.
        shape: names of sizes, or numbers. Packed bits have their channels or keys last, which take a `WORD_BITS`th of words.
        option: name of the option that adds it; `None` where it is always there.
        value: of that option; `None`: any but 0.
    """

    name: str
    shape: tuple
    option: str | None = None
    value: enum.IntEnum | None = None

    def is_given(self, options):
        if self.option is None:
            return True
        return bool(options[self.option]) if self.value is None else options[self.option] == self.value


# === AcdBinaryAttention: its inputs ===

ATTENTION_BITS = (
    Part("query", ("queries", "channels")),
    Part("key", ("keys", "channels")),
    Part("value", ("keys", "channels")),
)
ATTENTION_CONSTANTS = (
    Part("score_scale", ("heads",)),
    Part("key_weights", ("channels",), "key_bias"),
    Part("value_scale", ("channels",)),
    Part("value_offset", ("channels",)),
    Part("probability_scale", ("heads",)),
)
ATTENTION_STATISTICS = (
    Part("query_scale", ("queries", "heads"), "dynamic"),
    Part("query_offset", ("queries", "heads"), "dynamic"),
    Part("key_scale", ("keys", "heads"), "dynamic"),
    Part("key_offset", ("keys", "heads"), "dynamic"),
)
ATTENTION_INPUTS = ATTENTION_BITS + ATTENTION_CONSTANTS + ATTENTION_STATISTICS

# === AcdBinaryBlock: the sections of `vectors`, `kernels` and `taps` ===


def _product(name, inputs, outputs, dynamic):
    return (
        Part(f"{name}.threshold", (inputs,)),
        *(Part(f"{name}.{part}", (outputs,)) for part in ("multiplier", "bias", "slope")),
        *(Part(f"{name}.{part}", (outputs,), dynamic) for part in ("row", "restore")),
    )


BLOCK_VECTORS = (
    Part("gain_1", ("channels",)),
    Part("shift_1", ("channels",)),
    *_product("query", "channels", "channels", "dynamic_activation"),
    *_product("key", "channels", "channels", "dynamic_activation"),
    *_product("value", "channels", "channels", "dynamic_activation"),
    Part("query_threshold", ("channels",)),
    Part("key_threshold", ("channels",)),
    Part("value_threshold", ("channels",)),
    Part("score_scale", ("heads",)),
    Part("probability_scale", ("heads",)),
    Part("key_weights", ("channels",), "key_bias"),
    Part("query_center", ("heads",), "dynamic_attention"),
    Part("key_center", ("heads",), "dynamic_attention"),
    Part("context.count_multiplier", ("channels",)),
    Part("context.kept_multiplier", ("channels",)),
    Part("context.bias", ("channels",)),
    Part("context.slope", ("channels",)),
    *_product("output", "channels", "channels", "dynamic_activation"),
    Part("output.gain", ("channels",), "branches"),
    Part("output.shift", ("channels",)),
    Part("gain_2", ("channels",)),
    Part("shift_2", ("channels",)),
    *_product("mlp_1", "channels", "hidden", "dynamic_activation"),
    *_product("mlp_2", "hidden", "channels", "dynamic_hidden"),
    Part("mlp_2.gain", ("channels",), "branches"),
    Part("mlp_2.shift", ("channels",)),
    Part("pooling.vertical_3", ("channels",), "branches", Branches.POOLING),
    Part("pooling.vertical_5", ("channels",), "branches", Branches.POOLING),
    Part("pooling.horizontal_3", ("channels",), "branches", Branches.POOLING),
    Part("pooling.horizontal_5", ("channels",), "branches", Branches.POOLING),
    Part("depthwise", (9, "channels"), "branches", Branches.DEPTHWISE),
)
BLOCK_KERNELS = (
    Part("query", ("channels", "channels")),
    Part("key", ("channels", "channels")),
    Part("value", ("channels", "channels")),
    Part("output", ("channels", "channels")),
    Part("mlp_1", ("hidden", "channels")),
    Part("mlp_2", ("channels", "hidden")),
)
BLOCK_TAPS = (
    Part("query.input", ("tokens", "channels")),
    Part("key.input", ("tokens", "channels")),
    Part("value.input", ("tokens", "channels")),
    Part("query", ("tokens", "channels")),
    Part("key", ("tokens", "channels")),
    Part("value", ("tokens", "channels")),
    Part("probabilities", ("heads", "tokens", "tokens")),
    Part("output.input", ("tokens", "channels")),
    Part("mlp_1.input", ("tokens", "channels")),
    Part("mlp_2.input", ("tokens", "hidden")),
)


def words(bits):
    """Number of words that hold so many bits."""
    return -(-bits // WORD_BITS)


def attention_inputs(options):
    """Names of the inputs of an AcdBinaryAttention, in their order.

    Args:
        options: mapping with the op's options.

    Returns:
        list of str.
    """
    return [part.name for part in ATTENTION_INPUTS if part.is_given(options)]


def block_vectors(options, channels):
    """Names and lengths of the float32 constants of an AcdBinaryBlock, in their order in `vectors`.

    Args:
        options: mapping with the op's options.
        channels: c.

    Returns:
        dict from name to length.
    """
    sizes = _block_sizes(options, channels)
    given = [part for part in BLOCK_VECTORS if part.is_given(options)]
    return {part.name: math.prod(sizes.get(size, size) for size in part.shape) for part in given}


def block_kernels(options, channels):
    """Names and shapes `(outputs, words)` of the packed kernels of an AcdBinaryBlock, in their order in `kernels`."""
    return _packed(BLOCK_KERNELS, _block_sizes(options, channels))


def block_taps(options, channels, tokens):
    """Names and shapes of the bit tensors in the second output of an AcdBinaryBlock, in their order.

    Rows of words like every packed tensor, except `probabilities`, where bit j of a row is 1 if key j is kept.
    """
    return _packed(BLOCK_TAPS, {**_block_sizes(options, channels), "tokens": tokens})


def _block_sizes(options, channels):
    return {"channels": channels, "heads": options["heads"], "hidden": channels * options["mlp_ratio"]}


def _packed(parts, sizes):
    return {part.name: (*(sizes[size] for size in part.shape[:-1]), words(sizes[part.shape[-1]])) for part in parts}
