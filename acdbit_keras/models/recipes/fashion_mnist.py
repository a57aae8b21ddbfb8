"""Fashion-MNIST, clothes in 28 x 28 gray pixels, on a CPU.

`fashion_mnist_edge`: `vit_nano_pooled4_32` at 28 pixels, 49 tokens, trained on the labels alone in half an hour of a core.
`fashion_mnist_edge_float32`: its twin in full precision.
"""

from acdbit_keras.models.recipes.cifar10 import MINI

_EDGE = MINI.replace(
    name="fashion_mnist_edge",
    dataset="fashion_mnist",
    preset="vit_nano_pooled4_32",
    image_size=28,
    epochs=15,
    learning_rate=4e-3,
    clip_norm=1.0,
)
RECIPES = (
    _EDGE,
    _EDGE.replace(
        name="fashion_mnist_edge_float32", scheme="float32", learning_rate=2e-3, weight_decay=0.05, statistics_batches=0
    ),
)
