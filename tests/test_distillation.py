"""Distribution correction: the terms against numpy, and the Distiller as a Keras model."""

import keras
import numpy as np
import pytest
from numerics import array

from acdbit_keras import Distiller, LabelDistillation, QueryKeyDistillation, schemes
from acdbit_keras.distillation import DirectionMatchingDistillation, HiddenDistillation, TrueLabels
from acdbit_keras.distillation.losses import gram_distance
from acdbit_keras.models.callbacks import StopOnNonFinite
from acdbit_keras.models.vit import VisionTransformer

NANO = dict(image_size=4, patch_size=2, channels=1, width=32, depth=1, num_heads=1, mlp_ratio=1, classes=3)


def network(scheme="acd_bit", **changes):
    return VisionTransformer(scheme=scheme, **{**NANO, **changes})


def distiller(terms=None, student=None, teacher=None):
    return Distiller(teacher or network("float32"), student or network(), terms)


def batch(count=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4, 4, 1)).astype(np.float32), rng.integers(0, 3, count)


def compiled(model, optimizer="sgd", **options):
    # JAX without compilation runs operation by operation.
    model.compile(optimizer, jit_compile=keras.config.backend() == "jax", **options)
    return model


def label(teacher, student, temperature=1.0):
    def log_softmax(x):
        x = np.float64(x) / temperature
        return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))

    return -(np.exp(log_softmax(teacher)) * log_softmax(student)).sum(-1)


def gram(x, y):
    def unit(z):
        g = np.einsum("bnhd,bmhd->bhnm", np.float64(z), np.float64(z))
        return g / np.sqrt((g**2).sum((-2, -1), keepdims=True))

    return np.sqrt(((unit(x) - unit(y)) ** 2).sum((-2, -1))).mean(-1)


def direct(x, y):
    def unit(z):
        return np.float64(z) / np.linalg.norm(np.float64(z), axis=-1, keepdims=True)

    return ((unit(x) - unit(y)) ** 2).sum(-1).mean((1, 2))


def outputs(seed, head_dim=8, blocks=2, tokens=5):
    rng = np.random.default_rng(seed)
    taps = [
        {tap: rng.normal(size=(4, tokens, 2, head_dim)).astype(np.float32) for tap in ("query", "key")} for _ in range(blocks)
    ]
    return {"logits": rng.normal(size=(4, 3)).astype(np.float32), "taps": taps}


def test_fit_traces_the_step_once(monkeypatch):
    """Variables that Keras made inside the step, of the optimizer or of a metric, would have TensorFlow trace it again."""
    model = compiled(distiller(), "adam", metrics=["accuracy"])
    traced, step = [], Distiller.train_step
    monkeypatch.setattr(Distiller, "train_step", lambda self, *data: traced.append(1) or step(self, *data))
    model.fit(*batch(), batch_size=4, verbose=0)
    assert len(traced) == 1


# === Terms ===
@pytest.mark.any_backend
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_label_term(temperature):
    teacher, student = outputs(0), outputs(1)
    expected = label(teacher["logits"], student["logits"], temperature)
    np.testing.assert_allclose(array(LabelDistillation(1.0, temperature)(teacher, student)), expected, rtol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "form, distance, width, tokens", [("gram", gram, 8, 5), ("gram", gram, 3, 5), ("gram", gram, 3, 40), ("direct", direct, 8, 5)]
)
def test_query_key_term(form, distance, width, tokens):
    """Mean over blocks and over query and key; in the gram form the head widths may differ, and many tokens make no matrix."""
    teacher, student = outputs(0, tokens=tokens), outputs(1, head_dim=width, tokens=tokens)
    pairs = [(ours[tap], theirs[tap]) for ours, theirs in zip(student["taps"], teacher["taps"]) for tap in ("query", "key")]
    expected = np.mean([distance(*pair) for pair in pairs], axis=0)
    np.testing.assert_allclose(array(QueryKeyDistillation(form=form)(teacher, student)), expected, rtol=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize("form", ["gram", "direct"])
def test_equal_taps_cost_nothing_and_scale_is_ignored(form):
    teacher = outputs(0)
    larger = {**teacher, "taps": [{tap: 3 * value for tap, value in taps.items()} for taps in teacher["taps"]]}
    np.testing.assert_allclose(array(QueryKeyDistillation(form=form)(teacher, larger)), 0, atol=2e-6)


@pytest.mark.any_backend
def test_the_gradient_of_equal_taps_of_many_tokens_is_small():
    """There the distance is the root of a difference of two numbers near 1."""
    x = keras.ops.convert_to_tensor(outputs(0, tokens=40)["taps"][0]["query"])
    if keras.config.backend() == "jax":
        import jax

        slope = jax.grad(lambda z: gram_distance(z, x).sum())(x)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            distance = keras.ops.sum(gram_distance(x, tf.identity(tf.stop_gradient(x))))
        slope = tape.gradient(distance, x)
    assert np.abs(array(slope)).max() < 1e-3
    np.testing.assert_allclose(array(gram_distance(x, 3 * x)), 0, atol=1e-3)


@pytest.mark.any_backend
def test_hidden_and_direction_terms():
    """Sums over the layers, and for directions over query, key and value."""
    rng = np.random.default_rng(4)
    teacher, student = outputs(0), outputs(1, head_dim=3)
    for each in (*teacher["taps"], *student["taps"]):
        each["value"] = rng.normal(size=(4, 5, 2, 8)).astype(np.float32)
        each["features"] = rng.normal(size=(4, 2, 3, 6)).astype(np.float32)
    pairs = list(zip(student["taps"], teacher["taps"]))
    expected = sum(gram(ours[tap], theirs[tap]) for ours, theirs in pairs for tap in ("query", "key", "value"))
    np.testing.assert_allclose(array(DirectionMatchingDistillation()(teacher, student)), expected, rtol=1e-4)

    def unit(x):
        return np.float64(x).reshape(4, -1) / np.linalg.norm(np.float64(x).reshape(4, -1), axis=1, keepdims=True)

    expected = sum(np.linalg.norm(unit(ours["features"]) - unit(theirs["features"]), axis=1) for ours, theirs in pairs)
    np.testing.assert_allclose(array(HiddenDistillation()(teacher, student)), expected, rtol=1e-4)


@pytest.mark.any_backend
def test_true_labels():
    student, classes = outputs(1), np.array([0, 2, 1, 1])
    logits = np.float64(student["logits"])
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -log_softmax[np.arange(4), classes]
    np.testing.assert_allclose(array(TrueLabels()(None, student, classes)), expected, rtol=1e-5)
    rows = np.float32([[0.5, 0.5, 0]] * 4)
    np.testing.assert_allclose(array(TrueLabels()(None, student, rows)), -(rows * log_softmax).sum(-1), rtol=1e-5)


@pytest.mark.any_backend
def test_a_distiller_hands_the_labels_to_the_terms_that_need_them():
    terms = [LabelDistillation(1.0), TrueLabels(0.5), HiddenDistillation(2.0)]
    model = compiled(distiller(terms))
    x, y = batch()
    values = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    parts = values["label_loss"] + 0.5 * values["true_label_loss"] + 2.0 * values["hidden_loss"]
    assert values["loss"] == pytest.approx(parts, rel=1e-5)
    logits = np.float64(array(model.student(x)))
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert values["true_label_loss"] == pytest.approx(-log_softmax[np.arange(8), y].mean(), rel=1e-4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert [(type(term), term.weight) for term in again.terms] == [(type(term), term.weight) for term in terms]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LabelDistillation(-1), "weight of a distillation term must be at least 0, not -1"),
        (lambda: LabelDistillation(temperature=0), "temperature must be positive, not 0"),
        (lambda: QueryKeyDistillation(form="gran"), "form must be one of 'gram', 'direct', not 'gran'"),
    ],
)
def test_bad_terms(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# === Distiller ===
def expected_losses(model, x, training):
    """Per image, hand-computed from what the two networks put out."""
    theirs, ours = model.teacher(x, return_taps=True), model.student(x, training=training, return_taps=True)
    query_key = [gram(array(o[tap]), array(t[tap])) for o, t in zip(ours["taps"], theirs["taps"]) for tap in ("query", "key")]
    return label(array(theirs["logits"]), array(ours["logits"])), np.mean(query_key, axis=0)


@pytest.mark.any_backend
def test_loss_metrics_and_evaluation_equal_numpy():
    model = compiled(distiller(), metrics=["accuracy"])
    x, y = batch()
    by_label, by_query_key = expected_losses(model, x, False)
    values = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert values["label_loss"] == pytest.approx(by_label.mean(), rel=1e-4)
    assert values["query_key_loss"] == pytest.approx(by_query_key.mean(), rel=1e-4)
    assert values["loss"] == pytest.approx(0.9 * by_label.mean() + 0.1 * by_query_key.mean(), rel=1e-4)
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(predicted, array(model.student(x)), rtol=1e-4, atol=1e-5)
    assert values["accuracy"] == pytest.approx(np.mean(predicted.argmax(-1) == y))


@pytest.mark.any_backend
def test_compiled_loss_on_the_labels_is_added():
    x, y = batch()
    student, teacher = network(), network("float32")
    student.classifier.kernel.regularizer = keras.regularizers.L2(0.5)
    penalty = 0.5 * np.sum(array(student.classifier.kernel) ** 2)
    values = []
    for loss in (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)):
        model = compiled(Distiller(teacher, student), loss=loss)
        values.append(model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)["loss"])
    by_label, by_query_key = expected_losses(model, x, False)
    terms = 0.9 * by_label.mean() + 0.1 * by_query_key.mean()
    cross_entropy = label(np.eye(3)[y] * 100, array(student(x))).mean()
    # A regulariser's loss counts once, with labels or without.
    assert values[0] == pytest.approx(terms + penalty, rel=1e-4)
    assert values[1] == pytest.approx(terms + penalty + cross_entropy, rel=1e-4)


@pytest.mark.any_backend
def test_fit_trains_the_student_and_leaves_the_teacher():
    teacher, student = network("float32"), network()
    model = compiled(Distiller(teacher, student), keras.optimizers.Adam(3e-3), metrics=["accuracy"])
    before = [array(weight) for weight in teacher.weights]
    trained = [array(weight) for weight in student.trainable_weights]
    x, y = batch(16)
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history
    assert {"loss", "label_loss", "query_key_loss", "accuracy"} <= set(history)
    assert history["loss"][-1] < history["loss"][0]
    assert not teacher.trainable and model.trainable_weights == student.trainable_weights
    for weight, start in zip(teacher.weights, before):
        np.testing.assert_array_equal(array(weight), start)
    for weight, start in zip(student.trainable_weights, trained):
        assert not np.array_equal(array(weight), start), weight.path


@pytest.mark.any_backend
def test_the_teacher_is_in_inference_mode_and_both_run_once(monkeypatch):
    """Traced once for two epochs, each network once in the trace: a Python side effect counts."""
    calls = []
    call = VisionTransformer.call

    def counted(self, images, training=None, return_taps=False):
        calls.append((self.scheme.name, bool(training)))
        return call(self, images, training=training, return_taps=return_taps)

    model = compiled(distiller(teacher=network("float32", drop_path=0.5)))
    x, _ = batch(16)
    monkeypatch.setattr(VisionTransformer, "call", counted)
    model.fit(x, batch_size=8, epochs=1, verbose=0)
    first = list(calls)
    model.fit(x, batch_size=8, epochs=2, verbose=0)
    training = [name for name, is_training in first if is_training]
    assert ("float32", True) not in calls
    assert calls == first, "a later epoch traced the step again"
    if keras.config.backend() == "tensorflow":
        assert training == ["acd_bit"] and first.count(("float32", False)) == 1


def test_sample_weights_scale_the_loss():
    x, y = batch()
    model = compiled(distiller())
    by_label, by_query_key = expected_losses(model, x, False)
    per_image = 0.9 * by_label + 0.1 * by_query_key
    for weights in (np.full(8, 2.0), np.linspace(0, 3, 8), np.linspace(0, 3, 8)[:, None]):
        loss = model.evaluate(x, y, sample_weight=weights, batch_size=8, verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(np.mean(weights.reshape(-1) * per_image), rel=1e-4)


def test_class_weights_scale_the_loss():
    """Of a student that no step moves: learning rate 0, and no running statistic that its training reads."""
    x, y = batch()
    student = network("binary_vit", drop_path=0.0)
    model = compiled(distiller(schemes.get("acd_bit").distillation, student), keras.optimizers.SGD(0.0))

    def loss(**options):
        return model.fit(x, y, batch_size=8, verbose=0, **options).history["loss"][0]

    plain = loss()
    assert loss(class_weight={0: 2.0, 1: 2.0, 2: 2.0}) == pytest.approx(2 * plain, rel=1e-4)
    by_class = {0: 0.0, 1: 1.0, 2: 3.0}
    weights = np.array([by_class[c] for c in y])
    assert loss(class_weight=by_class) == pytest.approx(loss(sample_weight=weights), rel=1e-5)


def test_steps_per_execution_gives_the_same_weights():
    x, _ = batch(16)
    results = []
    for steps in (1, 2):
        keras.utils.set_random_seed(3)
        model = compiled(distiller(), keras.optimizers.SGD(0.05), steps_per_execution=steps)
        model.fit(x, batch_size=4, epochs=1, shuffle=False, verbose=0)
        results.append([array(weight) for weight in model.student.weights])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_save_and_load_continues(tmp_path):
    x, y = batch()
    model = compiled(distiller(), keras.optimizers.Adam(1e-3), metrics=["accuracy"])
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert [type(term) for term in again.terms] == [LabelDistillation, QueryKeyDistillation]
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    # Compiled as it was: it evaluates and goes on training as the original does.
    expected, values = (m.evaluate(x, y, verbose=0, return_dict=True) for m in (model, again))
    assert values == pytest.approx(expected, rel=1e-4)
    assert int(array(again.optimizer.iterations)) == 1 and not again.teacher.trainable
    assert np.isfinite(again.fit(x, y, batch_size=8, verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depth": 2}, "the teacher has 2 blocks, the student 1"),
        ({"patch_size": 1}, "block 0: the teacher has 16 query tokens, the student 4"),
        ({"num_heads": 2}, "block 0: the teacher has 2 query heads, the student 1"),
        ({"classes": 5}, "the teacher has 5 classes, the student 3"),
        ({"image_size": 8}, "block 0: the teacher has 16 query tokens, the student 4"),
    ],
)
def test_networks_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        distiller(teacher=network("float32", **changes))


def test_what_the_terms_need_decides_what_must_fit():
    Distiller(network("float32", depth=2), network(), [LabelDistillation()])
    wider = network("float32", width=48)
    Distiller(wider, network(), [QueryKeyDistillation(form="gram")])
    with pytest.raises(ValueError, match="48 query channels of a head, the student 32; the term 'query_key' needs equal widths"):
        Distiller(wider, network(), [QueryKeyDistillation(form="direct")])
    with pytest.raises(ValueError, match="48 features channels, the student 32; the term 'hidden' needs equal widths"):
        Distiller(wider, network(), [HiddenDistillation()])
    Distiller(network("float32", depth=2), network(), [LabelDistillation(), TrueLabels()])


def test_bad_terms_of_a_distiller():
    with pytest.raises(ValueError, match="scheme 'float32' has no distillation of its own; pass terms="):
        distiller(student=network("float32"))
    with pytest.raises(ValueError, match="terms must be distillation terms such as LabelDistillation.., not 'label'"):
        distiller(terms=["label"])


@pytest.mark.parametrize("every", [1, 50])
def test_a_loss_that_is_not_finite_stops_the_training(every):
    x, _ = batch(16)
    x[9] = np.nan
    model = compiled(distiller())
    with pytest.raises(FloatingPointError, match="loss became nan at step 3 of epoch 1"):
        model.fit(x, batch_size=4, shuffle=False, verbose=0, callbacks=[StopOnNonFinite(every)])


def test_mixed_precision_scales_the_loss():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(distiller(), keras.optimizers.Adam(1e-3))
        x, y = batch()
        history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    finally:
        keras.config.set_dtype_policy("float32")
    # The loss that is shown is not the scaled one.
    assert 0 < history["loss"][0] < 10 and np.isfinite(history["loss"][1])
