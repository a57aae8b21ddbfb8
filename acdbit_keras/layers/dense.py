"""The 1-bit fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from acdbit_keras import checks, execution, freezing, masking, quantizers, replicas
from acdbit_keras.typing import QuantizerLike, Shape, Tensor

if TYPE_CHECKING:
    from acdbit_keras.code import Code


@keras.saving.register_keras_serializable(package="acdbit")
class BinaryDense(keras.layers.Layer):
    """Linear layer over the last axis whose input and kernel pass through quantizers.

    With 1-bit quantizers the product is `xor` and `popcount` on a device; see `acdbit_keras.code.matmul`.

    Args:
        units: number of output channels, at least 1.
        input_quantizer: quantizer, its name or config, any Larq quantizer, or `None`, the default, for a real input.
        kernel_quantizer: likewise for the kernel `(input channels, units)`.
        use_bias: whether a float bias `(units,)` is added; default False.
        kernel_initializer, bias_initializer, kernel_regularizer, kernel_constraint: as in `keras.layers.Dense`; by default
            the kernel's constraint is that of its quantizer.

    Input shape: `(batch, ..., channels)`, rank 2 to 4; integers are taken as numbers. Output shape: `(batch, ..., units)`,
    floating point. A mask `(batch, ...)` is handed on, and what it leaves out does not count in the statistics of the input.

    Raises:
        ValueError: if `units` is not a positive integer or a quantizer is unknown.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> layer = acd.BinaryDense(64, input_quantizer="approx_sign", kernel_quantizer="weight_sign")
        >>> print(layer(np.ones((8, 16, 128), "float32")).shape)
        (8, 16, 64)
        >>> agreement = acd.BinaryDense(1, "ste_sign", "ste_sign", kernel_initializer="ones")
        >>> print(np.asarray(agreement(np.float32([[0.3, -0.2, 1.5], [-4, -5, -6]]))))
        [[ 1.]
         [-3.]]
    """

    # === Config ===
    def __init__(
        self,
        units: int,
        input_quantizer: QuantizerLike = None,
        kernel_quantizer: QuantizerLike = None,
        use_bias: bool = False,
        kernel_initializer: str | dict[str, Any] | keras.Initializer = "glorot_uniform",
        bias_initializer: str | dict[str, Any] | keras.Initializer = "zeros",
        kernel_regularizer: str | dict[str, Any] | keras.Regularizer | None = None,
        kernel_constraint: str | dict[str, Any] | keras.constraints.Constraint | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.integer("units", units, 1)
        self.units = units
        self.input_quantizer = quantizers.own(input_quantizer)
        self.kernel_quantizer = quantizers.own(kernel_quantizer)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint or self.kernel_quantizer.constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=self.bias_initializer)
        self.input_quantizer.build(input_shape)
        self.kernel_quantizer.build(shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.built = True

    @property
    def is_binary(self) -> bool:
        """Whether both operands are bits, so that a converted model must hold packed weights for it."""
        return self.input_quantizer.is_binary and self.kernel_quantizer.is_binary

    def kernel_code(self, training: bool = False) -> Code:
        """The kernel through its quantizer.

        Args:
            training: whether the quantizer's statistics may move, as in a call of the layer; default False.

        Returns:
            `Code` with signs `(channels, units)`, differentiable with respect to the kernel.
        """
        # As a tensor of its own: Larq's functions have no gradient for a variable.
        with replicas.alike():
            return self.kernel_quantizer(ops.copy(self.kernel), training=training)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if not keras.backend.is_float_dtype(inputs.dtype):
            inputs = ops.cast(inputs, self.compute_dtype)
        with masking.only(mask):
            outputs = execution.current().dense(self, inputs, freezing.mode(self, training))
        return ops.add(outputs, self.bias) if self.use_bias else outputs

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "input_quantizer": quantizers.serialize(self.input_quantizer),
            "kernel_quantizer": quantizers.serialize(self.kernel_quantizer),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
