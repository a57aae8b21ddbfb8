"""Transfer: what is trained further begins where the other model ended, and only what is meant to be trained is."""

import keras
import numpy as np
import pytest
from numerics import array

import acdbit_keras as acd
from acdbit_keras import cli
from acdbit_keras.code import Code
from acdbit_keras.files import read_json
from acdbit_keras.models.zoo.transfer import copy_body
from acdbit_keras.quantizers import StoredSign
from acdbit_keras.quantizers.latent import latent_kernel

SIZES = dict(classes=4, image_size=8, patch_size=4, channels=1, width=32, depth=1, num_heads=1, mlp_ratio=1)
DIGITS = "digits_vit_nano_acd_bit"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images(count=6):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 1)).astype("float32")


def kernels(model):
    return {v.path.partition("/")[2]: array(v) for v in model.variables if v.name == "kernel"}


# === Real weights for signs ===
RULES = [
    dict(center=center, scale=scale, restore=restore, per=per)
    for center in (None, "mean", "median")
    for scale in (None, "mean_abs", "mad", "learned")
    for restore in (False, True)
    for per in ("row", "tensor")
    if not (restore and center is None)
]


@pytest.mark.parametrize("options", RULES, ids=lambda options: "-".join(map(str, options.values())))
def test_the_rule_of_a_weight_gives_back_the_code_that_it_gave(options):
    trained = acd.WeightSign(**options)
    kernel = np.random.default_rng(0).normal(0.01, 0.05, (32, 6)).astype("float32")
    trained.build(kernel.shape)
    trained(kernel, training=True)
    wanted = trained(kernel).map(array)
    fresh = acd.WeightSign(**options)
    fresh.build(kernel.shape)
    latent = latent_kernel(fresh, wanted)
    found = fresh(latent).map(array)
    np.testing.assert_array_equal(found.signs, wanted.signs)
    np.testing.assert_allclose(found.scale, wanted.scale, rtol=1e-4)
    np.testing.assert_allclose(found.offset, wanted.offset, rtol=1e-4, atol=1e-7)


def test_signs_that_a_rule_cannot_make_are_refused():
    quantizer = acd.WeightSign(center="mean")
    quantizer.build((8, 2))
    with pytest.raises(ValueError, match="a WeightSign, makes the stored signs of no real weights"):
        latent_kernel(quantizer, Code(-np.ones((8, 2), "float32"), np.ones((1, 2), "float32")))


@pytest.mark.parametrize("scheme", ["acd_bit", "bit", "bivit", "xnor_net"])
def test_every_scheme_goes_on_from_its_compact_file(scheme, tmp_path):
    trained = acd.models.VisionTransformer(scheme, **SIZES)
    trained(images(), training=True)
    acd.models.save_compact(trained, tmp_path / "m.acdbit", precision="float32")
    stored = acd.models.load_model(tmp_path / "m.acdbit")
    model = acd.models.load_model(tmp_path / "m.acdbit", trainable=True)
    assert isinstance(stored.blocks[0].query_product.dense.kernel_quantizer, StoredSign)
    np.testing.assert_allclose(array(model(images())), array(stored(images())), rtol=1e-4, atol=1e-4)
    assert model.scheme.distillation == acd.schemes.get(scheme).distillation and not model.frozen


def test_the_real_weights_are_trained(tmp_path):
    acd.models.save_compact(acd.models.VisionTransformer("acd_bit", **SIZES), tmp_path / "m.acdbit")
    model = acd.models.load_model(tmp_path / "m.acdbit", trainable=True)
    before = kernels(model)
    model.compile(keras.optimizers.Adam(1e-2), LOSS, jit_compile=False)
    model.fit(images(), np.arange(6) % 4, verbose=0)
    assert all(np.abs(value - before[name]).max() > 0 for name, value in kernels(model).items())


def test_a_scheme_that_is_not_known_here_goes_on_all_the_same(tmp_path):
    own = acd.schemes.get("acd_bit").replace(name="unheard_of")
    trained = acd.models.VisionTransformer(own, **SIZES)
    acd.models.save_compact(trained, tmp_path / "m.acdbit", precision="float32")
    model = acd.models.load_model(tmp_path / "m.acdbit", trainable=True)
    np.testing.assert_allclose(array(model(images())), array(trained(images())), rtol=1e-4, atol=1e-4)


# === New heads ===
def test_a_new_head_behind_a_frozen_body_of_the_zoo():
    model = acd.models.from_zoo(DIGITS, classes=3)
    assert [v.path.split("/")[-2:] for v in model.trainable_variables] == [["classifier", "kernel"], ["classifier", "bias"]]
    stored = acd.models.from_zoo(DIGITS)
    features = [array(net(images(), return_taps=True)["taps"][-1]["features"]) for net in (stored, model)]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-4)


def test_a_run_and_its_file_take_the_same_arguments(tmp_path):
    trained = acd.models.VisionTransformer("acd_bit", **SIZES)
    trained.save(tmp_path / "model.keras")
    for path in (tmp_path, tmp_path / "model.keras"):
        model = acd.models.load_model(path, classes=7)
        assert model.classes == 7 and not model.frozen
        assert acd.models.load_model(path, classes=7, trainable=False).frozen[-1] == "positions"
        assert not acd.models.load_model(path, trainable=False).trainable
    theirs = kernels(trained)
    assert all(np.array_equal(value, theirs[name]) for name, value in kernels(model).items() if "classifier" not in name)


def test_what_cannot_be_transferred_says_why(tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="holds a Sequential; classes= and trainable= are for the backbones"):
        acd.models.load_model(tmp_path / "dense.keras", classes=3)
    with pytest.raises(ValueError, match="classes must be an integer of at least 1, not 0"):
        acd.models.from_zoo(DIGITS, classes=0)
    wide = acd.models.VisionTransformer("acd_bit", **{**SIZES, "width": 64})
    with pytest.raises(ValueError, match=r"has no weight .* of the shape .*; both models must be of one preset"):
        copy_body(acd.models.VisionTransformer("acd_bit", **SIZES), wide)


def test_a_thawed_model_of_signs_says_what_to_do():
    body = acd.models.from_zoo(DIGITS)
    body.trainable = True
    with pytest.raises(ValueError, match=r"from_zoo\(name, trainable=True\) or load_model\(path, trainable=True\) gives it real"):
        body(images(), training=True)


# === The command line ===
@pytest.fixture
def own_pictures(tmp_path):
    import PIL.Image

    rng = np.random.default_rng(0)
    for name in ("left", "right", "top"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for index in range(10):
            PIL.Image.fromarray(rng.integers(0, 256, (8, 8), "uint8")).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def test_train_begins_with_a_model_of_the_zoo_and_freezes_its_body(own_pictures, tmp_path, capsys):
    common = ["--data", str(own_pictures), "--set", "teacher=none", "--set", "epochs=1"]
    run = tmp_path / "run"
    assert cli.main(["train", "--from", DIGITS, "--freeze", "--out", str(run), *common]) == 0
    model = acd.models.load_model(run)
    assert model.classes == 3 and "classifier" not in model.frozen and "block_0" in model.frozen
    recipe = read_json(run / "recipe.json")
    assert (recipe["start"], recipe["freeze"]) == (DIGITS, True)
    body = acd.models.from_zoo(DIGITS, trainable=True)
    theirs = kernels(body)
    assert all(np.array_equal(value, theirs[name]) for name, value in kernels(model).items() if "classifier" not in name)
    capsys.readouterr()
    start = ["--from", "cifar10_vit_micro_acd_bit", "--out", str(tmp_path / "other")]
    assert cli.main(["train", "digits_acd_bit", *start, *common]) == 2
    assert "cannot start from cifar10_vit_micro_acd_bit: the trained model has no weight" in capsys.readouterr().err
    assert cli.main(["train", "digits_acd_bit", "--freeze", *common]) == 2
    assert "--freeze leaves the head alone to be trained, behind the body that --from names" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, teacher",
    [
        ([], None),
        (["--set", "label_teacher=cifar10_cnn"], "cifar10_cnn@{folder}"),
        (["cifar10_midi"], "cifar10_cnn@{folder}"),
    ],
)
def test_what_goes_on_with_own_pictures_has_no_teacher_of_labels_but_one_that_is_named(words, teacher, tmp_path, monkeypatch):
    """`cifar10_midi` of the zoo learned from one; on the pictures of others that would be trained first."""
    recipes = []

    def train(recipe, *_):
        recipes.append(recipe)
        return {"accuracy": 0.5, "best_accuracy": 0.5}

    monkeypatch.setattr("acdbit_keras.models.train.train", train)
    pictures = np.zeros((12, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "own.npz", x_train=pictures, y_train=np.arange(12) % 3, x_test=pictures, y_test=np.arange(12) % 3)
    assert cli.main(["train", *words, "--from", "cifar10_midi", "--data", str(tmp_path / "own.npz"), "--json"]) == 0
    assert cli.main(["train", "--from", "cifar10_midi", "--data", "cifar10", "--json"]) == 0
    recipe, same = recipes
    assert same.label_teacher == "cifar10_cnn", "the same pictures have the same teacher"
    assert (recipe.start, recipe.preset) == ("cifar10_midi", "vit_midi_pooled4_32")
    assert recipe.label_teacher == (teacher and teacher.format(folder=tmp_path / "own.npz"))
