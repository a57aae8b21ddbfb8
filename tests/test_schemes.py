"""Schemes: found by name, serialised whole, one copy of every quantizer per place."""

import random
import re
import types

import keras
import pytest
from numerics import nameless
from outsiders import installed

from acdbit_keras import quantizers, schemes
from acdbit_keras.distillation import LabelDistillation, QueryKeyDistillation
from acdbit_keras.registry import Registry
from acdbit_keras.schemes.base import PARTS, Scheme, Stage

pytestmark = pytest.mark.any_backend

# The package's own, and how each is stored on a device.
OWN = {
    "float32": "float32",
    "mixed16": "float16",
    "quant_noise_w8a8": "int8",
    "fq_vit_w8a4": "int8",
    **dict.fromkeys(("xnor_net", "bibert", "bit", "bivit", "binary_vit", "binary_former", "acd_bit"), "bits"),
}


def test_the_package_brings_eleven_schemes():
    assert {name: schemes.get(name).precision for name in schemes.names() if name in OWN} == OWN
    assert [name for name in OWN if schemes.get(name).post_training] == ["fq_vit_w8a4"]
    assert {name for name in OWN if schemes.get(name).is_binary and schemes.get(name).branches} == {"binary_vit", "acd_bit"}
    assert "(proxy)" in schemes.get("binary_former").title and "proxy" in schemes.get("binary_former").note


def test_reading_things_in_moves_no_random_numbers(tmp_path, monkeypatch):
    """The first model after `set_random_seed` is the same whether schemes had been read in or not."""
    package = tmp_path / "things"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "thing.py").write_text("import random, types\nTHING = types.SimpleNamespace(name='one', drawn=random.random())\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing", types.SimpleNamespace, package="things", path=[str(package)], attribute="THING")
    state = random.getstate()
    assert registry.names() == ["one"] and random.getstate() == state


@pytest.mark.parametrize("name", schemes.names())
def test_a_scheme_is_stored_as_what_it_is(name):
    scheme = schemes.get(name)
    assert scheme.name == name and scheme.title
    assert (scheme.precision == "bits") == scheme.is_binary, "bits are what the converter packs"
    assert not scheme.is_binary or scheme.block == "binary"
    assert not scheme.post_training or not (scheme.distillation or scheme.stages)


@pytest.mark.parametrize("name", schemes.names())
def test_round_trip(name):
    scheme = schemes.get(name)
    again = schemes.get(scheme.get_config())
    assert (again.name, again.title, again.block, again.branches) == (name, scheme.title, scheme.block, scheme.branches)
    assert nameless(again.get_config()) == nameless(scheme.get_config())
    assert again.is_binary == scheme.is_binary
    assert again.precision == scheme.precision
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
    with pytest.raises(ValueError, match=f"unknown scheme .*; known: {re.escape(', '.join(schemes.names()))}"):
        schemes.get(wrong)


def test_layers_of_a_scheme_are_registered():
    for name in schemes.names():
        for place in schemes.PLACES:
            config = schemes.get(name).get_config()[place]
            assert isinstance(keras.saving.deserialize_keras_object(config), quantizers.Quantizer)


def test_a_config_from_before_there_were_more_fields():
    config = schemes.get("acd_bit").get_config()
    older = {key: value for key, value in config.items() if key not in ("precision", "real", "residual")}
    assert nameless(schemes.get(older).get_config()) == nameless(config)
    assert schemes.get({**older, "block": "float"}).precision == "float32"


# === Variants ===
def test_a_variant_changes_every_aligned_sign():
    scheme = schemes.get("acd_bit[threshold=mean, restore=dynamic, axis=token, batch_share=1]")
    assert scheme.name == "acd_bit[threshold=mean,restore=dynamic,axis=token,batch_share=1]"
    assert scheme.title == "ACD-BiT [threshold=mean, restore=dynamic, axis=token, batch_share=1]"
    for place in ("activation", "hidden", "query", "key"):
        quantizer = scheme.quantizer(place)
        assert (quantizer.threshold, quantizer.restore, quantizer.axis, quantizer.batch_share) == (
            "mean",
            "dynamic",
            "token",
            1.0,
        )
    # Values are summed over the tokens: a statistic of each of them has no meaning there.
    value = scheme.quantizer("value")
    assert (value.threshold, value.restore, value.axis) == ("mean", "frozen", "channel")
    assert scheme.quantizer("query").channel_axes == 2 and schemes.get("acd_bit").quantizer("query").threshold == "median"
    assert [term.weight for term in scheme.distillation] == [0.9, 0.1]
    assert schemes.get("binary_vit[threshold=none,scale=mad]").quantizer("hidden").threshold is None
    assert nameless(schemes.get(scheme.name).get_config()) == nameless(scheme.get_config())


def test_a_variant_leaves_places_real():
    scheme = schemes.get("acd_bit[real=weight+query,threshold=mean]")
    bits = {place: scheme.quantizer(place).is_binary for place in schemes.PLACES if place != "residual"}
    assert [place for place, binary in bits.items() if not binary] == ["weight", "query"]
    assert scheme.quantizer("key").threshold == "mean" and schemes.get("acd_bit").is_binary and not scheme.is_binary


def test_a_variant_has_another_centre_of_the_weights():
    scheme = schemes.get("acd_bit[center=none,scale=none]")
    assert scheme.quantizer("weight").center is None and scheme.quantizer("activation").scale is None
    assert scheme.quantizer("weight").scale == "mad", "the scale of the brackets is the activations'"
    assert schemes.get("binary_vit[center=median]").quantizer("weight").center == "median"


def test_a_variant_learns_nothing_that_is_added():
    scheme, baseline = schemes.get("acd_bit[shifts=off]"), schemes.get("binary_vit[shifts=off]")
    assert not scheme.shifts and scheme.quantizer("query").threshold == "median"
    assert not baseline.shifts and {baseline.quantizer(place).threshold for place in ("activation", "hidden", "key")} == {None}
    assert schemes.get("binary_vit").shifts and schemes.get("binary_vit[shifts=on]").shifts
    assert not schemes.get(scheme.get_config()).shifts and nameless(schemes.get(scheme.get_config()).get_config()) == nameless(
        scheme.get_config()
    )


def test_what_runs_are_recognised_by_does_not_change_with_a_field_that_came_later():
    assert "shifts" not in schemes.get("acd_bit").definition() and "shifts" not in schemes.get("acd_bit").get_config()
    assert schemes.get("acd_bit[shifts=off]").definition()["shifts"] is False


@pytest.mark.parametrize(
    "name, message",
    [
        ("acd_bit[center=modus]", "center must be one of 'none', 'mean', 'median', not 'modus'"),
        ("acd_bit[shifts=none]", "shifts must be one of 'on', 'off', not 'none'"),
        ("float32[center=mean]", "the scheme 'float32' has no WeightSign whose center"),
        ("float32[shifts=off]", "shifts of the scheme 'float32.*' must be True"),
        ("acd_bit[treshold=mean]", "unknown option of a scheme 'treshold'; known: .*; did you mean 'threshold'"),
        (
            "acd_bit[threshold=modus]",
            "threshold must be one of 'none', 'median', 'mean', 'learned', 'shifted_median', not 'modus'",
        ),
        ("acd_bit[restore=none]", "restore must be one of 'off', 'frozen', 'dynamic', not 'none'"),
        ("acd_bit[momentum=much]", "momentum must be a number, not 'much'"),
        ("acd_bit[sign=ste_sing]", "unknown quantizer 'ste_sing'.*did you mean 'ste_sign'"),
        ("acd_bit[threshold]", "must have the form option=value, not 'threshold'"),
        ("acd_bit[real=weights]", "unknown place of a scheme 'weights'; .*did you mean 'weight'"),
        ("acd_bit[real=residual]", "residual is real in the scheme 'acd_bit' already"),
        ("acd_bit[real=activation+hidden+query+key+value,axis=token]", "no AlignedSign"),
        ("acd_bit[]", r"must have the form acd_bit\[option=value,...\], not 'acd_bit\[\]'"),
        ("acd_bit[threshold=mean", "must have the form acd_bit"),
        ("acd_bits[threshold=mean]", "unknown scheme 'acd_bits'; .*did you mean 'acd_bit'"),
        ("bit[threshold=mean]", "the scheme 'bit' has no AlignedSign"),
        ("float32[axis=token]", "the scheme 'float32' has no AlignedSign"),
    ],
)
def test_variants_that_do_not_exist(name, message):
    with pytest.raises(ValueError, match=message):
        schemes.get(name)


# === Stages ===
@pytest.mark.parametrize("name", schemes.names())
@pytest.mark.parametrize("more", [0, 1, 7, 297])
def test_stages_cover_the_epochs(name, more):
    scheme = schemes.get(name)
    epochs = max(len(scheme.stages), 1) + more
    rows = scheme.schedule(epochs)
    assert len(rows) == max(len(scheme.stages), 1)
    ends = [end for *_, end in rows]
    assert [first for *_, first, _ in rows] == [0, *ends[:-1]] and ends[-1] == epochs
    assert all(first < end for *_, first, end in rows)
    assert nameless(rows[-1][1].get_config()) == nameless(scheme.get_config())
    for stage, _, first, end in rows:
        assert abs((end - first) / epochs - stage.share) < 1.5 / epochs


def test_the_stages_are_what_their_tables_say():
    (_, real, *_), (two, two_bits, *_), (_, one_bit, *_) = schemes.get("bit").schedule(10)

    def bits(scheme):
        return [scheme.quantizer(place).bits for place in ("weight", "activation", "hidden", "query", "probabilities")]

    assert (bits(real), bits(two_bits), bits(one_bit)) == ([32] * 5, [1, 2, 2, 2, 2], [1] * 5)
    assert two.teacher == "previous" and not two_bits.is_binary and not two_bits.stages
    (_, attention, *_), (_, everything, *_) = schemes.get("bivit").schedule(2)
    for part, binary in zip(PARTS, (True, False)):
        assert attention.quantizer("activation", part).is_binary == attention.quantizer("weight", part).is_binary == binary
        assert everything.quantizer("activation", part).is_binary
    (_, additions, *_), _ = schemes.get("binary_former").schedule(2)
    assert additions.quantizer("weight").is_binary and additions.quantizer("query").bits == 32


def test_bad_stages():
    with pytest.raises(ValueError, match="the scheme 'bit' is trained in 3 stages and needs as many epochs, not 2"):
        schemes.get("bit").schedule(2)
    with pytest.raises(ValueError, match="must add up to 1, not 0.5"):
        Scheme("a", "A", stages=(Stage("b", 0.5),))
    with pytest.raises(ValueError, match="the first has no previous one, and the last trains the scheme unchanged"):
        Scheme("a", "A", stages=(Stage("b", 1.0, {"weight": None}),))
    with pytest.raises(ValueError, match=r"share of the stage 'b' must be in \(0, 1\], not 0"):
        Stage("b", 0)
    with pytest.raises(ValueError, match="teacher of the stage 'b' must be one of 'teacher', 'previous', not 'none'"):
        Stage("b", 1.0, teacher="none")
    with pytest.raises(ValueError, match="precision of the scheme 'a' must be one of 'bits', .*, not 'int4'"):
        Scheme("a", "A", precision="int4")


# === Schemes of others ===
@pytest.fixture
def nothing_registered(monkeypatch):
    monkeypatch.setattr(schemes.registry, "registered", {})


def test_a_registered_scheme_is_found_by_its_name_and_has_variants(nothing_registered):
    ours = schemes.get("acd_bit").replace(name="ours", title="Ours")
    assert schemes.register(ours) is ours and schemes.get("ours") is ours and "ours" in schemes.names()
    assert schemes.get("ours[threshold=mean]").quantizer("activation").threshold == "mean"
    assert schemes.register(ours) is ours, "the very same again is no conflict"


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: schemes.get("bit").replace(name="acd_bit"),
            "there is a scheme 'acd_bit' already; another one needs another name",
        ),
        (lambda: schemes.get("acd_bit[threshold=mean]"), r"the name of a scheme must not hold '\[', but 'acd_bit\[thr.*' does"),
        (lambda: schemes.get("bit").replace(name=" "), "the name of a scheme must be a text, not ' '"),
        (lambda: "acd_bit", "a scheme must be of the type Scheme, not str"),
    ],
)
def test_schemes_that_cannot_be_registered(make, message, nothing_registered):
    with pytest.raises(ValueError, match=message):
        schemes.register(make())


def test_plug_ins_are_found_and_broken_ones_are_named_and_passed_over(tmp_path, monkeypatch):
    thing = "import types\nTHING = types.SimpleNamespace(name={!r})\n"
    modules = {
        "stranger_good": thing.format("good"),
        "stranger_taken": thing.format("taken"),
        "stranger_broken": "import nowhere_at_all\n",
    }
    points = {
        "good": "stranger_good",
        "same": "stranger_good:THING",
        "taken": "stranger_taken:THING",
        "broken": "stranger_broken",
        "number": "stranger_good:__name__",
    }
    installed(tmp_path, "things.test", points, modules)
    monkeypatch.syspath_prepend(tmp_path)
    own = types.SimpleNamespace(name="taken")
    registry = Registry("thing", types.SimpleNamespace, own=[own], attribute="THING", group="things.test")
    assert registry.get("taken") is own, "no plug-in is read for a name that is known without it"
    with pytest.warns(UserWarning) as warned:
        assert registry.names() == ["good", "taken"]
    said = sorted(str(warning.message) for warning in warned)
    assert len(said) == 3
    assert said[0].startswith("strangers brings the thing 'broken', which is passed over: ModuleNotFoundError: No module named")
    assert "a thing must be of the type SimpleNamespace, not str" in said[1]
    assert "there is a thing 'taken' already" in said[2] and registry.get("taken") is own
