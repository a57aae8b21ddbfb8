"""The two transformer blocks that every scheme plugs into, and the merging of tokens between the stages of a pyramid.

Tokens stay on their grid, `(batch, height, width, channels)`, through the whole network: a linear layer is then a
1x1 convolution, which is what the converter packs into bits, and pooling needs no change of layout.
Each block returns its output and, from the same forward pass, its taps: query, key and value before quantization,
`(batch, tokens, heads, head_dim)`, the (quantized) probabilities `(batch, heads, tokens, tokens)` and the features. With
a reduction r > 1 keys and values are those of windows of r x r tokens: there are tokens / r^2 of them.
"""

from __future__ import annotations

import collections
import math
from typing import Any, Literal

import keras
from keras import layers

from acdbit_keras import checks, device_ops, execution, freezing, replicas, schemes
from acdbit_keras.cost import file_size
from acdbit_keras.layers import BinaryAttention, BinaryDense, DepthwiseMixing, LayerScale, PoolingBranches, RPReLU
from acdbit_keras.layers.pooling import average_channels, average_windows, gather_windows, spread_windows, tile_channels
from acdbit_keras.typing import SchemeLike, Shape, Tensor

MIXINGS = ("pooling", "depthwise")


class _SchemeLayer(keras.layers.Layer):
    """A layer whose products are quantized as a scheme says."""

    def __init__(self, scheme: SchemeLike, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scheme = schemes.get(scheme)

    @property
    def trainable(self) -> bool:
        return super().trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        # Keras gives it to every variable.
        keras.layers.Layer.trainable.fset(self, value)
        self._hold_shifts()

    def _hold_shifts(self):
        """Keeps what is added per channel at the 0 it begins with, where the scheme learns none of it."""
        scheme = getattr(self, "scheme", None)
        if scheme is None or scheme.shifts:
            return
        for layer in self._flatten_layers(include_self=False):
            for name in ("beta", "shift", "shift_in", "shift_out"):
                if isinstance(variable := getattr(layer, name, None), keras.Variable):
                    variable.trainable = False

    def _dense(self, units, name, place="activation", part="attention", **options):
        return BinaryDense(
            units,
            input_quantizer=self.scheme.quantizer(place, part),
            kernel_quantizer=self.scheme.quantizer("weight", part),
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name=name,
            **options,
        )

    def _norm(self, name):
        if self.scheme.block == "float":
            return layers.LayerNormalization(epsilon=1e-6, name=name)
        return replicas.batch_normalization(epsilon=1e-5, momentum=0.9, name=name)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scheme": self.scheme.get_config()}


class DropPath(layers.Dropout):
    """Stochastic depth: one draw per image drops the whole branch, `(batch, height, width, channels)`.

    Source: Huang et al. (arXiv:1603.09382).
    """

    def __init__(self, rate, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1, 1), **kwargs)

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        # Drawn for the whole batch: every device draws the same numbers.
        ones = keras.ops.ones((replicas.batch_shape(inputs)[0], 1, 1, 1), inputs.dtype)
        return inputs * replicas.own_rows(super().call(ones, training=True), inputs)


class _Block(_SchemeLayer):
    """What both blocks share: configuration, attention and taps."""

    # === Config ===
    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_ratio: int,
        scheme: SchemeLike,
        drop_path: float = 0.0,
        reduction: int = 1,
        mixing: Literal["pooling", "depthwise"] = "pooling",
        **kwargs: Any,
    ) -> None:
        super().__init__(scheme, **kwargs)
        checks.choice("mixing", mixing, MIXINGS)
        self.width = width
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.drop_path_rate = drop_path
        self.reduction = reduction
        self.mixing = mixing
        self.attention = BinaryAttention(
            num_heads,
            query_quantizer=self.scheme.quantizer("query", "attention"),
            key_quantizer=self.scheme.quantizer("key", "attention"),
            value_quantizer=self.scheme.quantizer("value", "attention"),
            probabilities_quantizer=self.scheme.quantizer("probabilities", "attention"),
            name="attention",
        )
        self.drop_path = DropPath(drop_path, name="drop_path")

    def _reduced(self, shape):
        """Shape of what keys and values are made of."""
        batch, height, width, channels = shape
        if height % self.reduction or width % self.reduction:
            raise ValueError(
                f"a grid of {height} x {width} tokens does not divide into windows of side {self.reduction}, the reduction"
            )
        return (batch, height // self.reduction, width // self.reduction, channels)

    def _taps(self, query, key, value, probabilities, features):
        heads = (self.num_heads, self.width // self.num_heads)

        def split(x):
            return keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], *heads))

        taps = {"query": split(query), "key": split(key), "value": split(value)}
        return {**taps, "probabilities": probabilities, "features": features}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width": self.width,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": self.drop_path_rate,
            "reduction": self.reduction,
            "mixing": self.mixing,
        }


@keras.saving.register_keras_serializable(package="acdbit")
class FloatBlock(_Block):
    """Pre-norm transformer block: LayerNorm, attention, LayerNorm, GELU feed-forward; the block of DeiT.

    With a reduction keys and values are made of `gelu(norm(dense(mean of a window)))`, as in PVTv2 (arXiv:2106.13797).

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> block = acd.models.FloatBlock(width=64, num_heads=2, mlp_ratio=2, scheme="float32")
        >>> outputs, taps = block(np.ones((1, 4, 4, 64), "float32"))
        >>> print(outputs.shape, taps["query"].shape, taps["probabilities"].shape)
        (1, 4, 4, 64) (1, 16, 2, 32) (1, 2, 16, 16)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attention_residual = self.scheme.quantizer("residual", name="attention_residual")
        self.mlp_residual = self.scheme.quantizer("residual", name="mlp_residual")
        self.attention_norm = self._norm("attention_norm")
        if self.reduction > 1:
            self.reduction_dense = self._dense(self.width, "reduction", use_bias=True)
            self.reduction_norm = self._norm("reduction_norm")
        self.query_dense = self._dense(self.width, "query", use_bias=True)
        self.key_dense = self._dense(self.width, "key", use_bias=True)
        self.value_dense = self._dense(self.width, "value", use_bias=True)
        self.output_dense = self._dense(self.width, "output", use_bias=True)
        self.mlp_norm = self._norm("mlp_norm")
        self.mlp_dense_1 = self._dense(self.width * self.mlp_ratio, "mlp_1", part="mlp", use_bias=True)
        self.mlp_dense_2 = self._dense(self.width, "mlp_2", place="hidden", part="mlp", use_bias=True)

    def build(self, input_shape: Shape) -> None:
        hidden_shape, reduced = (*input_shape[:-1], self.width * self.mlp_ratio), self._reduced(input_shape)
        for layer in (self.attention_residual, self.mlp_residual, self.attention_norm, self.query_dense, self.output_dense):
            layer.build(input_shape)
        for layer in (self.reduction_dense, self.reduction_norm) if self.reduction > 1 else ():
            layer.build(reduced)
        for layer in (self.key_dense, self.value_dense):
            layer.build(reduced)
        self.attention.build(input_shape, reduced, reduced)
        self.mlp_norm.build(input_shape)
        self.mlp_dense_1.build(input_shape)
        self.mlp_dense_2.build(hidden_shape)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        quantize, training = execution.current().quantize, freezing.mode(self, training)
        u = reduced = self.attention_norm(quantize(self.attention_residual, inputs, training))
        if self.reduction > 1:
            reduced = self.reduction_norm(self.reduction_dense(average_windows(u, self.reduction), training=training))
            reduced = keras.ops.gelu(reduced, approximate=False)
        query = self.query_dense(u, training=training)
        key, value = (dense(reduced, training=training) for dense in (self.key_dense, self.value_dense))
        context, probabilities = self.attention(query, key, value, training=training, return_probabilities=True)
        x = inputs + self.drop_path(self.output_dense(context, training=training), training=training)
        w = self.mlp_norm(quantize(self.mlp_residual, x, training))
        hidden = keras.ops.gelu(self.mlp_dense_1(w, training=training), approximate=False)
        outputs = x + self.drop_path(self.mlp_dense_2(hidden, training=training), training=training)
        return outputs, self._taps(query, key, value, probabilities, outputs)


@keras.saving.register_keras_serializable(package="acdbit")
class BinaryProduct(keras.layers.Layer):
    """`rp(bn(BinaryDense(x)) + shortcut)`: a binary product with the residual that carries what the bits lose.

    Call arguments:
        inputs: `(batch, height, width, channels)`.
        shortcut: `(batch, height, width, units)`.
    """

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense
        self.norm = replicas.batch_normalization(epsilon=1e-5, momentum=0.9, name="norm")
        self.activation = RPReLU(name="activation")

    def build(self, input_shape, shortcut_shape=None):
        output_shape = self.dense.compute_output_shape(input_shape)
        self.dense.build(input_shape)
        self.norm.build(output_shape)
        self.activation.build(output_shape)
        self.built = True

    def call(self, inputs, shortcut, training=None):
        training = freezing.mode(self, training)
        return self.activation(self.norm(self.dense(inputs, training=training), training=training) + shortcut)

    def compute_output_shape(self, input_shape, shortcut_shape=None):
        return self.dense.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "dense": keras.saving.serialize_keras_object(self.dense)}

    @classmethod
    def from_config(cls, config):
        # Unbuilt: `build` builds it.
        dense = {key: value for key, value in config["dense"].items() if key != "build_config"}
        return cls(**{**config, "dense": keras.saving.deserialize_keras_object(dense)})


@keras.saving.register_keras_serializable(package="acdbit")
class BinaryBlock(_Block):
    """The BinaryViT block: BatchNorm, a residual around every binary product, RPReLU, scaled and pooling branches.

    With `mixing="depthwise"` a `DepthwiseMixing` stands where `PoolingBranches` do. In a scheme without branches there is
    neither.

    Source: BinaryViT (CVPR Workshops 2023); the comments in `compute` write it as formulas.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> block = acd.models.BinaryBlock(width=64, num_heads=2, mlp_ratio=2, scheme="acd_bit")
        >>> outputs, taps = block(np.ones((1, 4, 4, 64), "float32"))
        >>> print(outputs.shape, taps["query"].shape, taps["probabilities"].shape)
        (1, 4, 4, 64) (1, 16, 2, 32) (1, 2, 16, 16)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hidden = self.width * self.mlp_ratio
        self.attention_norm = self._norm("attention_norm")
        if self.reduction > 1:
            self.reduction_product = BinaryProduct(self._dense(self.width, "reduction"), name="reduction_product")
        self.query_product = BinaryProduct(self._dense(self.width, "query"), name="query_product")
        self.key_product = BinaryProduct(self._dense(self.width, "key"), name="key_product")
        self.value_product = BinaryProduct(self._dense(self.width, "value"), name="value_product")
        self.context_norm = self._norm("context_norm")
        self.context_activation = RPReLU(name="context_activation")
        self.output_product = BinaryProduct(self._dense(self.width, "output"), name="output_product")
        self.mlp_norm = self._norm("mlp_norm")
        self.mlp_product_1 = BinaryProduct(self._dense(hidden, "mlp_1", part="mlp"), name="mlp_product_1")
        self.mlp_product_2 = BinaryProduct(self._dense(self.width, "mlp_2", place="hidden", part="mlp"), name="mlp_product_2")
        if self.scheme.branches:
            self.attention_scale = LayerScale(name="attention_scale")
            self.mlp_scale = LayerScale(name="mlp_scale")
            if self.mixing == "pooling":
                self.pooling = PoolingBranches(name="pooling")
            else:
                self.depthwise = DepthwiseMixing(name="depthwise")

    def build(self, input_shape: Shape) -> None:
        hidden_shape, reduced = (*input_shape[:-1], self.width * self.mlp_ratio), self._reduced(input_shape)
        for layer in (self.attention_norm, self.query_product):
            layer.build(input_shape)
        if self.reduction > 1:
            self.reduction_product.build(reduced)
        for layer in (self.key_product, self.value_product):
            layer.build(reduced)
        self.attention.build(input_shape, reduced, reduced)
        for layer in (self.context_norm, self.context_activation, self.output_product, self.mlp_norm, self.mlp_product_1):
            layer.build(input_shape)
        self.mlp_product_2.build(hidden_shape)
        self.tokens = math.prod(input_shape[1:-1])
        if self.scheme.branches:
            for layer in (self.attention_scale, self.mlp_scale, self.mixer()):
                layer.build(input_shape)
        self._hold_shifts()
        self.built = True

    # No property: saving a model looks through those, and would find the layer under a second name.
    def mixer(self) -> PoolingBranches | DepthwiseMixing:
        """The layer that mixes neighbouring tokens; only where the scheme has branches."""
        return getattr(self, self.mixing)

    @property
    def products(self) -> dict[str, BinaryProduct]:
        """Dict of the `BinaryProduct`s that a fused block carries out, by the names of `device_ops.block_kernels`."""
        return {
            **{name: getattr(self, f"{name}_product") for name in ("query", "key", "value", "output")},
            "mlp_1": self.mlp_product_1,
            "mlp_2": self.mlp_product_2,
        }

    def call(self, inputs: Tensor, training: bool | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        return execution.current().block(self, inputs, freezing.mode(self, training))

    def compute(self, inputs: Tensor, training: bool | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The block's own layers, one by one."""
        # q = rp(bn(BL(u)) + u), k and v likewise, with a reduction of u' = rp(bn(BL(mean of a window of u)) + that mean)
        u = reduced = self.attention_norm(inputs, training=training)
        if self.reduction > 1:
            reduced = average_windows(u, self.reduction)
            reduced = self.reduction_product(reduced, reduced, training=training)
        query = self.query_product(u, u, training=training)
        key = self.key_product(reduced, reduced, training=training)
        value = self.value_product(reduced, reduced, training=training)
        # c = rp(bn(P_b v_b) + q + k + v), a key and a value going to every token of their window
        context, probabilities = self.attention(query, key, value, training=training, return_probabilities=True)
        context = self.context_norm(context, training=training) + query
        context = context + key + value if self.reduction == 1 else context + spread_windows(key + value, self.reduction)
        context = self.context_activation(context)
        # y = x + LS(rp(bn(BL(c)) + c))
        branch = self.output_product(context, context, training=training)
        if self.scheme.branches:
            branch = self.attention_scale(branch)
        x = inputs + self.drop_path(branch, training=training)
        # out = y + LS(rp(bn(BL(f)) + pool(f))) + neighbours of w, pooled or mixed;  f = rp(bn(BL(w)) + tile(w))
        w = self.mlp_norm(x, training=training)
        hidden = self.mlp_product_1(w, tile_channels(w, self.mlp_ratio), training=training)
        branch = self.mlp_product_2(hidden, average_channels(hidden, self.mlp_ratio), training=training)
        if self.scheme.branches:
            branch = self.mlp_scale(branch)
        outputs = x + self.drop_path(branch, training=training)
        if self.scheme.branches:
            outputs = outputs + self.mixer()(w)
        return outputs, self._taps(query, key, value, probabilities, outputs)


@keras.saving.register_keras_serializable(package="acdbit")
class PatchMerging(_SchemeLayer):
    """From one stage of a pyramid to the next: every 2x2 tokens become one of `width` channels; positions are added.

    Binary block: rp(bn(BL(2x2 tokens of u)) + tile(mean of 2x2 tokens of u)), u = bn(x): the binary 2x2 convolution of
    stride 2 as a product over the channels of its four tokens. Float block, or `real`: norm(dense(2x2 tokens of x)).

    Args:
        width: output channels; for the binary form a multiple of the input's.
        scheme: scheme, its name or config.
        real: whether the product is a float one in a binary scheme, too.

    Input shape: `(batch, height, width, channels)` of even sizes. Output shape: `(batch, height / 2, width / 2, width)`.

    Raises:
        ValueError: when built for a shape that does not fit.

    Source: BinaryViT (CVPR Workshops 2023).
    """

    # === Config ===
    def __init__(self, width, scheme, real=False, **kwargs):
        super().__init__(scheme, **kwargs)
        self.width = width
        self.real = real
        self.norm = self._norm("norm")
        if self.has_shortcut:
            self.product = BinaryProduct(self._dense(width, "merging", part=None), name="product")
        elif real:
            self.dense = BinaryDense(width, kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02), name="merging")
        else:
            self.dense = self._dense(width, "merging", part=None)

    @property
    def has_shortcut(self):
        """Whether it has the binary form."""
        return self.scheme.block == "binary" and not self.real

    def build(self, input_shape):
        batch, height, width, channels = input_shape
        if height % 2 or width % 2:
            raise ValueError(f"a grid of {height} x {width} tokens cannot be merged 2 x 2")
        if self.has_shortcut and self.width % channels:
            raise ValueError(
                f"the width {self.width} is not a multiple of {channels}, that of the stage before, whose mean is tiled"
            )
        merged = (batch, height // 2, width // 2, 4 * channels)
        if self.has_shortcut:
            self.norm.build(input_shape)
            self.product.build(merged)
        else:
            self.dense.build(merged)
            self.norm.build(self.compute_output_shape(input_shape))
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.positions = self.add_weight(name="positions", shape=(1, *merged[1:-1], self.width), initializer=initializer)
        self._hold_shifts()
        self.built = True

    def call(self, inputs, training=None):
        training = freezing.mode(self, training)
        if not self.has_shortcut:
            return self.norm(self.dense(gather_windows(inputs, 2), training=training), training=training) + self.positions
        u = self.norm(inputs, training=training)
        shortcut = tile_channels(average_windows(u, 2), self.width // u.shape[-1])
        return self.product(gather_windows(u, 2), shortcut, training=training) + self.positions

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] // 2, input_shape[2] // 2, self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "real": self.real}


BLOCKS = {"float": FloatBlock, "binary": BinaryBlock}


# --- What the converter puts between the parts of these layers, for `acdbit_keras.cost` -------------------------------


@file_size.store.register
def _(layer: BinaryProduct, file, record):
    file.nodes()  # the shortcut


@file_size.store.register
def _(layer: FloatBlock, file, record):
    file.nodes(3)  # two residuals, GELU
    if layer.reduction > 1:
        file.average_windows()
        file.nodes()


@file_size.store.register
def _(layer: BinaryBlock, file, record):
    options = file_size.options_of(device_ops.block_options, layer)
    if options is None:
        # Sums of query, key, value, two residuals and the mixed neighbours; channels tiled, then averaged.
        file.nodes(5 + layer.scheme.branches + (6 if layer.mlp_ratio > 1 else 0))
        if layer.reduction > 1:
            file.average_windows()
            file.spread_windows()
        return
    shares = collections.Counter()
    for name, shape in device_ops.block_kernels(options, layer.width).items():
        shares[id(layer.products[name].dense)] += math.prod(shape) * device_ops.WORD_BITS // 8
    for name, length in device_ops.block_vectors(options, layer.width).items():
        shares[id(_origin(layer, name))] += length * file_size.FLOAT_BYTES
    file.fuse(record, shares)


def _origin(block, name):
    """The layer of a `BinaryBlock` that a vector of `device_ops.block_vectors` comes from."""
    owner, _, part = name.rpartition(".")
    if owner == "pooling" or name == "depthwise":
        return block.mixer()
    if owner == "context":
        return block.context_activation if part == "slope" else block.context_norm
    if not owner:
        norms = {"1": block.attention_norm, "2": block.mlp_norm}
        return norms.get(name[-1], block.attention)
    if part == "gain":
        return block.attention_scale if owner == "output" else block.mlp_scale
    product = block.products[owner]
    return product.activation if part in ("slope", "shift") else product.dense


@file_size.store.register
def _(layer: PatchMerging, file, record):
    file.gather_windows()
    if layer.has_shortcut:
        file.average_windows()
        file.nodes(3)  # the mean's channels tiled
    file.add(file_size.value(layer.positions))
