"""ACD-BiT: distribution alignment and distribution correction.

Alignment (Da): every activation and every operand of attention becomes alpha * s(z - m) + mu, with m the median per
channel, alpha the mean absolute deviation and mu the mean; every kernel row becomes alpha * s(W - median W). The
statistics run while training and are constants on the device, so alignment adds no operation and no weight there.

Correction (Dc): cross-entropy against the teacher's label output, weight 0.9, and the query-key term, weight 0.1.

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
