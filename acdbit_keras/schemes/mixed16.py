"""Mixed precision: the full-precision network, computed and stored in 16 bits.

Forward and backward in float16 with float32 master weights, softmax and norms' statistics in float32, and a loss scaled by
a factor that the optimizer adapts, so that small gradients survive (Keras' `mixed_float16`; a recipe may ask for bfloat16,
which needs no scaling). The gradient is the float one. The file has float16 weights.

Source: Mixed Precision Training (arXiv:1710.03740). Trained on the labels.
"""

from acdbit_keras.schemes.base import Scheme

SCHEME = Scheme(name="mixed16", title="Mixed-Precision", block="float", branches=False, precision="float16")
