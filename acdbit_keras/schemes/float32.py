"""Full precision: the teacher, and the twin that every size and latency is compared with."""

from acdbit_keras.schemes.base import Scheme

SCHEME = Scheme(name="float32", title="ViT (teacher)", block="float", branches=False, precision="float32")
