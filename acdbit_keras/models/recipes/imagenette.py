"""Ten classes of ImageNet in 96 pixels, for the camera of a device: 9,469 photographs, on a CPU.

`imagenette_edge`: `vit_mini_pooled8_96` (144 tokens), which begins as `imagenette_acd_bit`, trained on the labels alone, and
learns from `imagenette_cnn`, a convolutional network in full precision. Few pictures: what is taught is worth more than labels.
`imagenette_edge_float32`: its twin in full precision, from the start with the same teacher.

The pictures of the catalog's "imagenette" are scaled for every epoch anew. From folders of pictures that already have 96 pixels:
`acdbit train imagenette_edge --data FOLDER`.
"""

from acdbit_keras.models.recipes.cifar10 import CNN, EDGE, MINI

_CNN = CNN.replace(
    name="imagenette_cnn",
    dataset="imagenette",
    preset="cnn_mini_96",
    epochs=18,
    batch_size=64,
    learning_rate=3e-3,
    augment="mirror[crop_area=0.35]",
)
_STUDENT = MINI.replace(
    name="imagenette_acd_bit",
    dataset="imagenette",
    preset="vit_mini_pooled8_96",
    epochs=24,
    augment="mirror[crop_area=0.25]",
    statistics_batches=20,
)
_EDGE = EDGE.replace(
    name="imagenette_edge",
    dataset="imagenette",
    preset=_STUDENT.preset,
    start=_STUDENT.name,
    label_teacher=_CNN.name,
    epochs=36,
    learning_rate=5e-3,
    augment="mirror[crop_area=0.35]",
    statistics_batches=20,
)
RECIPES = (
    _CNN,
    _STUDENT,
    _EDGE,
    _EDGE.replace(
        name="imagenette_edge_float32",
        scheme="float32",
        start=None,
        epochs=24,
        learning_rate=2e-3,
        warmup_share=0.15,
        weight_decay=0.05,
        statistics_batches=0,
        jit_compile=False,
    ),
)
