"""What mixes neighbouring tokens, and changes of width and resolution: the float paths beside the binary products."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from acdbit_keras import execution
from acdbit_keras.typing import Shape, Tensor

SIDES = (3, 5)


@keras.saving.register_keras_serializable(package="acdbit")
class PoolingBranches(keras.layers.Layer):
    """Sum over side 3 and 5 of the scaled means over `side x 1` and `1 x side` windows, plus a shift per channel.

    Input and output `(batch, height, width, channels)`; zero padding, counted in the mean. It is one depthwise
    convolution with a cross-shaped kernel (`kernel`), whose row and column are exported; for training the same sum is
    written with slices, which XLA fuses where it runs a depthwise convolution slowly.

    Source: BinaryViT's pooling branches; all gains start at 0.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> image = np.zeros((1, 3, 3, 1), "float32")
        >>> image[0, 1, 1, 0] = 15.0
        >>> branches = acd.layers.PoolingBranches()
        >>> branches.build(image.shape)
        >>> _ = branches.gain.assign(np.ones((2, 2, 1)))
        >>> print(np.asarray(branches(image))[0, :, :, 0])
        [[ 0.  8.  0.]
         [ 8. 16.  8.]
         [ 0.  8.  0.]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.gain = self.add_weight(name="gain", shape=(2, len(SIDES), channels), initializer="zeros")
        self.shift = self.add_weight(name="shift", shape=(channels,), initializer="zeros")
        self.built = True

    def kernel(self) -> Tensor:
        """The depthwise kernel `(5, 5, channels, 1)` that computes the branches in one convolution."""
        size = SIDES[-1]
        kernel = 0.0
        for index, side in enumerate(SIDES):
            margin = (size - side) // 2
            band = ops.pad(ops.full((side, 1, 1, 1), 1.0 / side), ((margin, margin), (size // 2, size // 2), (0, 0), (0, 0)))
            for direction, window in enumerate((band, ops.transpose(band, (1, 0, 2, 3)))):
                kernel = kernel + window * self.gain[direction, index][None, None, :, None]
        return kernel

    def call(self, inputs: Tensor) -> Tensor:
        return execution.current().pooling(self, inputs)

    def sum_of_windows(self, inputs: Tensor) -> Tensor:
        """The branches as sums of shifted slices."""
        gain = ops.convert_to_tensor(self.gain)
        outputs = self.shift
        for direction, axis in enumerate((1, 2)):
            window = _window(inputs, axis)
            narrow = window[1] + window[2] + window[3]
            wide = narrow + window[0] + window[4]
            outputs = outputs + narrow * (gain[direction, 0] / 3.0) + wide * (gain[direction, 1] / 5.0)
        return outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable(package="acdbit")
class DepthwiseMixing(keras.layers.Layer):
    """Depthwise 3x3 convolution of the tokens, zero padded, plus a shift per channel: mixes what stands side by side.

    Input and output `(batch, height, width, channels)`. The kernel, `(3, 3, channels)`, is learned in place of the gains of
    `PoolingBranches`; it has fewer products, and the corners of the window, too. For training it is written with slices,
    which XLA fuses where it runs a depthwise convolution slowly.

    Kernel and shift start at 0, as the branches of BinaryViT do: a new block computes what it would without.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> image = np.zeros((1, 3, 3, 1), "float32")
        >>> image[0, 1, 1, 0] = 1.0
        >>> mixing = acd.layers.DepthwiseMixing()
        >>> mixing.build(image.shape)
        >>> _ = mixing.kernel.assign(np.arange(9.0).reshape(3, 3, 1))
        >>> print(np.asarray(mixing(image))[0, :, :, 0])
        [[8. 7. 6.]
         [5. 4. 3.]
         [2. 1. 0.]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.kernel = self.add_weight(name="kernel", shape=(3, 3, channels), initializer="zeros")
        self.shift = self.add_weight(name="shift", shape=(channels,), initializer="zeros")
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return execution.current().depthwise(self, inputs)

    def sum_of_neighbours(self, inputs: Tensor) -> Tensor:
        """The convolution as a sum of nine shifted slices."""
        kernel = ops.convert_to_tensor(self.kernel)
        height, width = ops.shape(inputs)[1:3]
        padded = ops.pad(inputs, [(0, 0), (1, 1), (1, 1), (0, 0)])
        outputs = self.shift
        for row in range(3):
            for column in range(3):
                shifted = padded[:, row : row + height, column : column + width]
                outputs = outputs + shifted * kernel[row, column]
        return outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def _window(x, axis):
    """The five shifts by -2..2 along a spatial axis, zeros beyond the border."""
    size = ops.shape(x)[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (2, 2)
    padded = ops.pad(x, padding)
    index = [slice(None)] * 4
    shifts = []
    for start in range(5):
        index[axis] = slice(start, start + size)
        shifts.append(padded[tuple(index)])
    return shifts


def tile_channels(x, times):
    """Repeats the channels as a whole: `(..., channels)` to `(..., times * channels)`."""
    if times == 1:
        return x
    # Spread rather than concatenated: XLA folds a broadcast into what reads it, and copies a concatenation slowly.
    rows = ops.reshape(x, (-1, 1, x.shape[-1]))
    spread = rows * ops.ones((1, times, 1), x.dtype)
    return ops.reshape(spread, (*ops.shape(x)[:-1], times * x.shape[-1]))


def average_channels(x, group):
    """Mean of each `group` adjacent channels: `(..., channels)` to `(..., channels / group)`."""
    if group == 1:
        return x
    # In three dimensions, which every device has kernels for.
    groups = ops.mean(ops.reshape(x, (-1, x.shape[-1] // group, group)), axis=-1)
    return ops.reshape(groups, (*ops.shape(x)[:-1], x.shape[-1] // group))


def average_windows(x, side):
    """Mean of each `side x side` window: `(batch, height, width, channels)` to `side` times smaller sizes."""
    _, height, width, channels = x.shape
    # As two means over the middle of three axes: their gradient is a broadcast, that of a pooling takes XLA long.
    rows = ops.mean(ops.reshape(x, (-1, side, width * channels)), axis=1)
    windows = ops.mean(ops.reshape(rows, (-1, side, channels)), axis=1)
    return ops.reshape(windows, (-1, height // side, width // side, channels))


def spread_windows(x, side):
    """Nearest upsampling, the inverse for constant windows: `(batch, height, width, channels)` to `side` times the sizes."""
    _, height, width, channels = x.shape
    rows = ops.reshape(x, (-1, 1, channels)) * ops.ones((1, side, 1), x.dtype)
    grid = ops.reshape(rows, (-1, 1, width * side * channels)) * ops.ones((1, side, 1), x.dtype)
    return ops.reshape(grid, (-1, height * side, width * side, channels))


def gather_windows(x, side):
    """The tokens of each `side x side` window in one, row by row: `(batch, height, width, channels)` to
    `(batch, height / side, width / side, side^2 channels)`."""
    _, height, width, channels = x.shape
    rows = ops.reshape(x, (-1, side, width // side, side * channels))
    return ops.reshape(ops.transpose(rows, (0, 2, 1, 3)), (-1, height // side, width // side, side * side * channels))
