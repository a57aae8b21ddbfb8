"""On TensorFlow the signs are Larq's: the same values and gradients as ours, taken in any form Larq has them."""

import importlib.util
import sys
import types

import keras
import numpy as np
import pytest
from numerics import array, gradient
from test_signs import CLOSED_FORMS, INPUTS, LAYER_ARGUMENTS

from acdbit_keras import _larq, code, layers, quantizers, signs

larq_quantizers = _larq.load("quantizers")
CLASSES = ("SteSign", "ApproxSign", "SwishSign", "MagnitudeAwareSign", "SteHeaviside", "SteTern", "DoReFa")


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name, arguments", [(name, arguments) for name, arguments, *_ in CLOSED_FORMS])
def test_ours_equal_larqs(name, arguments, inputs):
    """The functions that other backends use, and Larq's quantizer of that name, on the same values."""
    x = INPUTS[inputs].reshape(1, -1)
    upstream = np.linspace(-2, 3, x.size).astype(np.float32).reshape(x.shape)
    larq_quantizer = getattr(larq_quantizers, signs.larq_class(name))(**arguments)
    ours, scale = signs.function(name), array(signs.Sign(name).scale(x))
    np.testing.assert_array_equal(array(ours(x, **arguments)) * scale, array(larq_quantizer(x)))
    np.testing.assert_allclose(
        gradient(lambda x: ours(x, **arguments), x, upstream=upstream)[0] * scale,
        gradient(larq_quantizer, x, upstream=upstream)[0],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("mode", ["activations", "weights"])
@pytest.mark.parametrize("k_bit", [1, 2, 4])
def test_our_dorefa_equals_larqs(k_bit, mode):
    x = np.linspace(-1.3, 1.4, 28).astype(np.float32)
    larq_quantizer = larq_quantizers.DoReFa(k_bit=k_bit, mode=mode)
    ours = signs.function("dorefa_quantizer")
    np.testing.assert_allclose(array(ours(x, k_bit=k_bit, mode=mode)), array(larq_quantizer(x)), atol=1e-6)
    np.testing.assert_allclose(
        gradient(lambda x: ours(x, k_bit=k_bit, mode=mode), x, upstream=np.ones_like(x))[0],
        gradient(larq_quantizer, x, upstream=np.ones_like(x))[0],
        atol=1e-6,
    )


def test_larqs_functions_are_the_ones_called(monkeypatch):
    monkeypatch.setattr(larq_quantizers, "ste_sign", lambda x, **arguments: x * 0 + 5)
    assert array(signs.get("ste_sign")(np.float32([1.0]))).item() == 5


@pytest.mark.parametrize("name", CLASSES)
def test_instance_class_name_and_alias_mean_the_same(name):
    instance = getattr(larq_quantizers, name)()
    expected = signs.get(instance)
    assert signs.get(name) == signs.Sign(expected.name)
    assert signs.get(expected.name) == signs.Sign(expected.name)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(array(quantizers.get(instance)(x).decode()), array(instance(x)), rtol=1e-6)


def test_arguments_of_an_instance_are_kept():
    assert signs.get(larq_quantizers.SteSign(clip_value=1.3)).arguments == {"clip_value": 1.3}
    assert signs.get(larq_quantizers.SwishSign(beta=2.0)).arguments == {"beta": 2.0}
    assert quantizers.get(larq_quantizers.DoReFa(k_bit=4)).bits == 4


def test_no_op_leaves_the_tensor_real():
    assert isinstance(quantizers.get(larq_quantizers.NoOp(precision=1)), quantizers.Identity)


@pytest.mark.parametrize("layer, options, argument", LAYER_ARGUMENTS)
@pytest.mark.parametrize("name", [*CLASSES, "NoOp"])
def test_every_layer_argument_takes_every_larq_quantizer(layer, options, argument, name):
    arguments = {"precision": 1} if name == "NoOp" else {}
    made = layer(**options, **{argument: getattr(larq_quantizers, name)(**arguments)})
    again = type(made).from_config(made.get_config())
    assert getattr(again, argument).get_config() == getattr(made, argument).get_config()
    x = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
    if name == "MagnitudeAwareSign" and argument not in ("kernel_quantizer", "value_quantizer"):
        # Its scale per channel lies along the contracted axis, where bits cannot carry it.
        with pytest.raises(ValueError, match="varies along the contracted"):
            made(x) if layer is layers.BinaryDense else made(x, x, x)
        return
    outputs = made(x) if layer is layers.BinaryDense else made(x, x, x)
    assert outputs.shape[:2] == (2, 5) and np.all(np.isfinite(array(outputs)))


def test_binary_dense_equals_larqs_composition():
    x = np.random.default_rng(1).normal(size=(4, 7)).astype(np.float32)
    layer = layers.BinaryDense(5, input_quantizer=larq_quantizers.ApproxSign(), kernel_quantizer="MagnitudeAwareSign")
    outputs = layer(x)
    expected = array(larq_quantizers.ApproxSign()(x)) @ array(larq_quantizers.MagnitudeAwareSign()(layer.kernel.value))
    np.testing.assert_allclose(array(outputs), expected, rtol=1e-5, atol=1e-5)
    assert code.real(x).scale == 1.0


@pytest.mark.parametrize("found", [None, types.ModuleType("larq")])
def test_loading_leaves_larq_in_sys_modules_as_found(monkeypatch, found):
    monkeypatch.delitem(sys.modules, "larq", raising=False)
    monkeypatch.delitem(sys.modules, "larq.constraints", raising=False)
    if found is not None:
        found.__path__ = importlib.util.find_spec("larq").submodule_search_locations
        found.__spec__ = importlib.util.find_spec("larq")
        monkeypatch.setitem(sys.modules, "larq", found)
    assert _larq.load("constraints").WeightClip is not None
    assert sys.modules.get("larq") is found


def test_missing_larq_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "larq", raising=False)
    monkeypatch.delitem(sys.modules, "larq.quantizers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="larq is not installed.*pip install larq"):
        signs.get("ste_sign")(np.float32([1.0]))


def test_a_broken_larq_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "larq", raising=False)
    with pytest.raises(ImportError, match="larq is installed, but larq.no_such_part cannot be imported"):
        _larq.load("no_such_part")
    assert "larq" not in sys.modules


def test_a_larq_quantizer_is_kept_by_a_saved_model(tmp_path):
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            layers.BinaryDense(4, larq_quantizers.SteSign(clip_value=1.3), larq_quantizers.SwishSign(beta=2.0)),
        ]
    )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[0].input_quantizer.sign == signs.Sign("ste_sign", {"clip_value": 1.3})
    x = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    np.testing.assert_array_equal(array(again(x)), array(model(x)))
