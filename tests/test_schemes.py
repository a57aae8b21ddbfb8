"""Schemes: found by name, serialised whole, one copy of every quantizer per place."""

import keras
import pytest
from numerics import nameless

from acdbit_keras import quantizers, schemes
from acdbit_keras.distillation import LabelDistillation, QueryKeyDistillation

pytestmark = pytest.mark.any_backend


def test_names():
    assert {"acd_bit", "binary_vit", "float32"} <= set(schemes.names())


@pytest.mark.parametrize("name", schemes.names())
def test_round_trip(name):
    scheme = schemes.get(name)
    again = schemes.get(scheme.get_config())
    assert (again.name, again.title, again.block, again.branches) == (name, scheme.title, scheme.block, scheme.branches)
    assert nameless(again.get_config()) == nameless(scheme.get_config())
    assert again.is_binary == scheme.is_binary == (name != "float32")
    for place in schemes.PLACES:
        assert type(again.quantizer(place)) is type(scheme.quantizer(place))


@pytest.mark.parametrize("name", schemes.names())
def test_every_place_gets_a_copy_of_its_own(name):
    for place in schemes.PLACES:
        first, second = (schemes.get(name).quantizer(place) for _ in range(2))
        assert first is not second and isinstance(first, quantizers.Quantizer)


def test_the_schemes_are_what_their_tables_say():
    aligned, baseline = schemes.get("acd_bit"), schemes.get("binary_vit")
    assert aligned.quantizer("activation").threshold == "median" and aligned.quantizer("activation").tracking == "running"
    assert aligned.quantizer("value").contracts == baseline.quantizer("value").contracts == "tokens"
    assert aligned.quantizer("query").channel_axes == 2
    assert baseline.quantizer("activation").threshold == "learned" and baseline.quantizer("activation").scale is None
    assert baseline.quantizer("weight").center == "mean" and aligned.quantizer("weight").center == "median"
    terms = {type(term): term.weight for term in aligned.distillation}
    assert terms == {LabelDistillation: 0.9, QueryKeyDistillation: 0.1}
    assert [type(term) for term in baseline.distillation] == [LabelDistillation]
    assert schemes.get("float32").distillation == ()


def test_alignment_adds_no_trainable_weight():
    """The paper's size and operation count are the baseline's."""
    for place in ("activation", "hidden", "query", "key", "value"):
        quantizer = schemes.get("acd_bit").quantizer(place)
        quantizer.build((None, 16, 2, 32))
        assert quantizer.trainable_weights == []


def test_replace():
    ablation = schemes.get("acd_bit").replace(name="no_branches", branches=False)
    assert schemes.get(ablation) is ablation and not ablation.branches and schemes.get("acd_bit").branches


@pytest.mark.parametrize("wrong", ["acd_bits", "acd bit", 3, None])
def test_unknown_scheme(wrong):
    with pytest.raises(ValueError, match="unknown scheme .*; known: acd_bit, binary_vit"):
        schemes.get(wrong)


def test_layers_of_a_scheme_are_registered():
    for name in schemes.names():
        for place in schemes.PLACES:
            config = schemes.get(name).get_config()[place]
            assert isinstance(keras.saving.deserialize_keras_object(config), quantizers.Quantizer)
