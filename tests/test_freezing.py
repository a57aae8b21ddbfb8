"""Frozen means frozen: nothing of a layer with `trainable=False` moves, whatever is trained around it."""

import keras
import numpy as np
import pytest
from numerics import array

import acdbit_keras as acd
from acdbit_keras import execution
from acdbit_keras.training import KernelExecutor

pytestmark = pytest.mark.any_backend

SIZES = dict(classes=4, image_size=8, patch_size=4, channels=1, width=32, depth=1, num_heads=1, mlp_ratio=2)
# Under JAX each costs seconds to trace, and what tracks is the same code.
SCHEMES = (
    [
        *acd.schemes.names(),
        "acd_bit[tracking=batch]",
        "acd_bit[axis=token,restore=dynamic]",
        "acd_bit[threshold=learned]",
        "acd_bit[threshold=shifted_median]",
    ]
    if keras.config.backend() == "tensorflow"
    else ["acd_bit", "xnor_net", "bit"]
)


def images(count=8, shift=2.0):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 1)).astype("float32") + shift


def state(layer):
    """Every variable, the states of random numbers among them."""
    return {variable.path: array(variable).copy() for variable in layer.variables}


def moved(layer, before):
    return [path for path, value in state(layer).items() if not np.array_equal(value, before[path])]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_of_a_frozen_network_moves_and_it_answers_as_at_inference(scheme):
    net = acd.models.VisionTransformer(scheme, stem="pooled", drop_path=0.5, **SIZES)
    net.trainable = False
    before, answers = state(net), array(net(images(), training=False))
    np.testing.assert_array_equal(array(net(images(), training=True)), answers)
    assert moved(net, before) == []


def test_a_pyramid_stands_still_as_well():
    net = acd.models.build("pyramid_nano_patch1_8", "bivit", 3, depths=(1, 1))
    net.trainable = False
    before = state(net)
    net(images(2), training=True)
    assert moved(net, before) == []


def test_what_is_not_frozen_moves():
    net = acd.models.VisionTransformer("acd_bit", **SIZES)
    before = state(net)
    net(images(), training=True)
    assert {"running_location", "running_mean", "running_spread", "updates"} <= {
        path.split("/")[-1] for path in moved(net, before)
    }


QUANTIZERS = {
    "aligned": lambda: acd.AlignedSign(),
    "aligned to batches": lambda: acd.AlignedSign(tracking="batch"),
    "measured": lambda: acd.ElasticBinary(None, signed=True),
    "ranges": lambda: acd.quantizers.UniformQuantizer(range="average", noise=0.5),
    "extremes": lambda: acd.quantizers.UniformQuantizer(range="extremes"),
    "factors": lambda: acd.quantizers.PowerOfTwoFactor(),
    "kept mean": lambda: acd.quantizers.ThresholdedProbabilities(scale="kept_mean"),
    "learned weights": lambda: acd.WeightSign(scale="learned"),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_stands_still_by_itself(name):
    quantizer, x = QUANTIZERS[name](), np.abs(images()[:, :, 0, 0])
    quantizer.build(x.shape)
    quantizer.trainable = False
    before = state(quantizer)
    quantizer(x, training=True)
    assert moved(quantizer, before) == []
    quantizer.trainable = True
    quantizer(x, training=True)
    assert moved(quantizer, before)


def test_a_quantizer_from_elsewhere_is_called_for_inference():
    class Told(acd.quantizers.Quantizer):
        def build(self, input_shape):
            self.built = True

        def call(self, inputs, training=None):
            self.told = training
            return acd.Code(inputs)

    quantizer = Told()
    for trainable in (True, False):
        quantizer.trainable = trainable
        quantizer(np.ones((1, 2), "float32"), training=True)
        assert quantizer.told is trainable


def test_a_layer_that_was_made_frozen_keeps_its_parts_frozen():
    layer = acd.BinaryDense(8, acd.AlignedSign(), acd.WeightSign(scale="learned"), trainable=False)
    attention = acd.BinaryAttention(1, *[acd.AlignedSign(channel_axes=2) for _ in range(2)], "approx_sign", trainable=False)
    x = np.random.default_rng(0).normal(size=(2, 4, 32)).astype("float32") + 1.0
    for part, inputs in ((layer, [x]), (attention, [x, x, x])):
        part.build(*[x.shape for x in inputs])
        before = state(part)
        part(*inputs, training=True)
        assert moved(part, before) == []


def head_behind(body, training=None):
    inputs = keras.Input((8, 8, 1))
    called = body(inputs) if training is None else body(inputs, training=training)
    return keras.Model(inputs, keras.layers.Dense(3)(called))


@pytest.mark.parametrize(
    "make", [head_behind, lambda body: keras.Sequential([keras.Input((8, 8, 1)), body, keras.layers.Dense(3)])]
)
def test_a_head_is_trained_behind_a_frozen_body(make):
    body = acd.models.VisionTransformer("acd_bit", **SIZES)
    body.trainable = False
    model = make(body)
    model.compile("sgd", "mse", jit_compile=False)
    before, head, answers = state(body), array(model.layers[-1].kernel).copy(), body.predict(images(), verbose=0)
    model.fit(images(), np.ones((8, 3)), verbose=0)
    assert moved(body, before) == []
    np.testing.assert_array_equal(body.predict(images(), verbose=0), answers)
    assert np.abs(array(model.layers[-1].kernel) - head).max() > 0


def test_what_stands_before_a_frozen_body_is_trained_through_it():
    body = acd.models.VisionTransformer("acd_bit", **SIZES)
    body.trainable = False
    front = keras.layers.Conv2D(1, 3, padding="same")
    model = keras.Sequential([keras.Input((8, 8, 1)), front, body])
    model.compile("sgd", "mse", jit_compile=False)
    before, kernel = state(body), array(front.kernel).copy()
    model.fit(images(), np.ones((8, 4)), verbose=0)
    assert moved(body, before) == []
    assert np.abs(array(front.kernel) - kernel).max() > 0


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_kernels_know_what_is_frozen(whole):
    net = acd.models.VisionTransformer("acd_bit", **SIZES)
    frozen = net.blocks[0] if whole else net.blocks[0].attention.query_quantizer
    frozen.trainable = False
    before, outside = state(frozen), state(net)
    with execution.using(KernelExecutor()):
        net(images(), training=True)
    assert moved(frozen, before) == []
    assert moved(net, outside)  # the norm behind the block, and what of the block is not frozen


@pytest.mark.parametrize("frozen", ["all", "body", "block_0"])
def test_what_is_frozen_stays_frozen_in_a_file(frozen, tmp_path):
    net = acd.models.VisionTransformer("acd_bit", **SIZES)
    if frozen == "all":
        net.trainable = False
    elif frozen == "body":
        net.freeze_body()
    else:
        net.blocks[0].trainable = False
    net.save(tmp_path / "net.keras")
    loaded = acd.models.load_model(tmp_path / "net.keras")
    assert loaded.frozen == net.frozen
    assert len(loaded.trainable_variables) == len(net.trainable_variables)
    before = state(loaded.blocks[0])
    loaded(images(), training=True)
    assert moved(loaded.blocks[0], before) == []


def test_an_unknown_part_cannot_be_frozen():
    with pytest.raises(ValueError, match="frozen must be one of 'patch_embedding', .* did you mean 'block_0'"):
        acd.models.VisionTransformer("acd_bit", frozen=["block0"], **SIZES)


# === One object, several places ===
def test_one_dict_of_options_gives_every_layer_statistics_of_its_own():
    options = dict(input_quantizer=acd.AlignedSign(momentum=0.5), kernel_quantizer=acd.WeightSign(scale="learned"))
    model = keras.Sequential([keras.Input((16,)), *[acd.BinaryDense(16, **options) for _ in range(3)]])
    assert len({id(layer.input_quantizer) for layer in model.layers}) == 3
    assert {layer.input_quantizer.momentum for layer in model.layers} == {0.5}
    model(images()[:, :2, :, 0].reshape(8, 16), training=True)
    means = [array(layer.input_quantizer.running_mean) for layer in model.layers]
    assert not np.array_equal(means[0], means[1])


def test_one_quantizer_for_the_operands_of_attention_is_three():
    quantizer = acd.AlignedSign(channel_axes=2)
    attention = acd.BinaryAttention(1, quantizer, quantizer, quantizer, "elastic_binary")
    attention.build((1, 4, 32))
    assert len({id(attention.query_quantizer), id(attention.key_quantizer), id(attention.value_quantizer)}) == 3


def test_a_quantizer_that_was_used_alone_leaves_its_weights_there():
    quantizer = acd.AlignedSign()
    quantizer(np.ones((4, 8), "float32"), training=True)
    layer = acd.BinaryDense(8, quantizer, "weight_sign")
    layer.build((None, 8))
    assert array(layer.input_quantizer.updates) == 0 and array(quantizer.updates) == 1


def test_a_quantizer_that_cannot_be_copied_says_what_it_lacks():
    class Bound(acd.quantizers.Quantizer):
        def __init__(self, bound, **kwargs):
            super().__init__(**kwargs)
            self.bound = bound

    quantizer = Bound(object())
    acd.BinaryDense(8, quantizer)
    with pytest.raises(ValueError, match="quantizers.clone cannot copy it: its class Bound needs a get_config"):
        acd.BinaryDense(8, quantizer)
