"""Patch embedding: one convolution per patch, or early convolutions."""

import keras
from keras import layers, ops

from acdbit_keras import execution, freezing, replicas, tracing


@keras.saving.register_keras_serializable(package="acdbit")
class PatchEmbedding(layers.Conv2D):
    """A linear map of every patch, as a convolution whose stride is its size.

    Input `(batch, height, width, channels)`, output `(batch, height / patch_size, width / patch_size, width)`.

    Args:
        width: output channels.
        patch_size: side of a square patch, or height and width; divide those of the images.

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
        halvings = _halvings(patch_size, "convolutional")
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
            replicas.batch_normalization(epsilon=1e-5, momentum=0.9, name=f"norm_{index}", dtype=self.dtype_policy)
            for index in range(halvings)
        ]

    def build(self, input_shape):
        for convolution, norm in zip(self.convolutions, self.norms):
            convolution.build(input_shape)
            input_shape = convolution.compute_output_shape(input_shape)
            norm.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        x, training = inputs, freezing.mode(self, training)
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = norm(convolution(keras.ops.relu(x) if index else x), training=training)
        return x

    def normalised_convolutions(self):
        """`(convolution, norm)` in order: what a converter makes one convolution of."""
        return list(zip(self.convolutions, self.norms))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] // self.patch_size, input_shape[2] // self.patch_size, self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "patch_size": self.patch_size}


@keras.saving.register_keras_serializable(package="acdbit")
class PooledStem(keras.layers.Layer):
    """Halves the image once per factor 2 of `patch_size`, each time with a 3x3 convolution of stride 1 and a max-pooling.

    Input `(batch, height, width, channels)`, output `(batch, height / patch_size, width / patch_size, width)`:

        x = relu(bn(max_pool(convolution(x))))   per halving, windows of 3x3 at stride 2
        y = bn(1x1 convolution to `width`)

    Looking at every pixel before the resolution is halved is worth several points of accuracy over convolutions of
    stride 2. BatchNorm and ReLU behind the pooling work on a quarter of the values. Gains of these norms are kept from
    falling below zero: the pooling then commutes with what follows it, and a converted file computes
    `max_pool(relu(bn(convolution(x))))`, where norm and ReLU are part of the convolution.

    Args:
        width: output channels; the last 3x3 convolution has half as many, the one before a quarter, and so on.
        patch_size: a power of 2.

    Raises:
        ValueError: if `patch_size` is not a power of 2 from 2 up, or the width is not divisible by it.

    Source: the tokenizer of compact transformers (CCT, arXiv:2104.05704), with a 1x1 convolution in place of its widest.
    """

    def __init__(self, width, patch_size, **kwargs):
        super().__init__(**kwargs)
        halvings = _halvings(patch_size, "pooled")
        if width % patch_size:
            raise ValueError(f"the width {width} of a pooled stem is not divisible by patch_size={patch_size}")
        self.width = width
        self.patch_size = patch_size
        policy = self.dtype_policy
        self.convolutions = [
            layers.Conv2D(units, 3, padding="same", use_bias=False, name=f"convolution_{index}", dtype=policy)
            for index, units in enumerate(self._hidden_widths(halvings))
        ]
        norm = dict(epsilon=1e-5, momentum=0.9, dtype=policy)
        self.norms = [
            replicas.batch_normalization(gamma_constraint="non_neg", name=f"norm_{index}", **norm) for index in range(halvings)
        ]
        self.projection = self.projection_norm = None
        if self.convolutions[-1].filters != width:
            self.projection = layers.Conv2D(width, 1, use_bias=False, name="projection", dtype=policy)
            self.projection_norm = replicas.batch_normalization(name="projection_norm", **norm)

    def _hidden_widths(self, halvings):
        """Output channels of the 3x3 convolutions."""
        return [self.width >> (halvings - index) for index in range(halvings)]

    def build(self, input_shape):
        shape = tuple(input_shape)
        for convolution, norm in zip(self.convolutions, self.norms):
            convolution.build(shape)
            batch, height, width, _ = shape
            shape = (batch, height // 2, width // 2, convolution.filters)
            norm.build(shape)
        if self.projection is not None:
            self.projection.build(shape)
            self.projection_norm.build(self.projection.compute_output_shape(shape))
        self.built = True

    def call(self, inputs, training=None):
        return execution.current().pooled_stem(self, inputs, freezing.mode(self, training))

    def compute(self, inputs, training):
        """The stem as it is trained: pooled before the norm."""
        x = inputs
        for convolution, norm in zip(self.convolutions, self.norms):
            x = ops.relu(norm(halve_by_maximum(convolution(x)), training=training))
        return self._project(x, training)

    def compute_pooled_last(self, inputs):
        """The same function at inference, pooled behind the ReLU: what a converter makes two ops per halving of."""
        x = inputs
        for convolution, norm in zip(self.convolutions, self.norms):
            x = ops.max_pool(ops.relu(norm(convolution(x), training=False)), 3, strides=2, padding="same")
        return self._project(x, training=False)

    def _project(self, x, training):
        return x if self.projection is None else self.projection_norm(self.projection(x), training=training)

    def normalised_convolutions(self):
        """`(convolution, norm)` in order: what a converter makes one convolution of."""
        pairs = list(zip(self.convolutions, self.norms))
        return pairs if self.projection is None else [*pairs, (self.projection, self.projection_norm)]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] // self.patch_size, input_shape[2] // self.patch_size, self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "patch_size": self.patch_size}


@keras.saving.register_keras_serializable(package="acdbit")
class WidePooledStem(PooledStem):
    """As `PooledStem`, with convolutions of twice the width: the last has `width` channels itself, and nothing follows it.

    Input `(batch, height, width, channels)`, output `(batch, height / patch_size, width / patch_size, width)`. A little more
    accurate for three to four times the float arithmetic, so for where that matters less than the size of the file.

    Args:
        width, patch_size: as for `PooledStem`.

    Raises:
        ValueError: as `PooledStem` does.

    Source: the tokenizer of compact transformers (CCT, arXiv:2104.05704), with BatchNorm.
    """

    def _hidden_widths(self, halvings):
        return [2 * units for units in super()._hidden_widths(halvings)]


def halve_by_maximum(x):
    """Max-pooling of 3x3 at stride 2, padded at the far sides: `(batch, height, width, channels)` of even sizes to halves.

    The same values as `keras.ops.max_pool(x, 3, 2, "same")`. For XLA it is written with slices: its own gradient of a pooling
    goes through every window, element by element. TensorFlow's has a kernel of its own. Of equals in a window one has the
    gradient, in the two forms not always the same.
    """
    if not tracing.compiled_by_xla():
        return ops.max_pool(x, 3, strides=2, padding="same")
    _, height, width, channels = x.shape
    rows = _maximum_of_three(ops.reshape(x, (-1, height // 2, 2, width * channels)))
    columns = ops.reshape(rows, (-1, width // 2, 2, channels))
    return ops.reshape(_maximum_of_three(columns), (-1, height // 2, width // 2, channels))


def _maximum_of_three(pairs):
    """Of each pair and the first of the next one: `(n, pairs, 2, channels)` to `(n, pairs, channels)`."""
    first, second = pairs[:, :, 0], pairs[:, :, 1]
    # The last pair has no next one: its own first takes that place.
    following = ops.concatenate([first[:, 1:], first[:, -1:]], axis=1)
    return _larger(_larger(first, second), following)


def _larger(a, b):
    # Selected, not a maximum: where both are equal, JAX would halve the gradient of that.
    return ops.where(a >= b, a, b)


def _halvings(patch_size, stem):
    halvings = patch_size.bit_length() - 1 if isinstance(patch_size, int) else 0
    if not isinstance(patch_size, int) or patch_size < 2 or patch_size != 1 << halvings:
        raise ValueError(f"patch_size must be a power of 2 from 2 up for a {stem} stem, not {patch_size!r}")
    return halvings
