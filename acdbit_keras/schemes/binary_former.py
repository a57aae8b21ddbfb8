"""BinaryFormer (proxy): a stand-in, built from the abstract alone, for a system whose method is not public.

The abstract describes a hierarchical-adaptive network whose attention switches by stage between binary weights with real
activations, that is additions only, and the XNOR product. The paper's table has it at 1 bit for weights and activations.
The proxy has both: the stages are those of the training. First binary weights with real activations and real
attention, then, from those weights, XNOR products everywhere.

    W_b = mean_row|W| * s(W - mean_row W)     backward: clipped identity
    x_b, Q_b, K_b, V_b = s(x), second stage    backward: 1 where |x| <= 1
    P_b = a clip(round(P / a), 0, 1), second stage, one learned a per layer

Loss: soft cross-entropy against the teacher.

Source: the abstract of BinaryFormer (IEEE Transactions on Industrial Informatics). Everything else is ours: no figure of
this scheme is a figure of that system.
"""

from acdbit_keras.distillation import LabelDistillation
from acdbit_keras.quantizers import ElasticBinary, WeightSign
from acdbit_keras.schemes.base import Scheme, Stage
from acdbit_keras.schemes.places import activations, plain_sign

_REAL_ACTIVATIONS = dict.fromkeys(("activation", "hidden", "query", "key", "value", "probabilities"))

SCHEME = Scheme(
    name="binary_former",
    title="BinaryFormer (proxy)",
    note="BinaryFormer (proxy): built from the abstract alone; the method is not public.",
    weight=WeightSign(center="mean", scale="mean_abs", sign="ste_sign"),
    **activations(plain_sign),
    probabilities=ElasticBinary(),
    branches=False,
    distillation=(LabelDistillation(weight=1.0),),
    stages=(Stage("real activations", 0.5, _REAL_ACTIVATIONS), Stage("XNOR", 0.5)),
)
