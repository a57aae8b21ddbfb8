"""Quant-Noise, 8 bits: trained with a random part of its weights quantized, so that all of them may be at inference.

    W' = clip(W) + sg(m (q(W) - W))        P(m = 1) = 1/2 for every weight and step, 1 at inference
    x' = q(x)                               every activation and operand of attention, always
    q(x) = S (clip(round(x / S) + Z, 0, 255) - Z), S and Z from the range: of the kernel itself, and a running average for x

Backward: the identity within the range. The converted file holds LiteRT's own int8: one step per output channel for kernels
and calibrated ranges for activations, which are not these ranges exactly.

Source: Training with Quantization Noise (arXiv:2004.07320), its scalar variant. Trained on the labels.
"""

from acdbit_keras.quantizers import UniformQuantizer
from acdbit_keras.schemes.base import Scheme

_EIGHT_BITS = {
    place: UniformQuantizer(bits=8, range="average")
    for place in ("activation", "hidden", "query", "key", "value", "probabilities")
}

SCHEME = Scheme(
    name="quant_noise_w8a8",
    title="Quant-Noise",
    note="Quant-Noise: in the converted file the ranges of activations are LiteRT's calibration, not those of the training.",
    block="float",
    branches=False,
    precision="int8",
    weight=UniformQuantizer(bits=8, noise=0.5),
    **_EIGHT_BITS,
)
