"""The contract between the exporter and the runtime: our custom ops, their options, inputs and arithmetic.

The exporter emits these ops, `runtime/` executes them, and the tests hold both against the numpy reference of
`tests/convert/reference_ops.py`. Options travel as a flexbuffer map with exactly the keys named here, bools as 0 or 1; a
runtime refuses a version it does not know. Which layers have a form as one of these ops, and with which options,
`attention_options` and `block_options` say. What of this is data - names, order and lengths of the inputs - is written in
`acdbit_keras.contract`, for Python and C++ alike.

Bits are packed as Larq Compute Engine packs them: int32 words along the channels, bit i of word w is channel
32 w + i, 1 is negative (x < threshold), bits beyond the last channel are 0. `count` is the number of places in which two
rows differ, popcount(a xor b); the dot product of their signs is channels - 2 count. All arithmetic is float32, each
operation rounded (no fused multiply-add), in the order written here, but for dynamic scores and softmaxes, whose rounding
is the runtime's own, the same on every CPU; sums over channels run over 16 lanes (lane = channel modulo 16), then over the
lanes by halves: l[i] + l[i + 8], l[i] + l[i + 4], ...

AcdBinaryAttention
    From packed queries, keys and values to the context. n queries, m keys, h heads of d channels, c = h d; d a multiple of 32
    of at most 224.

    Inputs, in order; those in brackets are there if their option is true:
        query (..., c / 32) int32 with n rows, key and value (..., c / 32) int32 with m rows
        score_scale (h,)
        [key_bias: key_weights (c,)]
        value_scale (c,), value_offset (c,), probability_scale (h,)
        [dynamic: query_scale (n h,), query_offset (n h,), key_scale (m h,), key_offset (m h,), token-major]
    Outputs: float32 in the shape of query, its last axis 32 times as long; optionally the kept probabilities, int32
        (h, n, ceil(m / 32)), bit j of a row 1 if key j is kept: for verification.
    Options: version, heads, rule, ratio (float), key_bias (bool), dynamic (bool).

    score_ij = score_scale_h (d - 2 count_ij) + beta_j          beta_j = sum over channels of key_weights * sign(key_j)
    dynamic:  score_ij = A [qs_i ks_j dot_ij + qs_i ko_j (s_i . 1) + qo_i ks_j (t_j . 1) + d qo_i ko_j], A = score_scale_h
    P = softmax over j of score;  kept_ij (0 or 1) by `rule`:
        ELASTIC    P > a / 2, a = probability_scale_h
        MAX_RATIO  P >= ratio * max_j P
        ZERO       score >= 0, no softmax
        MEAN       P >= 1 / m
    Weights of a softmax below 2^-32 of the row's largest may count as 0, so a threshold that low keeps as many keys as the
    rule says or fewer. From statistics that are not finite follows a result, the same on every CPU, but no particular one.
    count = popcount(kept_i and not value bits) per channel, kept = popcount(kept_i)
    context = count * (2 a value_scale) + kept * (a (value_offset - value_scale))

AcdBinaryBlock
    A whole BinaryViT block: x (1, height, width, c) float32 -> (1, height, width, c) float32. See `block_vectors` for
    the constants; r = mlp_ratio, n = height * width tokens.

    Inputs: x; kernels, int32 (words,): query, key, value, output (c, c / 32), mlp_1 (r c, c / 32), mlp_2 (c, r c / 32);
        vectors, float32, as `block_vectors` lists them.
    Outputs: x'; optionally `taps`, int32, as `block_taps` lists them: every sign, for verification.
    Options: version, heads, mlp_ratio, rule, ratio (float), branches (0 none, 1 pooling, 2 depthwise), key_bias,
        dynamic_activation, dynamic_hidden, dynamic_attention (bools).

    prelu(z, s) = z if z > 0 else s * z.   product(count) = count * multiplier + bias
    dynamic input:  product(count) = (count * multiplier + row) * alpha_i + restore * mu_i + bias
        alpha_i = mean over channels |v - threshold|, mu_i = mean of v, v the product's real input before its sign
        (a mean is the sum times the float32 reciprocal of the number)
    u = gain_1 * x + shift_1
    q = prelu((product_q + u), slope_q), from the bits u < threshold_q; k, v likewise;  total = (q + k) + v
    query bits: q < query_threshold; key and value bits likewise
    dynamic_attention: query_scale = mean over a head's channels |q - query_threshold|, query_offset = mean of q over
        the head + query_center_h; key likewise
    context: z = ((count * count_multiplier + kept * kept_multiplier) + bias) + total;  o = prelu(z, slope)
    output product on the bits o < threshold: y = x + (gain * prelu(product + o, slope) + shift)
    w = gain_2 * y + shift_2
    f = prelu(product_1 + tile(w), slope_1) from the bits w < threshold_1;  tile: channel j of f has w[j modulo c]
    out = y + (gain * prelu(product_2 + average(f), slope_2) + shift) from the bits f < threshold_2
        average: mean of each r adjacent channels; r = 2: f0 + f1; r = 4: (f0 + f1) + (f2 + f3); others in order; then
        times 1 / r
    branches: out = out + acc, starting from acc = 0;  without branches the two gains are absent, that is 1
        pooling: for the vertical, then the horizontal direction, with w_k the token k places on, 0 beyond the border:
        narrow = (w_-1 + w_0) + w_1; wide = (narrow + w_-2) + w_2; acc = acc + narrow * gain_3; acc = acc + wide * gain_5
        depthwise: for the rows -1, 0, 1, in each for the columns -1, 0, 1, with w the token so many places on, 0 beyond the
        border: acc = acc + w * kernel;  `depthwise` is (3, 3, c)
"""

import numpy as np
from keras import ops

from acdbit_keras import code
from acdbit_keras.contract import (
    ATTENTION,
    BLOCK,
    MAX_HEAD_DIM,
    VERSION,
    WORD_BITS,
    Branches,
    Rule,
    attention_inputs,
    block_kernels,
    block_taps,
    block_vectors,
)
from acdbit_keras.quantizers import ElasticBinary, ThresholdedProbabilities

__all__ = [
    "ATTENTION",
    "BLOCK",
    "MAX_HEAD_DIM",
    "VERSION",
    "WORD_BITS",
    "Branches",
    "NotExpressibleError",
    "Rule",
    "attention_inputs",
    "attention_options",
    "block_kernels",
    "block_options",
    "block_taps",
    "block_vectors",
    "probability_scale",
]

_BRANCHES = {"pooling": Branches.POOLING, "depthwise": Branches.DEPTHWISE}
_RULES = {"max_ratio": Rule.MAX_RATIO, "mean": Rule.MEAN, "zero": Rule.ZERO}


class NotExpressibleError(ValueError):
    """A layer that our ops have no form for; the message says which and why."""


def attention_options(layer):
    """The options of the AcdBinaryAttention that a `BinaryAttention` is.

    Args:
        layer: built.

    Raises:
        NotExpressibleError: for quantizers that take more than comparisons with constants and an affine map, and for heads
            wider than `MAX_HEAD_DIM`.
    """
    head_dim = layer.channels // layer.num_heads
    if head_dim > MAX_HEAD_DIM:
        raise NotExpressibleError(f"layer {layer.path}: its heads have {head_dim} channels, at most {MAX_HEAD_DIM} are supported")
    query, key, value = (_comparison(layer, f"{place}_quantizer") for place in ("query", "key", "value"))
    if query.dynamic != key.dynamic or value.dynamic:
        raise NotExpressibleError(
            f"layer {layer.path}: query and key must both have statistics per token or both frozen ones, and value frozen ones"
        )
    rule, ratio = _rule(layer)
    if rule == Rule.ZERO and (query.dynamic or np.any(key.offset)):
        raise NotExpressibleError(
            f"layer {layer.path}: without a softmax, what an offset of the keys adds to the scores does not cancel"
        )
    options = {"version": VERSION, "heads": layer.num_heads, "rule": int(rule), "ratio": ratio}
    # What an offset of the keys adds is constant along the keys, and a softmax ignores that.
    return options | {"key_bias": not query.dynamic and bool(np.any(query.offset)), "dynamic": query.dynamic}


def _rule(layer):
    quantizer = layer.probabilities_quantizer
    if isinstance(quantizer, ElasticBinary) and quantizer.levels == "zero_one":
        return Rule.ELASTIC, 0.0
    if isinstance(quantizer, ThresholdedProbabilities):
        return _RULES[quantizer.rule], quantizer.ratio if quantizer.rule == "max_ratio" else 0.0
    raise NotExpressibleError(f"layer {layer.path}: there is no device rule for the probabilities of {type(quantizer).__name__}")


def probability_scale(layer):
    """The number that a kept probability of a `BinaryAttention` counts, a, as float."""
    quantizer = layer.probabilities_quantizer
    scale = quantizer.bounded_scale() if isinstance(quantizer, ElasticBinary) else quantizer.constant_scale()
    return float(ops.convert_to_numpy(scale))


def block_options(block):
    """The options of the AcdBinaryBlock that a `BinaryBlock` is.

    Args:
        block: built.

    Raises:
        NotExpressibleError: as `attention_options`, for a reduction, and for kernels that are more than signs and a scale.
    """
    if block.reduction > 1:
        raise NotExpressibleError(f"layer {block.path}: it has fewer keys than tokens")
    attention = attention_options(block.attention)
    dynamic = {name: _product_comparison(product.dense).dynamic for name, product in block.products.items()}
    return {
        **{name: attention[name] for name in ("version", "heads", "rule", "ratio", "key_bias")},
        "mlp_ratio": block.mlp_ratio,
        "branches": int(_BRANCHES[block.mixing] if block.scheme.branches else Branches.NONE),
        "dynamic_activation": dynamic["query"],
        "dynamic_hidden": dynamic["mlp_2"],
        "dynamic_attention": attention["dynamic"],
    }


def _product_comparison(dense):
    comparison = _comparison(dense, "input_quantizer")
    if not comparison.dynamic and np.size(comparison.scale) != 1:
        raise NotExpressibleError(f"layer {dense.path}: the scale of its input differs between the channels")
    if dense.kernel_quantizer.levels != "sign":
        raise NotExpressibleError(f"layer {dense.path}: its kernel is not one of signs")
    offset = dense.kernel_code().offset
    if not (code.is_constant(offset) and offset == 0.0):
        raise NotExpressibleError(f"layer {dense.path}: its kernel has an offset")
    return comparison


def _comparison(layer, attribute):
    comparison = getattr(layer, attribute).comparison()
    if comparison is None:
        raise NotExpressibleError(f"layer {layer.path}: its {attribute} takes more than a comparison with constants")
    return comparison
