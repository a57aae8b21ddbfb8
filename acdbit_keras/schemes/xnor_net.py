"""XNOR-Net: signs of weights and activations, each with the mean magnitude as its scale.

    W_b = alpha_o s(W), alpha_o = mean_row|W|        backward: dW_b (1/n + alpha_o where |W| <= 1), W kept within [-1, 1]
    x_b = s(x)                                        backward: 1 where |x| <= 1
    Q, K, V: beta_h s(x), beta_h = mean|x| of a head  backward: beta_h where |x| <= 1
    P_b = a H(P - 1/N), a the mean of the P kept      backward: a

The means of activations run while training and are constants on the device. The paper's factor beta_n = mean_c|x_nc| of each
token is the variant `xnor_net[axis=token,scale=mad]`, which no device op of ours carries out.

Source: XNOR-Net (arXiv:1603.05279), a convolutional network. It has no attention: the rule for P is ours, because the sign of
what is never negative would turn attention into a mean. Trained on the labels.
"""

from acdbit_keras.quantizers import ThresholdedProbabilities, WeightSign
from acdbit_keras.schemes.base import Scheme
from acdbit_keras.schemes.places import activations, plain_sign


def scaled_heads(**options):
    """The plain sign; for an operand of attention times the running mean |x| of its head."""
    scaled = dict(axis="tensor", scale="mad") if "channel_axes" in options else {}
    return plain_sign(**scaled, **options)


SCHEME = Scheme(
    name="xnor_net",
    title="XNOR-Net",
    note="XNOR-Net has no attention: probabilities are kept where they are at least 1/N, by a rule of ours.",
    weight=WeightSign(center=None, scale="mean_abs", sign="ste_sign", through_scale=True, limit=1.0),
    **activations(scaled_heads),
    probabilities=ThresholdedProbabilities("mean", scale="kept_mean"),
    branches=False,
)
