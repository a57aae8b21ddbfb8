"""A small convolutional network in full precision: a teacher of labels that forty minutes of a core train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from acdbit_keras import checks, replicas, schemes
from acdbit_keras.models.backbone import Backbone, check_positive, sides
from acdbit_keras.typing import SchemeLike, Shape, Tensor


@keras.saving.register_keras_serializable(package="acdbit")
class ConvolutionalNetwork(Backbone):
    """Convolutions, two to a resolution, with maximum pooling between: what knows small pictures after a few epochs.

    Convolutions see neighbours from the start, which a transformer has to learn from more pictures than CIFAR has; logits of
    this network teach a student that, as `label_teacher` of a recipe or the first of two teachers of a `Distiller`. It has no
    blocks, so it hands out no taps: queries and keys are taught by a twin of the student.

    Args:
        scheme: a scheme in full precision; default `"float32"`.
        classes: number of classes; default 10.
        image_size: side of the square image in pixels, or height and width; at least (2 ** len(widths) + 1) * start_stride;
            default 32.
        channels: number of image channels; default 3.
        widths: channels of the convolutions, one number per resolution, each half as fine as the one before; default
            (64, 128, 128).
        start_stride: pixels from one window of the first convolution to the next; its windows have twice that side. 2 for larger
            images makes all that follows a quarter of the work; default 1.
        drop_path: what backbones have; blocks there are none of, so 0, the default, alone.
        frozen: as of `Backbone`.

    Raises:
        ValueError: on sizes that do not fit, or a scheme that is not in full precision.

    Source: the order of layers is that of airbench94 (arXiv:2404.00498), its narrow start, pooling before the norm, two
    convolutions a resolution; without its whitening, its initial weights and its optimizer.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> model = acd.models.ConvolutionalNetwork(classes=3, widths=(8, 16))
        >>> print(model(np.zeros((2, 32, 32, 3), "float32")).shape)
        (2, 3)
    """

    # === Config ===
    def __init__(
        self,
        scheme: SchemeLike = "float32",
        classes: int = 10,
        image_size: int | Sequence[int] = 32,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 128),
        start_stride: int = 1,
        drop_path: float = 0.0,
        frozen: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        # Not by way of `Backbone.__init__`, which makes a transformer.
        super(Backbone, self).__init__(**kwargs)
        check_positive(classes=classes, image_size=image_size, channels=channels, widths=widths, start_stride=start_stride)
        self.scheme = schemes.get(scheme)
        if self.scheme.is_binary:
            name = self.scheme.name
            raise ValueError(f"a ConvolutionalNetwork computes in full precision; its scheme must be float32, not {name}")
        if drop_path:
            raise ValueError(f"drop_path must be 0: a ConvolutionalNetwork has no blocks to drop, so not {drop_path!r}")
        self.classes = classes
        self.image_size = sides("image_size", image_size)
        self.channels = channels
        self.widths = tuple(widths)
        self.start_stride = start_stride
        self.drop_path_rate = 0.0
        height, width, _ = self.input_shape_of_images
        checks.integer("shorter side of image_size", min(height, width), (2 ** len(self.widths) + 1) * start_stride)
        self.blocks = []

        self._start = layers.Conv2D(24, 2 * start_stride, strides=start_stride, activation="gelu", name="start")
        self._convolutions, self._norms = [], []
        for index, channels_ in enumerate(self.widths):
            for part in "ab":
                name = f"{index}{part}"
                self._convolutions.append(layers.Conv2D(channels_, 3, padding="same", use_bias=False, name=f"convolution_{name}"))
                self._norms.append(replicas.batch_normalization(epsilon=1e-5, momentum=0.9, name=f"norm_{name}"))
        self._halve = layers.MaxPooling2D(name="halve")
        self._over_all = layers.GlobalMaxPooling2D(name="pool")
        self.classifier = layers.Dense(classes, name="classifier", dtype="float32")
        self.build((None, *self.input_shape_of_images))
        self._freeze(frozen if self.trainable else self._parts())

    def _parts(self):
        return {layer.name: layer for layer in (self._start, *self._convolutions, *self._norms, self.classifier)}

    @property
    def stages(self) -> list:
        """None: it has no blocks."""
        return []

    def build(self, input_shape: Shape) -> None:
        self._start.build(input_shape)
        width = self._start.filters
        for convolution, norm in zip(self._convolutions, self._norms):
            convolution.build((None, None, None, width))
            width = convolution.filters
            norm.build((None, None, None, width))
        self.classifier.build((None, width))
        self.input_spec = keras.layers.InputSpec(shape=(None, *self.input_shape_of_images))
        self.built = True

    def call(self, images: Tensor, training: bool | None = None, return_taps: bool = False) -> Tensor | dict[str, Any]:
        if not keras.backend.is_float_dtype(images.dtype):
            images = keras.ops.cast(images, self.compute_dtype)
        x = self._start(images)
        for index, (convolution, norm) in enumerate(zip(self._convolutions, self._norms)):
            x = convolution(x)
            if index % 2 == 0:
                x = self._halve(x)
            x = keras.activations.gelu(norm(x, training=training))
        logits = self.classifier(self._over_all(x))
        return {"logits": logits, "taps": []} if return_taps else logits

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "scheme": self.scheme.get_config(),
            "classes": self.classes,
            "image_size": self.image_size,
            "channels": self.channels,
            "widths": list(self.widths),
            "start_stride": self.start_stride,
            **self._standing(),
        }
