"""BinaryViT, the baseline: learned shifts before every sign, elastic {0, 1} probabilities.

    W_b = mean_row|W| * s(W - mean_row W)        backward: clipped identity on the centred weight
    x_b = s(x + t)                                backward: 2 - 2|x + t| within [-1, 1]
    P_b = a * clip(round(P / a), 0, 1)            one learned a per layer

Published, a starts at 0.005, for 197 keys; here at 4 / keys, see `ElasticBinary`, for models have from 16 keys on.

Source: BinaryViT (CVPR Workshops 2023), as the paper's baseline. Distilled from the teacher's label output alone.
"""

from acdbit_keras.distillation import LabelDistillation
from acdbit_keras.quantizers import AlignedSign, ElasticBinary, WeightSign
from acdbit_keras.schemes.base import Scheme
from acdbit_keras.schemes.places import activations


def shifted(**options):
    """The sign of BinaryViT: s(x + t), the shift t learned per channel."""
    return AlignedSign(threshold="learned", scale=None, restore="off", sign="approx_sign", **options)


SCHEME = Scheme(
    name="binary_vit",
    title="BinaryViT",
    weight=WeightSign(center="mean", scale="mean_abs", sign="ste_sign"),
    **activations(shifted),
    probabilities=ElasticBinary(),
    distillation=(LabelDistillation(weight=1.0),),
)
