"""The two transformer blocks that every scheme plugs into.

Tokens stay on their grid, `(batch, height, width, channels)`, through the whole network: a linear layer is then a
1x1 convolution, which is what the converter packs into bits, and pooling needs no change of layout.
Each block returns its output and, from the same forward pass, its taps: query and key before quantization,
`(batch, tokens, heads, head_dim)`, the (quantized) probabilities `(batch, heads, tokens, tokens)` and the features.
"""

import keras
from keras import layers

from acdbit_keras import execution, schemes
from acdbit_keras.layers import BinaryAttention, BinaryDense, LayerScale, PoolingBranches, RPReLU
from acdbit_keras.layers.pooling import average_channels, tile_channels


class _Block(keras.layers.Layer):
    """What both blocks share: configuration, attention and taps."""

    # === Config ===
    def __init__(self, width, num_heads, mlp_ratio, scheme, drop_path=0.0, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.scheme = schemes.get(scheme)
        self.drop_path_rate = drop_path
        self.attention = BinaryAttention(
            num_heads,
            query_quantizer=self.scheme.quantizer("query"),
            key_quantizer=self.scheme.quantizer("key"),
            value_quantizer=self.scheme.quantizer("value"),
            probabilities_quantizer=self.scheme.quantizer("probabilities"),
            name="attention",
        )
        # Stochastic depth: one draw per image drops the whole branch.
        self.drop_path = layers.Dropout(drop_path, noise_shape=(None, 1, 1, 1), name="drop_path")

    def _dense(self, units, name, place="activation", **options):
        return BinaryDense(
            units,
            input_quantizer=self.scheme.quantizer(place),
            kernel_quantizer=self.scheme.quantizer("weight"),
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name=name,
            **options,
        )

    def _taps(self, query, key, probabilities, features):
        heads = (self.num_heads, self.width // self.num_heads)

        def split(x):
            return keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], *heads))

        return {"query": split(query), "key": split(key), "probabilities": probabilities, "features": features}

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "scheme": self.scheme.get_config(),
            "drop_path": self.drop_path_rate,
        }


@keras.saving.register_keras_serializable(package="acdbit")
class FloatBlock(_Block):
    """Pre-norm transformer block: LayerNorm, attention, LayerNorm, GELU feed-forward; the block of DeiT."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.attention_norm = layers.LayerNormalization(epsilon=1e-6, name="attention_norm")
        self.query_dense = self._dense(self.width, "query", use_bias=True)
        self.key_dense = self._dense(self.width, "key", use_bias=True)
        self.value_dense = self._dense(self.width, "value", use_bias=True)
        self.output_dense = self._dense(self.width, "output", use_bias=True)
        self.mlp_norm = layers.LayerNormalization(epsilon=1e-6, name="mlp_norm")
        self.mlp_dense_1 = self._dense(self.width * self.mlp_ratio, "mlp_1", use_bias=True)
        self.mlp_dense_2 = self._dense(self.width, "mlp_2", place="hidden", use_bias=True)

    def build(self, input_shape):
        hidden_shape = (*input_shape[:-1], self.width * self.mlp_ratio)
        for layer in (self.attention_norm, self.query_dense, self.key_dense, self.value_dense, self.output_dense):
            layer.build(input_shape)
        self.attention.build(input_shape)
        self.mlp_norm.build(input_shape)
        self.mlp_dense_1.build(input_shape)
        self.mlp_dense_2.build(hidden_shape)
        self.built = True

    def call(self, inputs, training=None):
        u = self.attention_norm(inputs)
        query, key, value = self.query_dense(u), self.key_dense(u), self.value_dense(u)
        context, probabilities = self.attention(query, key, value, training=training, return_probabilities=True)
        x = inputs + self.drop_path(self.output_dense(context), training=training)
        hidden = keras.ops.gelu(self.mlp_dense_1(self.mlp_norm(x)), approximate=False)
        outputs = x + self.drop_path(self.mlp_dense_2(hidden), training=training)
        return outputs, self._taps(query, key, probabilities, outputs)


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
        self.norm = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="norm")
        self.activation = RPReLU(name="activation")

    def build(self, input_shape, shortcut_shape=None):
        output_shape = self.dense.compute_output_shape(input_shape)
        self.dense.build(input_shape)
        self.norm.build(output_shape)
        self.activation.build(output_shape)
        self.built = True

    def call(self, inputs, shortcut, training=None):
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

    Source: BinaryViT; `methods.md` of the design notes writes it as formulas, as do the comments in `compute`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hidden = self.width * self.mlp_ratio
        self.attention_norm = self._norm("attention_norm")
        self.query_product = BinaryProduct(self._dense(self.width, "query"), name="query_product")
        self.key_product = BinaryProduct(self._dense(self.width, "key"), name="key_product")
        self.value_product = BinaryProduct(self._dense(self.width, "value"), name="value_product")
        self.context_norm = self._norm("context_norm")
        self.context_activation = RPReLU(name="context_activation")
        self.output_product = BinaryProduct(self._dense(self.width, "output"), name="output_product")
        self.mlp_norm = self._norm("mlp_norm")
        self.mlp_product_1 = BinaryProduct(self._dense(hidden, "mlp_1"), name="mlp_product_1")
        self.mlp_product_2 = BinaryProduct(self._dense(self.width, "mlp_2", place="hidden"), name="mlp_product_2")
        if self.scheme.branches:
            self.attention_scale = LayerScale(name="attention_scale")
            self.mlp_scale = LayerScale(name="mlp_scale")
            self.pooling = PoolingBranches(name="pooling")

    def _norm(self, name):
        return layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=name)

    def build(self, input_shape):
        hidden_shape = (*input_shape[:-1], self.width * self.mlp_ratio)
        for layer in (self.attention_norm, self.query_product, self.key_product, self.value_product):
            layer.build(input_shape)
        self.attention.build(input_shape)
        for layer in (self.context_norm, self.context_activation, self.output_product, self.mlp_norm, self.mlp_product_1):
            layer.build(input_shape)
        self.mlp_product_2.build(hidden_shape)
        if self.scheme.branches:
            for layer in (self.attention_scale, self.mlp_scale, self.pooling):
                layer.build(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        return execution.current().block(self, inputs, training)

    def compute(self, inputs, training):
        """The block's own layers, one by one."""
        # q = rp(bn(BL(u)) + u), k and v likewise
        u = self.attention_norm(inputs, training=training)
        query = self.query_product(u, u, training=training)
        key = self.key_product(u, u, training=training)
        value = self.value_product(u, u, training=training)
        # c = rp(bn(P_b v_b) + q + k + v)
        context, probabilities = self.attention(query, key, value, training=training, return_probabilities=True)
        context = self.context_activation(self.context_norm(context, training=training) + query + key + value)
        # y = x + LS(rp(bn(BL(c)) + c))
        branch = self.output_product(context, context, training=training)
        if self.scheme.branches:
            branch = self.attention_scale(branch)
        x = inputs + self.drop_path(branch, training=training)
        # out = y + LS(rp(bn(BL(f)) + pool(f))) + pooling branches of w;  f = rp(bn(BL(w)) + tile(w))
        w = self.mlp_norm(x, training=training)
        hidden = self.mlp_product_1(w, tile_channels(w, self.mlp_ratio), training=training)
        branch = self.mlp_product_2(hidden, average_channels(hidden, self.mlp_ratio), training=training)
        if self.scheme.branches:
            branch = self.mlp_scale(branch)
        outputs = x + self.drop_path(branch, training=training)
        if self.scheme.branches:
            outputs = outputs + self.pooling(w)
        return outputs, self._taps(query, key, probabilities, outputs)


BLOCKS = {"float": FloatBlock, "binary": BinaryBlock}
