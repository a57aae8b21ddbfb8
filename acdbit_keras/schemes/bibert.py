"""BiBERT: attention without a softmax, and distillation that matches the directions of queries, keys and values.

    W_b = mean_row|W| * s(W - mean_row W)      backward: clipped identity on the centred weight
    x_b, Q_b, K_b, V_b = s(x)                   backward: 1 where |x| <= 1
    B = H(S), S = Q_b K_b^T / sqrt(d)           backward: 1 where |S| <= 1; context B V_b, there is no softmax

Loss: soft cross-entropy + 0.5 cross-entropy with the labels
    + sum over layers of || X_s / ||X_s|| - X_t / ||X_t|| ||, X the features of a layer
    + sum over layers and Q, K, V of || G_s / ||G_s|| - G_t / ||G_t|| ||, G = X X^T / sqrt(d) per head on the real tensors

Source: BiBERT (arXiv:2203.06390), a language model; that its block is the one shared here is the paper's comparison.
"""

from acdbit_keras.distillation import DirectionMatchingDistillation, HiddenDistillation, LabelDistillation, TrueLabels
from acdbit_keras.quantizers import ThresholdedProbabilities, WeightSign
from acdbit_keras.schemes.base import Scheme
from acdbit_keras.schemes.places import activations, plain_sign

SCHEME = Scheme(
    name="bibert",
    title="BiBERT",
    weight=WeightSign(center="mean", scale="mean_abs", sign="ste_sign"),
    **activations(plain_sign),
    probabilities=ThresholdedProbabilities("zero"),
    branches=False,
    distillation=(
        LabelDistillation(weight=1.0),
        TrueLabels(weight=0.5),
        HiddenDistillation(weight=1.0),
        DirectionMatchingDistillation(weight=1.0),
    ),
)
