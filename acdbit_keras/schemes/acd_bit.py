"""ACD-BiT: distribution alignment and distribution correction.

    x_b = alpha * s(z - m) + mu                   m median, alpha mean |z - m|, mu mean, per channel;
                                                  alpha's mean over the channels where a product sums over them
    W_b = alpha * s(W - median_row W)             alpha = mean_row |W - median_row W|
    P_b = a * clip(round(P / a), 0, 1)            one learned a per layer, as in BinaryViT

    backward: dz = alpha * (2 - 2|z - m|) within [-1, 1], m, alpha and mu constants; clipped identity on the centred weight

Alignment (Da) is of every activation and every operand of attention. Its statistics run while training and are constants
on the device, so that it adds no operation and no weight there.

Correction (Dc): cross-entropy against the teacher's label output, weight 0.9, and the query-key term, weight 0.1,

    mean over blocks, heads and X = Q, K of || G(X_s)/||G(X_s)|| - G(X_t)/||G(X_t)|| ||_F,  G(X) = X X^T

Source: Sensors 2024, 24, 8190 states the method; the formulas are our reconstruction.
"""

from acdbit_keras.distillation import LabelDistillation, QueryKeyDistillation
from acdbit_keras.quantizers import AlignedSign, ElasticBinary, WeightSign
from acdbit_keras.schemes.base import Scheme
from acdbit_keras.schemes.places import activations


def aligned(**options):
    """Median shift and mean restore with running statistics per channel, taken from a quarter of each batch."""
    frozen = dict(threshold="median", axis="channel", tracking="running", scale="mad", restore="frozen", batch_share=0.25)
    return AlignedSign(**frozen, **options)


SCHEME = Scheme(
    name="acd_bit",
    title="ACD-BiT",
    weight=WeightSign(center="median", scale="mad", sign="ste_sign"),
    **activations(aligned),
    probabilities=ElasticBinary(),
    distillation=(LabelDistillation(weight=0.9), QueryKeyDistillation(weight=0.1, form="gram")),
)
