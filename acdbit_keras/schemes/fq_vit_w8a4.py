"""FQ-ViT: the trained float network in integers without any further training, its attention in 4 bits.

    W_b = S_o clip(round(W / S_o), -127, 127)              S_o = max_row|W| / 127
    x_b = S (clip(round(x / S) + Z, 0, 255) - Z)           S and Z from the lowest and highest x of the calibration
    what a norm reads: step S 2^e_c / 8 of channel c        e_c in 0 ... 3 of least squared error
    P_b = 2^-q, q = round(log2(sum e / e_i)) in 0 ... 15    e an integer-only exponential; see `LogarithmicSoftmax`

There is no gradient: the weights are the teacher's, and about ten batches calibrate the ranges. The norms themselves stay
float. LiteRT has no 4-bit powers of two, so the converted file holds an int8 softmax, 8-bit integers throughout, and steps
of one size where a norm reads; accuracy in Keras is that of the scheme, accuracy of the file that of int8.

Source: FQ-ViT (arXiv:2111.13824).
"""

from acdbit_keras.quantizers import LogarithmicSoftmax, PowerOfTwoFactor, UniformQuantizer
from acdbit_keras.schemes.base import Scheme

_EIGHT_BITS = {place: UniformQuantizer(bits=8, range="extremes") for place in ("activation", "hidden", "query", "key", "value")}

SCHEME = Scheme(
    name="fq_vit_w8a4",
    title="FQ-ViT",
    note="FQ-ViT: the converted file has an 8-bit softmax, because LiteRT has no 4-bit powers of two.",
    block="float",
    branches=False,
    precision="int8",
    weight=UniformQuantizer(bits=8, symmetric=True, per="row"),
    **_EIGHT_BITS,
    probabilities=LogarithmicSoftmax(bits=4),
    residual=PowerOfTwoFactor(bits=8),
    post_training=True,
)
