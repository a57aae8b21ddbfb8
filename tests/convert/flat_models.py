"""Small flat files of random weights that between them hold every step in every form; and the corpus of the flat fuzzer.

python tests/convert/flat_models.py acdbit_keras/convert/runtime/fuzz/flat_corpus
"""

import pathlib
import sys

import numpy as np

from acdbit_keras import contract
from acdbit_keras.convert import flat


def random_flat(seed, compact, input, **options):
    """A model of 6x6 pixels, two convolutions, pooled, and a block of 2x2 tokens: bytes of a flat file.

    Args:
        seed: of the weights.
        compact, input: as for `flat.build`.
        options: of the block.
    """
    rng = np.random.default_rng(seed)
    options = {
        "heads": 1,
        "mlp_ratio": 1,
        "rule": 0,
        "ratio": 0.25,
        **dict.fromkeys(("key_bias", "branches", "dynamic_activation", "dynamic_hidden", "dynamic_attention"), False),
        **options,
    }
    steps = [
        *_stem(rng),
        flat._Step(flat._ADD, [rng.normal(size=128).astype("<f4")], [128, flat._FLOAT32], 512, in_place=True),
        _block(rng, options),
        flat._Step(flat._MEAN, [], [4, 32], 128),
        _dense(rng),
    ]
    offset, factor = np.array([120.0, 100.0], np.float32), np.array([0.01, 0.02], np.float32)
    if compact:
        steps = [*flat._integer_stem(steps, [6, 6, 2], offset, factor, input), *flat._rounded(steps)]
    elif input == "uint8":
        steps.insert(0, flat._Step(flat._NORMALISE, [offset, factor], [6, 6, 2, flat._PIXELS_TO_FLOAT], 288))
    return flat._packed(steps, (6, 6, 2), input, 3, {"classes": ["a", "b", "c"]})


def _stem(rng):
    first = flat._convolution((1, 6, 6, 2), 3, 1, (1, 1), (1, 6, 6, 5), 1, *_weights(rng, 5, 3, 3, 2))
    first.parameters[11:17] = [3, 2, 0, 0, 3, 3]
    first.bytes = 4 * 3 * 3 * 5
    return [first, flat._convolution((1, 3, 3, 5), 2, 2, (0, 0), (1, 2, 2, 32), 0, *_weights(rng, 32, 2, 2, 5))]


def _weights(rng, units, *shape):
    return rng.normal(size=(units, *shape)).astype("<f4") * 0.3, rng.normal(size=units).astype("<f4") * 0.1


def _dense(rng):
    kernel, bias = _weights(rng, 3, 32)
    return flat._Step(flat._DENSE, [kernel, bias, None], [1, 32, 3, flat._FLOAT32], 12)


def _block(rng, options):
    ranges = {"score_scale": (0.05, 0.2), "probability_scale": (0.1, 0.5), "gain_1": (0.5, 1.5), "gain_2": (0.5, 1.5)}
    vectors = np.concatenate(
        [
            rng.uniform(*ranges.get(name, (-0.05, -0.02) if name.endswith("multiplier") else (-0.3, 0.3)), length)
            for name, length in contract.block_vectors(options, 32).items()
        ]
    ).astype("<f4")
    shapes = contract.block_kernels(options, 32).values()
    words = rng.integers(0, 2**32, sum(int(np.prod(shape)) for shape in shapes), dtype=np.uint32)
    names = ("key_bias", "branches", "dynamic_activation", "dynamic_hidden", "dynamic_attention")
    sizes = [2, 2, 32, options["heads"], options["mlp_ratio"], options["rule"], float(options["ratio"])]
    parameters = [*sizes, *(int(options[name]) for name in names), flat._FLOAT32]
    return flat._Step(flat._BLOCK, [words, vectors, flat._distance_table(options, 32, vectors)], parameters, 512)


VARIANTS = {
    "plain": dict(),
    "branches": dict(branches=True, key_bias=True, mlp_ratio=2),
    "dynamic": dict(branches=True, dynamic_activation=True, dynamic_hidden=True, dynamic_attention=True, mlp_ratio=4),
    "ratio": dict(rule=1, mlp_ratio=3, key_bias=True),
    "zero": dict(rule=2, dynamic_hidden=True),
    "mean": dict(rule=3, dynamic_activation=True),
    "depthwise": dict(branches=contract.Branches.DEPTHWISE, mlp_ratio=2),
}


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in VARIANTS.items():
        for compact, input in ((False, "float32"), (False, "uint8"), (True, "float32"), (True, "uint8")):
            content = random_flat(1, compact, input, **options)
            (folder / f"{name}_{'compact' if compact else 'exact'}_{input}").write_bytes(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
