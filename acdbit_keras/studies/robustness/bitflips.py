"""Bits that flip in the weights of a `.tflite` file, as in the memory of a sensor.

In a bit-packed file only the kernels of signs are touched: the thresholds, scales and float layers around them, a small
part of the file, are taken to be kept in a memory that corrects its errors. In any other file the kernels of the same
layers are, the fully connected ones but for the classifier and one that reads pixels, the patch embedding, whatever type
they are stored in.
"""

import copy
import math
from typing import NamedTuple

import numpy as np

# Ops behind which pixels are still pixels.
_REARRANGING = ("QUANTIZE", "RESHAPE", "TRANSPOSE")


class Region(NamedTuple):
    """Weight bits in one constant of a file: `rows` rows of `stored` bits, of which the first `used` are weights.

    Attributes:
        buffer: index of the constant's buffer.
    """

    buffer: int
    rows: int
    stored: int
    used: int

    @property
    def bits(self):
        return self.rows * self.used


def weights(file):
    """The weight bits of a file.

    Args:
        file: model object, as `acdbit_keras.convert.flatbuffer.read` returns it.

    Returns:
        `(regions, what they are)`, a list of `Region` and a phrase.

    Raises:
        ValueError: a file without kernels.
    """
    from acdbit_keras import device_ops
    from acdbit_keras.convert import flatbuffer, rewrite

    packed, dense, sources = [], [], {}
    pixels = {(index, tensor) for index, graph in enumerate(file.subgraphs) for tensor in graph.inputs}
    for node in flatbuffer.operators(file):
        if node.name in _REARRANGING and (node.subgraph, node.inputs[0].index) in pixels:
            pixels.add((node.subgraph, node.outputs[0].index))
        elif node.name == "DEQUANTIZE":
            sources[node.subgraph, node.outputs[0].index] = node.inputs[0]
        elif node.name == rewrite.BCONV and node.inputs[1].dtype == "int32":
            units, height, width, words = node.inputs[1].shape
            packed.append((node, node.inputs[1], units * height * width, 32 * words, _channels(file, node, words)))
        elif node.name == device_ops.BLOCK:
            packed.append((node, node.inputs[1], 1, 32 * node.inputs[1].shape[0], 32 * node.inputs[1].shape[0]))
        elif node.name == "FULLY_CONNECTED" and (node.subgraph, node.inputs[0].index) not in pixels:
            kernel = node.inputs[1]
            kernel = kernel if kernel.data is not None else sources.get((node.subgraph, kernel.index), kernel)
            if kernel.data is not None:
                dense.append((node, kernel, 1, 8 * len(kernel.data), 8 * len(kernel.data)))
    found = packed or dense[:-1]
    if not found:
        raise ValueError(
            "the file holds no packed kernels, and no fully connected ones before its classifier, whose bits could flip"
        )
    what = "packed kernels of signs" if packed else f"{found[0][1].dtype} kernels of the blocks"
    regions = {}
    for node, tensor, rows, stored, used in found:
        buffer = file.subgraphs[node.subgraph].tensors[tensor.index].buffer
        # Equal constants may share a buffer, which is one place in memory.
        regions[buffer] = Region(buffer, rows, stored, used)
    return list(regions.values()), what


def _channels(file, node, words):
    from acdbit_keras.convert import rewrite

    return int(rewrite.custom_options(file, node).get("channels_in", 32 * words))


def flipped(file, regions, positions):
    """A copy of a file in which some weight bits are inverted.

    Args:
        file: model object; it stays as it is.
        regions: of `weights`.
        positions: distinct integers from 0 to the number of weight bits - 1, in the order of the regions.

    Returns:
        Model object.
    """
    positions = np.asarray(positions, np.int64)
    ends = np.cumsum([region.bits for region in regions])
    if positions.size and not (0 <= positions.min() and positions.max() < ends[-1]):
        raise ValueError(f"positions must be from 0 to {ends[-1] - 1}")
    chosen = np.searchsorted(ends, positions, side="right")
    result = copy.copy(file)
    result.buffers = list(file.buffers)
    for number in np.unique(chosen):
        region = regions[number]
        within = positions[chosen == number] - (ends[number] - region.bits)
        address = within // region.used * region.stored + within % region.used
        content = np.array(file.buffers[region.buffer].data, np.uint8)
        np.bitwise_xor.at(content, address // 8, (1 << address % 8).astype(np.uint8))
        result.buffers[region.buffer] = copy.copy(file.buffers[region.buffer])
        result.buffers[region.buffer].data = content
    return result


def draw(regions, rate, rng):
    """Positions of the bits that flip when each does with probability `rate`, independently.

    Raises:
        ValueError: a rate outside [0, 1].
    """
    check_rate(rate)
    total = sum(region.bits for region in regions)
    return rng.choice(total, rng.binomial(total, rate), replace=False, shuffle=False)


def check_rate(rate):
    """Raises ValueError unless a rate is a probability."""
    if not (math.isfinite(rate) and 0 <= rate <= 1):
        raise ValueError(f"a rate of bit flips must be from 0 to 1, not {rate:g}")
