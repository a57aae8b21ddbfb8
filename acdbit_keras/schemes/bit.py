"""BiT: elastic signs with learned scales, two sets of levels, and a training in steps of fewer and fewer bits.

    W_b = mean|W| * s(W - mean W), of the whole kernel      backward: identity on the centred weight
    x_b = a s(x)                                             backward: 1 where |x| <= a; da = sum(s(x) g) / sqrt(numel)
    f_b, P_b = a clip(round(x / a), 0, 1)                    backward: learned step size; see `ElasticBinary`

The levels are {-1, 1} for Q, K, V and the inputs of linear layers, {0, 1} for P and the input of the second feed-forward
product. Every a starts from the first batch: 2 mean|x|, or 4 mean|x| for {0, 1}.

Steps: real weights and activations, then 1-bit weights with 2-bit activations, then 1 bit for both; each starts from the
weights and scales of the one before and has it as its teacher. Loss: soft cross-entropy and hidden states.

Source: BiT (arXiv:2205.13016), a language model. Reconstruction: hidden states are compared normalised, because the student's
BatchNorm and the teacher's LayerNorm scale them differently; the shares of the steps.
"""

from acdbit_keras.distillation import HiddenDistillation, LabelDistillation
from acdbit_keras.quantizers import ElasticBinary, WeightSign
from acdbit_keras.schemes.base import Scheme, Stage

_TWO_SIDED, _ONE_SIDED = ("activation", "query", "key", "value"), ("hidden", "probabilities")


def elastic(bits):
    """Quantizers of all activations with so many bits, as fields of a scheme."""
    options = dict(initial_scale=None, bits=bits, lsq=True)
    return {place: ElasticBinary(signed=place in _TWO_SIDED, **options) for place in (*_TWO_SIDED, *_ONE_SIDED)}


_REAL = dict.fromkeys(("weight", *_TWO_SIDED, *_ONE_SIDED))

SCHEME = Scheme(
    name="bit",
    title="BiT",
    weight=WeightSign(
        center="mean", scale="mean_abs", per="tensor", sign={"name": "ste_sign", "arguments": {"clip_value": None}}
    ),
    **elastic(bits=1),
    branches=False,
    distillation=(LabelDistillation(weight=1.0), HiddenDistillation(weight=1.0)),
    stages=(
        Stage("W32A32", 0.3, _REAL),
        Stage("W1A2", 0.3, elastic(bits=2), teacher="previous"),
        Stage("W1A1", 0.4, teacher="previous"),
    ),
)
