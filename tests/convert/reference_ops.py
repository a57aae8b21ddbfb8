"""Our custom ops in numpy, straight from the contract in `acdbit_keras.device_ops`: float32, in the order written there."""

import numpy as np

from acdbit_keras import device_ops
from acdbit_keras.convert import rewrite
from acdbit_keras.device_ops import Branches, Rule

f32 = np.float32


def block(options, kernels, vectors, x):
    """AcdBinaryBlock.

    Args:
        options: dict of the op's options.
        kernels: int32 `(words,)`.
        vectors: float32 `(floats,)`.
        x: float32 `(1, height, width, c)`.

    Returns:
        Output `(1, height, width, c)`, and a dict from `device_ops.block_taps` to bool arrays: True where a sign is
        negative, or a probability kept; channels or keys last.
    """
    _, height, width, c = x.shape
    heads, ratio = options["heads"], options["mlp_ratio"]
    v = _sliced(vectors, device_ops.block_vectors(options, c))
    k = {
        name: words.reshape(device_ops.block_kernels(options, c)[name])
        for name, words in _sliced(kernels, {n: int(np.prod(s)) for n, s in device_ops.block_kernels(options, c).items()}).items()
    }
    x = x.reshape(-1, c)
    taps = {}

    def product(name, real, dynamic):
        threshold = v[f"{name}.threshold"]
        taps[f"{name}.input"] = real < threshold
        weights = rewrite.unpack_bits(k[name], real.shape[1]) < 0
        count = _differences(taps[f"{name}.input"], weights)
        if not dynamic:
            return count * v[f"{name}.multiplier"] + v[f"{name}.bias"]
        alpha, mu = _statistics(real, threshold)
        return ((count * v[f"{name}.multiplier"] + v[f"{name}.row"]) * alpha + v[f"{name}.restore"] * mu) + v[f"{name}.bias"]

    dynamic = options["dynamic_activation"]
    u = v["gain_1"] * x + v["shift_1"]
    q, key, value = (_prelu(product(name, u, dynamic) + u, v[f"{name}.slope"]) for name in ("query", "key", "value"))
    total = (q + key) + value
    signs = {}
    for name, real in (("query", q), ("key", key), ("value", value)):
        signs[name] = taps[name] = real < v[f"{name}_threshold"]
    statistics = {}
    if options["dynamic_attention"]:
        for name, real in (("query", q), ("key", key)):
            split = real.reshape(len(x), heads, -1)
            alpha, mu = _statistics(split, v[f"{name}_threshold"].reshape(heads, -1))
            statistics[f"{name}_scale"] = alpha[..., 0]
            statistics[f"{name}_offset"] = mu[..., 0] + v[f"{name}_center"]
    count, kept, taps["probabilities"] = attention_counts(
        {**options, "dynamic": options["dynamic_attention"]}, **signs, **statistics,
        score_scale=v["score_scale"], probability_scale=v["probability_scale"], key_weights=v.get("key_weights"),
    )  # fmt: skip
    kept = np.repeat(kept, c // heads, axis=1)
    z = ((count * v["context.count_multiplier"] + kept * v["context.kept_multiplier"]) + v["context.bias"]) + total
    o = _prelu(z, v["context.slope"])

    def branch(name, z):
        r = _prelu(z, v[f"{name}.slope"])
        return (v[f"{name}.gain"] * r if options["branches"] else r) + v[f"{name}.shift"]

    y = x + branch("output", product("output", o, dynamic) + o)
    w = v["gain_2"] * y + v["shift_2"]
    f = _prelu(product("mlp_1", w, dynamic) + np.tile(w, (1, ratio)), v["mlp_1.slope"])
    out = y + branch("mlp_2", product("mlp_2", f, options["dynamic_hidden"]) + _average(f, ratio))
    if options["branches"]:
        mix = _depthwise if options["branches"] == Branches.DEPTHWISE else _pooling
        out = out + mix(w.reshape(height, width, c), v).reshape(-1, c)
    return out.reshape(1, height, width, c), {name: taps[name] for name in device_ops.block_taps(options, c, len(x))}


def attention(
    options, query, key, value, score_scale, value_scale, value_offset, probability_scale, key_weights=None, **statistics
):
    """AcdBinaryAttention: bool `query (n, c)`, `key`, `value (m, c)`, True where negative, to the context `(n, c)`."""
    count, kept, _ = attention_counts(
        options,
        query,
        key,
        value,
        score_scale=score_scale,
        probability_scale=probability_scale,
        key_weights=key_weights,
        **statistics,
    )
    width = query.shape[1] // options["heads"]
    a = np.repeat(probability_scale, width)
    kept = np.repeat(kept, width, axis=1)
    return count * ((f32(2) * a) * value_scale) + kept * (a * (value_offset - value_scale))


def _kept(options, score, probability_scale):
    """Which of one head's probabilities `(n, m)` the rule keeps, bool."""
    exact = np.exp(score.astype(np.float64) - score.max(1, keepdims=True))
    p = exact / exact.sum(1, keepdims=True)
    return {
        Rule.ELASTIC: lambda: p > 0.5 * np.float64(probability_scale),
        Rule.MAX_RATIO: lambda: p >= np.float64(f32(options["ratio"])) * p.max(1, keepdims=True),
        Rule.ZERO: lambda: score >= 0,
        Rule.MEAN: lambda: p * score.shape[1] >= 1.0,
    }[Rule(options["rule"])]()


def attention_counts(options, query, key, value, score_scale, probability_scale, key_weights=None, **statistics):
    """Float32 counts `(n, c)` and kept `(n, heads)`, and the kept probabilities, bool `(heads, n, m)`."""
    heads = options["heads"]
    n, m, d = len(query), len(key), query.shape[1] // heads
    counts, sums, probabilities = [], [], []
    for h in range(heads):
        q, k, v = (bits[:, h * d : (h + 1) * d] for bits in (query, key, value))
        dot = f32(d) - f32(2) * _differences(q, k)
        if options["dynamic"]:
            qs, qo, ks, ko = (statistics[name][:, h] for name in ("query_scale", "query_offset", "key_scale", "key_offset"))
            row_sums, key_sums = (f32(d) - f32(2) * bits.sum(1, dtype=f32) for bits in (q, k))
            scale = score_scale[h]
            p = scale * qs
            e = p * row_sums + (scale * f32(d)) * qo
            g = scale * qo
            score = ks * (p[:, None] * dot) + (e[:, None] * ko + g[:, None] * (ks * key_sums))
        else:
            score = score_scale[h] * dot
            if options["key_bias"]:
                weights = key_weights[h * d : (h + 1) * d]
                score = score + np.where(k, -weights, weights).sum(1, dtype=f32)
        kept = _kept(options, score, probability_scale[h])
        probabilities.append(kept)
        counts.append(kept.astype(f32) @ (~v).astype(f32))
        sums.append(kept.sum(1, dtype=f32))
    return np.concatenate(counts, 1).reshape(n, -1), np.stack(sums, 1), np.stack(probabilities).reshape(heads, n, m)


def packed_taps(taps):
    """The dict of `block` as the op's second output: int32 words, one section behind the other."""
    words = [rewrite.pack_bits(np.where(bits, -1, 1)).reshape(-1) for bits in taps.values()]
    return np.concatenate(words)


def _sliced(flat, lengths):
    assert len(flat) == sum(lengths.values())
    parts = np.split(flat, np.cumsum(list(lengths.values()))[:-1])
    return dict(zip(lengths, parts))


def _differences(a, b):
    """Number of places in which each row of `a` differs from each row of `b`, float32."""
    signs = (np.where(bits, f32(-1), f32(1)) for bits in (a, b))
    return (f32(a.shape[1]) - next(signs) @ next(signs).T) / f32(2)


def _sum(x):
    """Sum over the last axis by 16 lanes, then by halves of the lanes; keeps the axis."""
    lanes = np.zeros((*x.shape[:-1], 16), f32)
    for start in range(0, x.shape[-1], 16):
        lanes = lanes + x[..., start : start + 16]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes


def _statistics(x, threshold):
    share = f32(1) / f32(x.shape[-1])
    return _sum(np.abs(x - threshold)) * share, _sum(x) * share


def _prelu(z, slope):
    return np.where(z > 0, z, slope * z)


def _average(f, ratio):
    groups = f.reshape(len(f), -1, ratio)
    if ratio == 4:
        total = (groups[..., 0] + groups[..., 1]) + (groups[..., 2] + groups[..., 3])
    else:
        total = groups[..., 0]
        for index in range(1, ratio):
            total = total + groups[..., index]
    return total * (f32(1) / f32(ratio))


def _pooling(w, v):
    acc = np.zeros_like(w)
    for axis, direction in enumerate(("vertical", "horizontal")):
        padding = [(0, 0)] * 3
        padding[axis] = (2, 2)
        padded = np.pad(w, padding)
        size = w.shape[axis]
        shifted = [np.take(padded, range(start, start + size), axis) for start in range(5)]
        narrow = (shifted[1] + shifted[2]) + shifted[3]
        wide = (narrow + shifted[0]) + shifted[4]
        acc = acc + narrow * v[f"pooling.{direction}_3"]
        acc = acc + wide * v[f"pooling.{direction}_5"]
    return acc


def _depthwise(w, v):
    acc = np.zeros_like(w)
    height, width, c = w.shape
    padded = np.pad(w, ((1, 1), (1, 1), (0, 0)))
    for (row, column), kernel in zip(np.ndindex(3, 3), v["depthwise"].reshape(9, c)):
        acc = acc + padded[row : row + height, column : column + width] * kernel
    return acc
