"""Patch embedding: one convolution per patch, or early convolutions."""

import keras
from keras import layers

from acdbit_keras import execution


@keras.saving.register_keras_serializable(package="acdbit")
class PatchEmbedding(layers.Conv2D):
    """A linear map of every patch, as a convolution whose stride is its size.

    Input `(batch, height, width, channels)`, output `(batch, height / patch_size, width / patch_size, width)`.

    Args:
        width: output channels.
        patch_size: height and width of a patch; divides those of the images.

    Source: ViT (arXiv:2010.11929).
    """

    def __init__(self, width, patch_size, **kwargs):
        super().__init__(width, patch_size, strides=patch_size, **kwargs)
        self.patch_size = patch_size

    def call(self, inputs):
        return execution.current().patches(self, inputs)

    def convolve(self, inputs):
        """The map as a Keras op."""
        return super().call(inputs)

    def get_config(self):
        base = keras.layers.Layer.get_config(self)
        return {**base, "width": self.filters, "patch_size": self.patch_size}


@keras.saving.register_keras_serializable(package="acdbit")
class ConvolutionalStem(keras.layers.Layer):
    """Halves the image once per factor 2 of `patch_size` with 3x3 convolutions, BatchNorm and ReLU between them.

    Input `(batch, height, width, channels)`, output `(batch, height / patch_size, width / patch_size, width)`. Float,
    like the patch embedding it replaces, and for small images worth its cost: a transformer learns much faster from it.

    Args:
        width: output channels; the convolution before has half as many, and so on.
        patch_size: a power of 2.

    Raises:
        ValueError: if `patch_size` is not a power of 2 from 2 up.

    Source: Early Convolutions Help Transformers See Better (arXiv:2106.14881).
    """

    def __init__(self, width, patch_size, **kwargs):
        super().__init__(**kwargs)
        halvings = patch_size.bit_length() - 1
        if patch_size < 2 or patch_size != 1 << halvings:
            raise ValueError(f"patch_size must be a power of 2 from 2 up for a convolutional stem, not {patch_size!r}")
        self.width = width
        self.patch_size = patch_size
        widths = [width >> (halvings - 1 - index) for index in range(halvings)]
        self.convolutions = [
            layers.Conv2D(
                units, 3, strides=2, padding="same", use_bias=False, name=f"convolution_{index}", dtype=self.dtype_policy
            )
            for index, units in enumerate(widths)
        ]
        self.norms = [
            layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"norm_{index}", dtype=self.dtype_policy)
            for index in range(halvings)
        ]

    def build(self, input_shape):
        for convolution, norm in zip(self.convolutions, self.norms):
            convolution.build(input_shape)
            input_shape = convolution.compute_output_shape(input_shape)
            norm.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        x = inputs
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = norm(convolution(keras.ops.relu(x) if index else x), training=training)
        return x

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] // self.patch_size, input_shape[2] // self.patch_size, self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "patch_size": self.patch_size}
