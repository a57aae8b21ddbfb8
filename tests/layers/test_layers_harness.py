"""Keras' own harness on every layer: serialisation, counts of weights, symbolic and eager calls, dtypes, a compiled fit step."""

import keras
import pytest
from keras.src import testing

from acdbit_keras import layers
from acdbit_keras.layers.stem import ConvolutionalStem

pytestmark = pytest.mark.any_backend


@keras.saving.register_keras_serializable(package="acdbit_tests")
class SelfAttention(keras.layers.Layer):
    """`BinaryAttention` of one tensor with itself: the harness trains layers of one input."""

    def __init__(self, **options):
        names = [name for name in options if name.endswith("quantizer") or name == "num_heads"]
        attention = {name: options.pop(name) for name in names}
        super().__init__(**options)
        self.options = attention
        self.attention = layers.BinaryAttention(**attention, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.attention.build(input_shape)
        self.built = True

    def call(self, x, training=None):
        return self.attention(x, x, x, training=training)

    def get_config(self):
        return {**super().get_config(), **self.options}


ALIGNED_ATTENTION = dict(
    num_heads=2,
    query_quantizer="aligned_sign",
    key_quantizer="ste_sign",
    value_quantizer="approx_sign",
    probabilities_quantizer="elastic_binary",
)
# layer, its arguments, input shape, output shape, trainable weights, other weights
CASES = {
    "dense_float": (layers.BinaryDense, {"units": 5, "use_bias": True}, (2, 7), (2, 5), 2, 0),
    "dense_binary": (
        layers.BinaryDense,
        {"units": 5, "input_quantizer": "aligned_sign", "kernel_quantizer": "weight_sign"},
        (2, 3, 7),
        (2, 3, 5),
        1,
        4,
    ),
    "dense_larq": (
        layers.BinaryDense,
        {"units": 4, "input_quantizer": "approx_sign", "kernel_quantizer": "MagnitudeAwareSign", "use_bias": True},
        (2, 3, 3, 6),
        (2, 3, 3, 4),
        2,
        0,
    ),
    "attention_float": (SelfAttention, {"num_heads": 3}, (2, 5, 12), (2, 5, 12), 0, 0),
    "attention_binary": (SelfAttention, ALIGNED_ATTENTION, (2, 3, 2, 64), (2, 3, 2, 64), 1, 4),
    "rprelu": (layers.RPReLU, {"initial_slope": 0.1}, (2, 3, 4), (2, 3, 4), 3, 0),
    "layer_scale": (layers.LayerScale, {"initial_gain": 0.2}, (2, 3, 4), (2, 3, 4), 2, 0),
    "pooling_branches": (layers.PoolingBranches, {}, (2, 3, 4, 5), (2, 3, 4, 5), 2, 0),
    "depthwise_mixing": (layers.DepthwiseMixing, {}, (2, 3, 4, 5), (2, 3, 4, 5), 2, 0),
    "stem": (ConvolutionalStem, {"width": 8, "patch_size": 4}, (2, 8, 12, 3), (2, 2, 3, 8), 6, 4),
}


class LayerTest(testing.TestCase):
    def run_case(self, name):
        layer, options, input_shape, output_shape, trainable, other = CASES[name]
        self.run_layer_test(
            layer,
            init_kwargs=options,
            input_shape=input_shape,
            expected_output_shape=output_shape,
            expected_output_dtype="float32",
            expected_num_trainable_weights=trainable,
            expected_num_non_trainable_weights=other,
            expected_num_seed_generators=0,
            expected_num_losses=0,
            # What treats tokens alike hands a mask on.
            supports_masking=layer in (layers.BinaryDense, layers.RPReLU, layers.LayerScale),
        )


def _test(name):
    return lambda self: self.run_case(name)


for _name in CASES:
    setattr(LayerTest, f"test_{_name}", _test(_name))


class AttentionTest(testing.TestCase):
    def test_cross_attention(self):
        """Three inputs by name, keys and values on a grid of their own."""
        self.run_layer_test(
            layers.BinaryAttention,
            init_kwargs=ALIGNED_ATTENTION,
            input_shape={"query_shape": (2, 5, 64), "key_shape": (2, 3, 64), "value_shape": (2, 3, 64)},
            expected_output_shape=(2, 5, 64),
            expected_num_trainable_weights=1,
            expected_num_non_trainable_weights=4,
            supports_masking=True,
            run_training_check=False,
        )
