"""Training in stages, without training, and with changed terms: what `train` makes of a scheme. Digits, tiny networks."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from acdbit_keras import Distiller, schemes
from acdbit_keras.distillation import LabelDistillation, QueryKeyDistillation
from acdbit_keras.models import build, recipes
from acdbit_keras.models import train as train_module
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.train import check_teacher, copy_weights, train

TINY = dict(depth=1, width=32, num_heads=1, mlp_ratio=1)
QUICK = recipes.get("digits_acd_bit").replace(epochs=2, jit_compile=False, warmup_epochs=0.0, batch_size=512, teacher="teacher")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """`vit_nano_patch2_8` with one narrow block, for every network of this module, and steps too few to be worth a trace."""
    tf.config.run_functions_eagerly(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "build", lambda preset, *args, **options: build(preset, *args, **TINY, **options))
        yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    keras.utils.set_random_seed(1)
    build("vit_nano_patch2_8", "float32", **TINY).save(path)
    return path


def epochs_of(folder):
    return [int(row["epoch"]) for row in csv.DictReader((folder / "history.csv").open(newline=""))]


def test_stages_run_one_after_the_other_and_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, teacher, monkeypatch):
    """BiT: three stages, the second and third distilled from the network as the stage before left it."""
    recipe = QUICK.replace(scheme="bit", epochs=4)
    seen = []

    class Watched(Distiller):
        def __init__(self, teacher, student, terms):
            seen.append((teacher.scheme, [np.array(weight) for weight in teacher.get_weights()]))
            super().__init__(teacher, student, terms)

    class Checkpoints(train_module.Checkpoints):
        """Keeps the folder as a kill right behind each epoch's state would leave it."""

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            shutil.copytree(self.run.folder, tmp_path / f"killed_{epoch + 1}")

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "Distiller", Watched)
        patch.setattr(train_module, "Checkpoints", Checkpoints)
        result = train(recipe, tmp_path / "whole", teacher=teacher, verbose=0)
    assert [scheme.block for scheme, _ in seen] == ["float", "binary", "binary"]
    for index, (scheme, weights) in enumerate(seen[1:]):
        saved = load_model(tmp_path / "whole" / f"stage_{index}.keras")
        assert scheme.quantizer("activation").bits == saved.scheme.quantizer("activation").bits == (32, 2)[index]
        assert all(np.array_equal(a, b) for a, b in zip(weights, saved.get_weights(), strict=True))
    final = load_model(tmp_path / "whole")
    assert final.scheme.is_binary and final.scheme.quantizer("activation").bits == 1
    assert epochs_of(tmp_path / "whole") == [0, 1, 2, 3]
    assert result["epochs"] == 4 and result["best_epoch"] in (3, 4), "the best of the network that is asked for"

    # Once right at the end of the first stage, whose model is not written yet, once within the last.
    for epochs in (1, 3):
        folder = tmp_path / f"killed_{epochs}"
        assert (folder / "stage_0.keras").exists() == (epochs > 1) and not (folder / "result.json").exists()
        again = train(recipe, folder, teacher=teacher, verbose=0)
        assert epochs_of(folder) == [0, 1, 2, 3] and again["accuracy"] == result["accuracy"]
        for a, b in zip(final.get_weights(), load_model(folder).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_stage_starts_from_the_weights_of_the_one_before(tmp_path, teacher):
    """With a learning rate of 0 nothing but the statistics moves."""
    recipe = QUICK.replace(scheme="bivit", learning_rate=0.0)
    train(recipe, tmp_path / "run", teacher=teacher, verbose=0)
    before, after = load_model(tmp_path / "run" / "stage_0.keras"), load_model(tmp_path / "run")
    assert not before.blocks[0].mlp_product_1.dense.is_binary and before.blocks[0].query_product.dense.is_binary
    assert after.blocks[0].mlp_product_1.dense.is_binary
    kernels = [
        [np.array(product.dense.kernel) for product in (model.blocks[0].query_product, model.blocks[0].mlp_product_1)]
        for model in (before, after)
    ]
    for a, b in zip(*kernels):
        np.testing.assert_array_equal(a, b)
    start = np.array(after.blocks[0].mlp_product_1.dense.kernel_quantizer.start)
    np.testing.assert_allclose(start[0], np.abs(kernels[0][1]).mean(0), rtol=1e-5)


def test_a_scheme_without_training_is_calibrated(tmp_path, teacher):
    recipe = QUICK.replace(scheme="fq_vit_w8a4")
    result = train(recipe, tmp_path / "run", teacher=teacher, verbose=0)
    assert result["epochs"] == 0 and result["accuracy"] == result["best_accuracy"] and result["training_seconds"] > 0
    assert not (tmp_path / "run" / "history.csv").exists()
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result == train(recipe, tmp_path / "run", verbose=0)
    model, original = load_model(tmp_path / "run"), load_model(teacher)
    np.testing.assert_array_equal(model.blocks[0].query_dense.kernel, original.blocks[0].query_dense.kernel)
    quantizer = model.blocks[0].query_dense.input_quantizer
    assert float(quantizer.updates) == 2, "of the training images there are two batches"
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
    difference = np.abs(model(images) - original(images)).max()
    assert 0 < difference < 0.1 * np.abs(original(images)).max()
    with pytest.raises(ValueError, match="'fq_vit_w8a4' is not trained: it takes a teacher's weights, and the recipe has no"):
        train(recipe.replace(teacher=None), tmp_path / "none", verbose=0)


def test_half_precision_is_the_schemes_own_and_it_learns_the_labels(tmp_path, teacher):
    policies = []
    original = train_module.Speed.on_epoch_begin

    class Speed(train_module.Speed):
        def on_epoch_begin(self, epoch, logs=None):
            policies.append((self.model.blocks[0].query_dense.compute_dtype, type(self.model.optimizer).__name__))
            original(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "Speed", Speed)
        recipe = QUICK.replace(scheme="mixed16", epochs=1)
        train(recipe, tmp_path / "run", teacher=teacher, verbose=0)
    assert "label_loss" not in (tmp_path / "run" / "history.csv").read_text()
    assert policies == [("float16", "LossScaleOptimizer")]
    assert keras.config.dtype_policy().name == "float32"
    model = load_model(tmp_path / "run")
    assert model.blocks[0].query_dense.kernel.dtype == "float32" and np.isfinite(model.get_weights()[0]).all()


# === Terms ===
def terms(scheme, **settings):
    recipe = QUICK.replace(scheme=scheme, **settings)
    return {type(term): term.weight for term in train_module.terms_of(recipe, schemes.get(scheme))}


def test_a_query_key_weight_adds_the_term_and_zero_removes_it():
    label, query_key = LabelDistillation, QueryKeyDistillation
    assert terms("binary_vit") == {label: 1.0}
    assert terms("binary_vit", query_key_weight=0.1, label_weight=0.9) == {label: 0.9, query_key: 0.1}
    assert terms("binary_vit", query_key_weight=0.0) == {label: 1.0}
    assert terms("acd_bit", query_key_weight=0.0) == {label: 0.9}
    assert terms("acd_bit", label_weight=1.0, query_key_weight=0.0) == {label: 1.0}
    assert terms("xnor_net") == {} and terms("acd_bit", label_weight=0.0, query_key_weight=0.0) == {}
    [term] = train_module.terms_of(QUICK.replace(query_key_weight=1.0, query_key_form="direct"), schemes.get("xnor_net"))
    assert (term.form, term.weight) == ("direct", 1.0)


def test_whether_a_teacher_fits_is_known_before_any_training():
    fitting = build("vit_nano_patch2_8", "float32", **TINY)
    for scheme in ("bit", "acd_bit", "fq_vit_w8a4", "mixed16"):
        check_teacher(QUICK.replace(scheme=scheme, epochs=3), fitting)
    deeper = build("vit_nano_patch2_8", "float32", **{**TINY, "depth": 2})
    with pytest.raises(ValueError, match="the teacher has 2 blocks, the student 1"):
        check_teacher(QUICK, deeper)
    check_teacher(QUICK.replace(scheme="binary_vit"), deeper)
    with pytest.raises(ValueError, match="the teacher has no weight block_0/mlp_1/kernel of the network's shape"):
        check_teacher(QUICK.replace(scheme="fq_vit_w8a4"), build("vit_nano_patch2_8", "float32", **{**TINY, "mlp_ratio": 2}))
    with pytest.raises(ValueError, match="trained in 3 stages and needs as many epochs, not 2"):
        check_teacher(QUICK.replace(scheme="bit"), fitting)


@pytest.mark.parametrize("scheme", ["acd_bit", "bit", "fq_vit_w8a4"])
def test_weights_are_copied_by_place_and_name(scheme):
    first, second = (build("vit_nano_patch2_8", scheme, **TINY) for _ in range(2))
    assert copy_weights(first, second) == []
    for a, b in zip(first.trainable_variables, second.trainable_variables):
        np.testing.assert_array_equal(a, b)
