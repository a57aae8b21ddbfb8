"""BiViT: probabilities binarised relative to their row's maximum, learned scales of the weights, two phases.

    W_b = gamma_o s(W - mean_row W), gamma_o learned from mean_row|W| on      backward: clipped identity on the centred weight
    x_b, Q_b, K_b, V_b = s(x)                                                  backward: 1 where |x| <= 1
    P_b = 1[P >= max_row P / 4]                                                backward: straight through, into the softmax

Phases: attention in bits while the feed-forward part stays real, then, from those weights, all in bits. Loss: soft
cross-entropy against the teacher.

Source: BiViT (arXiv:2211.07091). Its optional scale of each row of P, the mean of the P kept, is left out: the BatchNorm
behind the context has a scale of its own. Reconstruction: attention before feed-forward, and the shares of the phases.
"""

from acdbit_keras.distillation import LabelDistillation
from acdbit_keras.quantizers import ThresholdedProbabilities, WeightSign
from acdbit_keras.schemes.base import Scheme, Stage
from acdbit_keras.schemes.places import activations, plain_sign

SCHEME = Scheme(
    name="bivit",
    title="BiViT",
    weight=WeightSign(center="mean", scale="learned", sign="ste_sign"),
    **activations(plain_sign),
    probabilities=ThresholdedProbabilities("max_ratio", ratio=0.25),
    branches=False,
    distillation=(LabelDistillation(weight=1.0),),
    stages=(Stage("attention", 0.5, {"real": ("mlp",)}), Stage("all", 0.5)),
)
