"""Teachers and students of any kind: ordinary Keras models, several of them, other sizes, other targets than classes."""

import keras
import numpy as np
import pytest
from numerics import array

import acdbit_keras as acd
from acdbit_keras import Distiller, LabelDistillation, QueryKeyDistillation, targets
from acdbit_keras.distillation import TrueLabels

SIZES = dict(image_size=8, patch_size=4, channels=1, width=32, depth=1, num_heads=1, mlp_ratio=1)
L = keras.layers
rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(16, 8, 8, 1)).astype("float32")
CLASSES = np.arange(16) % 4
LOGITS = dict(loss=keras.losses.BinaryCrossentropy(from_logits=True))


def ordinary(outputs=4, shape=(8, 8, 1), **last):
    return keras.Sequential([keras.Input(shape), L.Flatten(), L.Dense(8, activation="relu"), L.Dense(outputs, **last)])


def student(outputs=4):
    return acd.models.VisionTransformer("acd_bit", outputs, **SIZES)


def binary(outputs=4):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), L.Flatten(), acd.BinaryDense(16, acd.AlignedSign(), "weight_sign"), L.Dense(outputs)]
    )


def compiled(distiller, **options):
    distiller.compile("sgd", jit_compile=keras.config.backend() == "jax", **options)
    return distiller


def label_loss(distiller, x=IMAGES, y=CLASSES, **options):
    return compiled(distiller, **options).evaluate(x, y, batch_size=16, verbose=0, return_dict=True)["label_loss"]


def losses_of(distiller):
    return compiled(distiller).evaluate(IMAGES, CLASSES, batch_size=16, verbose=0, return_dict=True)


def cross_entropy(teacher, ours):
    p = np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True)
    return -(p * (ours - np.log(np.exp(ours).sum(-1, keepdims=True)))).sum(-1).mean()


# === Any model that gives logits ===
@pytest.mark.any_backend
def test_ordinary_models_are_distilled_by_their_labels(tmp_path):
    teacher, ours = ordinary(), binary()
    expected = cross_entropy(teacher.predict(IMAGES, verbose=0), ours.predict(IMAGES, verbose=0))
    distiller = Distiller(teacher, ours)
    assert [type(term) for term in distiller.terms] == [LabelDistillation]
    assert label_loss(distiller) == pytest.approx(expected, rel=1e-4)
    before = array(ours.layers[-1].kernel).copy()
    distiller.fit(IMAGES, CLASSES, verbose=0)
    assert np.abs(array(ours.layers[-1].kernel) - before).max() > 0 and not teacher.trainable
    teacher.save(tmp_path / "teacher.keras")
    again = Distiller(tmp_path / "teacher.keras", binary())
    np.testing.assert_allclose(again.teacher.predict(IMAGES, verbose=0), teacher.predict(IMAGES, verbose=0), rtol=1e-5)


def test_a_backbone_learns_labels_from_an_ordinary_teacher():
    label_loss(Distiller(ordinary(), student(), [LabelDistillation()]))
    with pytest.raises(
        ValueError, match=r"the term 'query_key' compares taps of the blocks, and the teacher .*, a Sequential, has"
    ):
        Distiller(ordinary(), student())


def test_several_teachers_count_by_their_weights(tmp_path):
    teachers, ours = [ordinary(), ordinary()], binary()
    theirs, own = [teacher.predict(IMAGES, verbose=0) for teacher in teachers], ours.predict(IMAGES, verbose=0)
    distiller = Distiller(teachers, ours, teacher_weights=[3, 1])
    expected = 0.75 * cross_entropy(theirs[0], own) + 0.25 * cross_entropy(theirs[1], own)
    assert label_loss(distiller) == pytest.approx(expected, rel=1e-4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(distiller))
    assert again.shares == {"label": [0.75, 0.25]} and len(again.teachers) == 2
    for weights in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="teacher_weights must be 2 numbers of at least 0"):
            Distiller(teachers, binary(), teacher_weights=weights)


@pytest.mark.any_backend
def test_one_teacher_teaches_the_labels_and_another_query_and_key():
    network, twin, ours = ordinary(), acd.models.VisionTransformer("float32", 4, **SIZES), student()
    weights = {"label": [1, 0], "query_key": [0, 1]}
    both = Distiller([network, twin], ours, teacher_weights=weights)
    found = losses_of(both)
    for teacher, term in ((network, LabelDistillation()), (twin, QueryKeyDistillation())):
        alone = losses_of(Distiller(teacher, ours, [term]))
        assert found[f"{term.name}_loss"] == pytest.approx(alone[f"{term.name}_loss"], rel=1e-4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(both))
    assert again.shares == {"label": [1.0, 0.0], "query_key": [0.0, 1.0]}
    for wrong in ({"label": [1, 0]}, {**weights, "hidden": [1, 1]}):
        with pytest.raises(ValueError, match="teacher_weights must name the terms label, query_key, each once"):
            Distiller([network, twin], student(), teacher_weights=wrong)
    with pytest.raises(ValueError, match="the term 'query_key' compares taps of the blocks, and the teacher .* has none"):
        Distiller([network, twin], student(), teacher_weights=[1, 1])


@pytest.mark.any_backend
def test_a_teacher_of_another_size_with_a_preprocessing_of_its_own():
    teacher, ours = ordinary(shape=(16, 16, 3)), binary()
    prepare = L.Rescaling(2.0, offset=1.0)
    large = keras.ops.image.resize(2.0 * IMAGES + 1.0, (16, 16), antialias=True)
    expected = cross_entropy(array(teacher(np.repeat(array(large), 3, -1))), ours.predict(IMAGES, verbose=0))
    assert label_loss(Distiller(teacher, ours, teacher_preprocessing=prepare)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "teacher, message",
    [
        (lambda: ordinary(5), "the teacher has 5 classes, the student 4"),
        (lambda: ordinary(activation="softmax"), "the teacher .* ends in a softmax, and the term 'label' needs logits"),
        (lambda: keras.Sequential([L.Flatten(), L.Dense(4)]), "the teacher .* is not built: call it on a batch first"),
        (lambda: "nowhere.keras", "the teacher nowhere.keras cannot be loaded"),
        (lambda: 3, "the teacher must be a keras.Model, not int"),
        (list, "teacher must be a model or several, not none"),
    ],
)
def test_teachers_that_do_not_fit(teacher, message):
    with pytest.raises(ValueError, match=message):
        Distiller(teacher(), binary())


def test_channels_that_are_not_those_of_the_teacher_need_a_preprocessing():
    colour = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(4)])
    with pytest.raises(ValueError, match=r"images of shape .8, 8, 1., the student of .8, 8, 3.; teacher_preprocessing must"):
        Distiller(ordinary(), colour)


# === Other targets than classes ===
def forms(tf, x, y):
    """The same batches as arrays, as a pipeline and as a `PyDataset`."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            part = slice(8 * index, 8 * index + 8)
            return x[part], y[part]

    return {
        "arrays": (x, y),
        "tf.data": (tf.data.Dataset.from_tensor_slices((x, y)).batch(8),),
        "PyDataset": (Batches(),),
    }


GOOD = {
    "classes": (4, CLASSES, None),
    "classes in a column": (4, CLASSES[:, None], None),
    "classes in rows": (4, np.eye(4, dtype="float32")[CLASSES], keras.losses.CategoricalCrossentropy(from_logits=True)),
    "several labels": (4, rng.random((16, 4)) > 0.5, LOGITS["loss"]),
    "one label": (1, rng.random(16) > 0.5, LOGITS["loss"]),
    "numbers": (1, rng.normal(size=16).astype("float32"), "mse"),
    "numbers in a column": (1, rng.normal(size=(16, 1)).astype("float32"), "mse"),
    "several numbers": (4, rng.normal(size=(16, 4)).astype("float32"), keras.losses.Huber()),
}


@pytest.mark.parametrize("kind", GOOD)
def test_targets_are_taken_alike_in_every_form(kind):
    tf = pytest.importorskip("tensorflow")
    outputs, y, loss = GOOD[kind]
    seen = {}
    distiller = compiled(Distiller(ordinary(outputs), binary(outputs)), loss=loss)
    start = distiller.student.get_weights()
    for form, data in forms(tf, IMAGES, y).items():
        distiller.student.set_weights(start)
        seen[form] = distiller.fit(*data, batch_size=8 if form == "arrays" else None, shuffle=False, verbose=0).history["loss"][0]
    assert np.isfinite(list(seen.values())).all()
    assert seen["tf.data"] == pytest.approx(seen["arrays"], rel=1e-4) and seen["PyDataset"] == pytest.approx(
        seen["arrays"], rel=1e-4
    )


BAD = {
    "a class too many": (4, np.where(CLASSES == 2, 4, CLASSES), None, r"\[0, 4\)"),
    "shares above 1": (4, np.full((16, 4), 1.5, "float32"), LOGITS["loss"], r"\[0, 1\]"),
    "numbers that are none": (1, np.full(16, np.nan, "float32"), "mse", "the finite numbers"),
    "columns that are missing": (4, np.zeros((16, 3), "float32"), LOGITS["loss"], "one column for each of the 4 labels"),
    "classes as floats": (4, CLASSES.astype("float32"), None, "must be integers"),
}


@pytest.mark.parametrize("fault", BAD)
def test_targets_are_refused_alike_in_every_form(fault):
    tf = pytest.importorskip("tensorflow")
    outputs, y, loss, message = BAD[fault]
    distiller = compiled(Distiller(ordinary(outputs), binary(outputs)), loss=loss)
    for data in forms(tf, IMAGES, y).values():
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
            distiller.fit(*data, verbose=0)


@pytest.mark.any_backend
def test_the_term_of_labels_follows_the_loss():
    teacher, ours = rng.normal(size=(2, 16, 3)).astype("float32")
    said, own = {"logits": teacher}, {"logits": ours}
    p = 1 / (1 + np.exp(-teacher))
    expected = {
        targets.CLASSES: -(
            np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True) * (ours - np.log(np.exp(ours).sum(-1, keepdims=True)))
        ).sum(-1),
        targets.LABELS: -(p * np.log(1 / (1 + np.exp(-ours))) + (1 - p) * np.log(1 - 1 / (1 + np.exp(-ours)))).mean(-1),
        targets.NUMBERS: ((teacher - ours) ** 2).mean(-1),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(array(LabelDistillation().towards(kind, 3)(said, own)), values, rtol=1e-4, err_msg=kind)
    assert LabelDistillation().towards(None, 1).form == LabelDistillation().towards(targets.CLASSES, 1).form == "squared"
    assert LabelDistillation(form="sigmoid").towards(targets.CLASSES, 3).form == "sigmoid"


def test_terms_that_say_nothing_of_the_targets_are_refused():
    with pytest.raises(ValueError, match="'softmax' says nothing of a single output; 'squared' does"):
        Distiller(ordinary(1), binary(1), [LabelDistillation(form="softmax")])
    distiller = Distiller(ordinary(), binary(), [LabelDistillation(), TrueLabels()])
    with pytest.raises(ValueError, match="'true_label' is a cross-entropy of classes, and the targets are numbers"):
        distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match="form must be one of None, 'softmax', 'sigmoid', 'squared', not 'hard'"):
        LabelDistillation(form="hard")


@pytest.mark.parametrize(
    "loss, kind",
    [
        ("mse", "numbers"),
        ("mae", "numbers"),
        (keras.losses.Huber(), "numbers"),
        ("binary_crossentropy", "labels"),
        ("sparse_categorical_crossentropy", "classes"),
        (lambda y, p: p, None),
    ],
)
def test_the_loss_says_what_the_targets_are(loss, kind):
    assert targets.kind_of(loss, 3) == kind
    assert targets.kind_of(None, 3) == "classes" and targets.kind_of(None, 1) == "numbers"


def test_queries_and_keys_still_need_equal_grids():
    larger = acd.models.VisionTransformer("float32", 4, **{**SIZES, "image_size": 16})
    with pytest.raises(ValueError, match="the teacher has 16 query tokens, the student 4"):
        Distiller(larger, student(), [QueryKeyDistillation()])
    coarser = acd.models.VisionTransformer("float32", 4, **{**SIZES, "image_size": 16, "patch_size": 8})
    values = compiled(Distiller(coarser, student())).evaluate(IMAGES, CLASSES, verbose=0, return_dict=True)
    assert np.isfinite(values["query_key_loss"])
