"""Full precision: the teacher, and the twin that every size and latency is compared with.

    y = x + attention(norm(x)),  z = y + W_2 gelu(W_1 norm(y))        attention = softmax(Q K^T / sqrt(d)) V

LayerNorm before each part; no quantizer, so gradients are those of the formulas. Trained on the labels alone.

Source: DeiT (Touvron et al., ICML 2021), whose sizes the presets have.
"""

from acdbit_keras.schemes.base import Scheme

SCHEME = Scheme(name="float32", title="ViT (teacher)", block="float", branches=False, precision="float32")
