"""The convolutional teacher: its shapes, its file, what it refuses, and a student that learns from it."""

import json

import keras
import numpy as np
import pytest

import acdbit_keras as acd
from acdbit_keras.models.cnn import ConvolutionalNetwork

SIZES = dict(classes=3, image_size=8, channels=1, widths=(8, 16))


def images(count=4, side=8):
    return np.random.default_rng(0).normal(size=(count, side, side, 1)).astype("float32")


def test_logits_and_no_taps():
    model = ConvolutionalNetwork(**SIZES)
    outputs = model(images(), return_taps=True)
    assert tuple(outputs["logits"].shape) == (4, 3)
    assert outputs["taps"] == [] == model.blocks == model.stages


def test_the_sides_of_an_image_may_differ():
    model = ConvolutionalNetwork(**{**SIZES, "image_size": (8, 12)})
    assert tuple(model(np.zeros((2, 8, 12, 1), "float32")).shape) == (2, 3)


def test_a_saved_one_answers_alike(tmp_path):
    model = ConvolutionalNetwork(**SIZES)
    model(images(), training=True)
    model.save(tmp_path / "cnn.keras")
    again = acd.models.load_model(tmp_path / "cnn.keras")
    assert type(again) is ConvolutionalNetwork
    np.testing.assert_array_equal(np.asarray(again(images())), np.asarray(model(images())))
    ours, theirs = (json.loads(json.dumps({**each.get_config(), "scheme": each.scheme.name})) for each in (model, again))
    assert ours == theirs and ours["widths"] == [8, 16]


def test_it_learns():
    keras.utils.set_random_seed(0)
    x = images(64)
    y = (x.mean(axis=(1, 2, 3)) > 0).astype("int32")
    model = ConvolutionalNetwork(**{**SIZES, "classes": 2})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics=["accuracy"])
    model.fit(x, y, epochs=12, batch_size=16, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_its_body_can_stand_still():
    model = ConvolutionalNetwork(**SIZES)
    model.freeze_body()
    before = [np.asarray(value) for value in model.non_trainable_variables if "norm" in value.path]
    model(images(), training=True)
    assert [value.path.rsplit("/", 2)[-2] for value in model.trainable_variables] == ["classifier", "classifier"]
    for then, now in zip(before, (value for value in model.non_trainable_variables if "norm" in value.path)):
        np.testing.assert_array_equal(then, np.asarray(now))


def test_it_teaches_labels_and_nothing_else():
    student = acd.models.build("vit_nano_patch2_8", scheme="acd_bit", classes=3, depth=1)
    distiller = acd.Distiller(ConvolutionalNetwork(**SIZES), student, terms=[acd.LabelDistillation()])
    distiller.compile("adam", jit_compile=False)
    assert np.isfinite(distiller.fit(images(), np.array([0, 1, 2, 0]), verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match="the teacher has 0 blocks, the student 1; the distillation of query-key"):
        acd.Distiller(ConvolutionalNetwork(**SIZES), student)


@pytest.mark.parametrize("preset, parameters", [("cnn_mini_32", 570_946), ("cnn_midi_32", 1_163_074), ("cnn_mini_96", 1_693_858)])
def test_presets(preset, parameters):
    model = acd.models.build(preset, scheme="float32")
    assert model.count_params() == parameters
    assert model.image_size == int(preset[-2:])


def test_a_stride_makes_what_follows_smaller():
    model = ConvolutionalNetwork(**{**SIZES, "image_size": 12, "start_stride": 2})
    assert tuple(model._start(images(side=12)).shape) == (4, 5, 5, 24)
    assert ConvolutionalNetwork.from_config(model.get_config()).start_stride == 2


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(scheme="acd_bit"), "full precision; its scheme must be float32, not acd_bit"),
        (dict(image_size=4), "shorter side of image_size"),
        (dict(image_size=9, start_stride=2), "shorter side of image_size"),
        (dict(drop_path=0.1), "no blocks to drop"),
        (dict(widths=(8, 0)), "widths"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        ConvolutionalNetwork(**{**SIZES, **changes})
