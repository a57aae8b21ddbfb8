"""Models of the runtime's custom ops, as bytes, and bits as they are packed."""

import numpy as np

from acdbit_keras.contract import words
from acdbit_keras.convert.graph import Graph


def pack_bits(signs):
    """Signs (..., channels) -> int32 words (..., ceil(channels / 32)); a bit is 1 where the sign is negative."""
    bits = np.zeros((*signs.shape[:-1], words(signs.shape[-1]) * 32), np.uint8)
    bits[..., : signs.shape[-1]] = signs < 0
    return np.packbits(bits, axis=-1, bitorder="little").view(np.int32)


def unpack_bits(packed, channels):
    """The inverse of `pack_bits`: int8 signs."""
    bits = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")
    return 1 - 2 * bits[..., :channels].astype(np.int8)


def random_signs(rng, shape):
    return np.where(rng.random(shape) < 0.5, np.float32(-1), np.float32(1))


CONVOLUTION_OPTIONS = {
    "channels_in": 32, "stride_height": 1, "stride_width": 1, "dilation_height_factor": 1, "dilation_width_factor": 1,
    "padding": 1, "pad_values": 1, "fused_activation_function": 0,
}  # fmt: skip


def convolution(
    rng, image=(1, 5, 5, 32), outputs=16, kernel=(3, 3), groups=1, output="float32", source="float32", decimals=7, **options
):
    """LceQuantize and LceBconv2d with random constants.

    Args:
        image: shape of the input, (N, H, W, C).
        outputs, kernel, groups: of the filter.
        output: "float32", "int8" or "int32" (packed).
        source: type of the quantized input, "float32", "int8", "bool", or "int32" for packed bits as the graph's input.
        decimals: of multipliers, biases and the output's scale. Few of them put many outputs between two integers.
        options: what differs from `CONVOLUTION_OPTIONS`.

    Returns:
        bytes of the model.
    """
    graph = Graph()
    channels = image[-1]
    packed_shape = (*image[:-1], words(channels))
    if source == "int32":
        bits = graph.input(packed_shape, "int32")
    else:
        quantization = {"scale": 0.1, "zero_point": int(rng.integers(-20, 20))} if source == "int8" else {}
        x = graph.input(image, source, **quantization)
        bits = graph.custom("LceQuantize", [x], [graph.tensor(packed_shape, "int32")])
    filter_signs = random_signs(rng, (outputs, *kernel, channels // groups))
    products = int(np.prod(kernel)) * channels // groups
    inputs = [bits, graph.constant(pack_bits(filter_signs))]
    if output == "int32":
        inputs += [-1, -1, graph.constant(rng.integers(products // 4, 3 * products // 4 + 1, outputs).astype(np.int32))]
    else:
        multiplier = rng.uniform(-0.5, 0.5, outputs).round(decimals).astype(np.float32)
        bias = rng.normal(size=outputs).round(decimals).astype(np.float32)
        inputs += [graph.constant(multiplier), graph.constant(bias), -1]
    quantization = {}
    if output == "int8":
        quantization = {"scale": round(float(rng.uniform(0.05, 0.5)), decimals), "zero_point": int(rng.integers(-20, 20))}
    # The stored size of the output is a place-holder: runtimes work it out.
    y = graph.tensor((image[0], 1, 1, words(outputs) if output == "int32" else outputs), output, **quantization)
    graph.custom("LceBconv2d", inputs, [y], {**CONVOLUTION_OPTIONS, "channels_in": channels, **options})
    return graph.pack(y)
