"""Noise, attacks and corruptions against their definitions; what they do to the settings and errors of a run."""

import json

import keras
import numpy as np
import pytest
from outsiders import write_tfds
from scipy import ndimage

from acdbit_keras import models
from acdbit_keras.cli import main
from acdbit_keras.models import data, recipes
from acdbit_keras.models.run import Run
from acdbit_keras.studies import subjects, visualize
from acdbit_keras.studies.robustness import Settings, attacks, corruptions, measure, noise, report

# The environment of the JAX tests has no Pillow.
PICTURES = ("pixelate", "jpeg_compression")

GREY = np.full((64, 16, 16, 3), 128, np.uint8)


def pictures(count=4, size=32, channels=3, seed=0):
    """Smooth coloured blobs, which every corruption can change."""
    rng = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(rng.standard_normal((count, size, size, channels)), (0, 2, 2, 0), mode="wrap")
    x -= x.min(axis=(1, 2, 3), keepdims=True)
    return np.uint8(20 + 200 * x / x.max(axis=(1, 2, 3), keepdims=True))


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.any_backend
@pytest.mark.parametrize("strength", [4.0, 16.0])
def test_noise_has_its_moments(strength):
    rng = np.random.default_rng(0)
    gaussian = noise.add("gaussian", GREY, strength, rng) - 128
    assert abs(gaussian.mean()) < 0.03 * strength
    np.testing.assert_allclose(gaussian.std(), strength, rtol=0.01)
    uniform = noise.add("uniform", GREY, strength, rng) - 128
    assert np.abs(uniform).max() <= strength
    np.testing.assert_allclose(uniform.std(), strength / 3**0.5, rtol=0.01)


@pytest.mark.any_backend
def test_salt_and_pepper_strikes_its_share_of_whole_pixels():
    struck = noise.add("salt_and_pepper", np.repeat(GREY, 4, axis=0), 0.2, np.random.default_rng(0))
    assert set(np.unique(struck)) == {0.0, 128.0, 255.0}
    assert (struck == struck[..., :1]).all(), "the channels of a pixel go together"
    np.testing.assert_allclose([(struck == 0).mean(), (struck == 255).mean()], 0.1, atol=0.005)


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", noise.KINDS)
def test_noise_stays_in_range_and_zero_is_none(kind):
    np.testing.assert_array_equal(noise.add(kind, GREY, 0.0, np.random.default_rng(0)), GREY)
    noisy = noise.add(kind, pictures(), noise.KINDS[kind].largest, np.random.default_rng(0))
    assert noisy.dtype == np.float32 and noisy.min() >= 0 and noisy.max() <= 255


# --- corruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in PICTURES else pytest.mark.any_backend) for kind in corruptions.KINDS]
)
@pytest.mark.parametrize("size, channels", [(32, 3), (8, 1)])
def test_every_corruption_at_every_severity(kind, size, channels):
    clean = pictures(3, size, channels)
    changed = []
    for severity in corruptions.SEVERITIES:
        corrupted = corruptions.corrupt(clean, kind, severity)
        assert corrupted.shape == clean.shape and corrupted.dtype == np.uint8
        np.testing.assert_array_equal(corrupted, corruptions.corrupt(clean, kind, severity))
        changed.append(np.abs(corrupted.astype(float) - clean).mean())
    assert changed[-1] > 0.5, changed
    if kind not in ("elastic_transform", "glass_blur", "snow", "frost", "pixelate"):
        # Those trade one parameter for another between severities.
        assert changed[-1] > changed[0], changed


@pytest.mark.any_backend
@pytest.mark.parametrize("severity, deviation", [(1, 0.04), (2, 0.06), (3, 0.08), (4, 0.09), (5, 0.10)])
def test_gaussian_noise_has_the_constants_of_cifar(severity, deviation):
    corrupted = corruptions.corrupt(GREY, "gaussian_noise", severity).astype(float)
    np.testing.assert_allclose(corrupted.std(), 255 * deviation, rtol=0.02)


@pytest.mark.any_backend
def test_shot_noise_is_that_of_counted_photons():
    """The variance of a Poisson count of mean 500 * 128/255, over 500."""
    corrupted = corruptions.corrupt(GREY, "shot_noise", 1).astype(float)
    np.testing.assert_allclose(corrupted.std() / 255, (128 / 255 / 500) ** 0.5, rtol=0.03)


@pytest.mark.any_backend
def test_impulse_noise_strikes_single_values():
    corrupted = corruptions.corrupt(GREY, "impulse_noise", 5)
    np.testing.assert_allclose([(corrupted == 0).mean(), (corrupted == 255).mean()], 0.035, atol=0.004)
    assert (corrupted != corrupted[..., :1]).any()


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "contrast"])
def test_what_only_moves_light_leaves_an_even_image_alone(kind):
    for severity in corruptions.SEVERITIES:
        assert np.abs(corruptions.corrupt(GREY, kind, severity).astype(int) - 128).max() <= 1


@pytest.mark.any_backend
def test_contrast_shrinks_the_deviation_from_the_mean():
    clean = pictures(1)[0].astype(float)
    corrupted = corruptions.corrupt(clean[None].astype(np.uint8), "contrast", 5)[0]
    mean = clean.mean(axis=(0, 1))
    np.testing.assert_allclose(corrupted, mean + 0.15 * (clean - mean), atol=1.01)


@pytest.mark.any_backend
def test_brightness_adds_to_the_value_and_keeps_the_hue():
    clean = np.array([[[[100, 50, 25], [0, 0, 0]]]], np.uint8).repeat(2, axis=1)
    corrupted = corruptions.corrupt(clean, "brightness", 5)[0, 0]
    assert corrupted[0, 0] in (176, 177) and (corrupted[1] == 76).all()  # + 0.3 * 255
    np.testing.assert_allclose(corrupted[0] / corrupted[0, 0], [1, 0.5, 0.25], atol=0.01)


@pytest.mark.any_backend
def test_motion_spreads_a_point_along_its_direction():
    point = np.zeros((1, 33, 33, 1), np.float32)
    point[0, 16, 16] = 1
    spread = corruptions._moved(point, 6, 2.0, np.zeros(1))[0, ..., 0]
    expected = np.exp(-(np.arange(13) ** 2) / 8)
    np.testing.assert_allclose(spread[16, 4:17][::-1], expected / expected.sum(), rtol=1e-5)
    assert np.count_nonzero(spread) == 13
    down = corruptions._moved(point, 6, 2.0, np.full(1, 90.0))[0, ..., 0]
    np.testing.assert_allclose(down, spread.T, atol=1e-6)


@pytest.mark.any_backend
@pytest.mark.parametrize("factor", [1.0, 1.07, 1.25, 2.25])
def test_enlargement_is_that_of_scipy(factor):
    x = pictures(1).astype(np.float32)
    kept = int(np.ceil(32 / factor))
    start = (32 - kept) // 2
    zoomed = ndimage.zoom(x[0, start : start + kept, start : start + kept], (factor, factor, 1), order=1)
    cut = (zoomed.shape[0] - 32) // 2
    np.testing.assert_allclose(corruptions._zoomed(x, factor)[0], zoomed[cut : cut + 32, cut : cut + 32], atol=2e-3)


@pytest.mark.any_backend
@pytest.mark.parametrize("mode, period", [("mirror", 2 * 31), ("reflect", 2 * 32)])
def test_sampling_is_that_of_scipy(mode, period):
    x, rng = pictures(1).astype(np.float32), np.random.default_rng(3)
    rows, columns = rng.uniform(-20, 52, (2, 1, 32, 32))
    expected = [ndimage.map_coordinates(x[0, ..., c], [rows[0], columns[0]], order=1, mode=mode) for c in range(3)]
    np.testing.assert_allclose(corruptions._sampled(x, rows, columns, period)[0], np.stack(expected, axis=-1), atol=2e-2)


def test_frost_takes_photographs_where_they_are_installed(tmp_path, monkeypatch):
    from PIL import Image

    clean = pictures(2)
    corruptions._photographs.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(corruptions, "_frost_folder", lambda: None)
        assert corruptions.frost_overlay() == "texture"
        textured = corruptions.corrupt(clean, "frost", 5)
    (tmp_path / "imagecorruptions" / "frost").mkdir(parents=True)
    (tmp_path / "imagecorruptions" / "__init__.py").write_text("raise ImportError('only its pictures are needed')")
    Image.new("RGB", (400, 300), (10, 20, 30)).save(tmp_path / "imagecorruptions" / "frost" / "frost1.png")
    monkeypatch.syspath_prepend(tmp_path)
    corruptions._photographs.cache_clear()
    try:
        assert corruptions.frost_overlay() == "photographs"
        overlaid = corruptions.corrupt(clean, "frost", 5)
        expected = np.clip(0.75 * clean + 0.45 * np.array([10, 20, 30]), 0, 255)
        np.testing.assert_allclose(overlaid, expected, atol=1.01)
        assert (overlaid != textured).any()
    finally:
        corruptions._photographs.cache_clear()


# --- attacks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return subjects.pixels_of("digits", 8, 40)


def subject(scheme, tmp_path, batch_size=16):
    keras.utils.set_random_seed(5)
    model = models.build("vit_nano_patch2_8", scheme, classes=10, depth=1)
    # Untrained, the classifier hardly listens; ten times as loud it has gradients worth following.
    model.classifier.kernel.assign(model.classifier.kernel * 10)
    model.save(tmp_path / f"{scheme}.keras")
    return subjects.KerasSubject(tmp_path / f"{scheme}.keras", scheme, "digits", batch_size)


def losses(model, pixels, labels):
    logits = model.logits(pixels)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


@pytest.mark.any_backend
def test_the_gradient_is_that_of_finite_differences(tmp_path, digits):
    pixels, labels = digits[0][:3].astype(np.float32), digits[1][:3]
    model = subject("float32", tmp_path, batch_size=2)
    direction = np.random.default_rng(0).standard_normal(pixels.shape).astype(np.float32)
    slopes = (losses(model, pixels + direction, labels) - losses(model, pixels - direction, labels)) / 2
    gradient = model.gradient(pixels, labels) / (255 * 0.3760)  # of the pixels: the deviation of the digits
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), slopes, rtol=0.02, atol=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize("scheme", ["float32", "acd_bit"])
def test_attacks_stay_in_their_box_and_raise_the_loss(scheme, tmp_path, digits):
    pixels, labels = digits
    model, epsilon = subject(scheme, tmp_path), 12.0
    assert attacks.without_gradient(model, pixels, labels) < 0.2
    clean = losses(model, pixels, labels).mean()
    stepped = attacks.fgsm(model, pixels, labels, epsilon)
    searched = attacks.pgd(model, pixels, labels, epsilon, steps=4, rng=np.random.default_rng(0))
    for attacked in (stepped, searched):
        assert np.abs(attacked - pixels).max() <= epsilon and attacked.min() >= 0 and attacked.max() <= 255
        assert losses(model, attacked, labels).mean() > clean
    if scheme == "float32":
        inside = (pixels >= epsilon) & (pixels <= 255 - epsilon)
        np.testing.assert_allclose(np.abs(stepped - pixels)[inside], epsilon, rtol=1e-5)


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"tests": ("nois",)}, "did you mean 'noise'"),
        ({"severities": (1, 6)}, "severity must be one of 1, 2, 3, 4, 5, not 6"),
        ({"gaussian": (300.0,)}, "must be from 0 to 255, not 300"),
        ({"salt_and_pepper": (2.0,)}, "must be from 0 to 1, not 2"),
        ({"epsilons": (0.0,)}, "epsilon must be above 0"),
        ({"rates": (1.5,)}, "a rate of bit flips must be from 0 to 1"),
        ({"rates": (float("nan"),)}, "a rate of bit flips must be from 0 to 1"),
        ({"samples": 0}, "samples must be an integer of at least 1"),
        ({"repetitions": 0}, "repetitions must be an integer of at least 1"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
    ],
)
def test_settings_out_of_range(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Settings(**wrong)


def test_a_run_without_files(tmp_path, monkeypatch):
    """Noise, attacks and corruptions of two models: every row there, the same again from the same seed."""
    subject("float32", tmp_path), subject("acd_bit", tmp_path)
    monkeypatch.setattr(report, "draw", lambda path, results: path.write_bytes(b"drawn"))
    monkeypatch.setattr(corruptions, "KINDS", {kind: corruptions.KINDS[kind] for kind in ("gaussian_noise", "fog")})
    settings = Settings(
        tests=("noise", "attack", "corruption"), samples=24, repetitions=2, gaussian=(40.0,), uniform=(), salt_and_pepper=(0.1,),
        epsilons=(8.0,), steps=2, severities=(1, 5),
    )  # fmt: skip
    paths, calls = [tmp_path / "acd_bit.keras", tmp_path / "float32.keras"], []
    results = measure.run(paths, tmp_path / "a", settings, "digits", progress=lambda *state: calls.append(state))
    # Noise: 2 kinds, 2 repetitions, 2 models; attacks: 2 kinds of 2 models, and the float model's against the other;
    # corruptions: 2 kinds, 2 severities, 2 models.
    assert len(results["rows"]) == 8 + 4 + 1 + 8
    assert calls[-1] == (23, 23)
    assert [row["model"] for row in results["rows"] if row["kind"] == "transfer"] == ["acd_bit"]
    assert [model["scheme"] for model in results["models"]] == ["acd_bit", "float32"]
    assert set(results["corruption_means"]["float32"]) == {"1", "5"} and results["frost_overlay"] == corruptions.frost_overlay()
    again = measure.run(paths, tmp_path / "b", settings, "digits")
    assert again["rows"] == results["rows"]
    lines = (tmp_path / "a" / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(results["rows"]) and lines[0].startswith("test,kind,strength")
    assert "Gaussian noise" in report.table(results)


def test_data_are_looked_for_where_they_are_said_to_be(tmp_path, capsys):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": np.full((8, 8, 1), place, np.uint8), "label": place % 2} for place in range(10)]
    write_tfds(tmp_path, "elsewhere", features, {"train": examples})
    models.build("vit_nano_patch2_8", "float32", classes=2, depth=1).save(tmp_path / "model.keras")
    words = ["--dataset", "tfds:elsewhere", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    noises = [word for kind in ("--gaussian", "--uniform", "--salt-and-pepper") for word in (kind, "1")]
    assert main(["robustness", str(tmp_path / "model.keras"), *words, "--tests", "noise", "--repetitions", "1", *noises]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["samples"] == 2
    assert main(["visualize", str(tmp_path / "model.keras"), *words]) == 2
    assert "samples must be an integer of at least 3, not 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="samples must be from 1 to 2, the test images of elsewhere, not 3"):
        visualize.run([tmp_path / "model.keras"], tmp_path / "out", 3, dataset="tfds:elsewhere", data_dir=tmp_path)


def test_recordings_have_no_corruptions(tmp_path):
    models.SequenceTransformer("float32", 6, width=32, depth=1).save(tmp_path / "model.keras")
    for tests, others in ((("noise", "corruption"), "noise"), (("corruption",), "noise attack bitflip")):
        sentence = f"^the corruptions are those of images, movements holds recordings: use --tests {others}$"
        with pytest.raises(ValueError, match=sentence):
            measure.run([tmp_path / "model.keras"], tmp_path / "out", Settings(tests=tests, samples=4), "movements")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_bit_flips_of_files_whatever_they_take(dtype, tmp_path, monkeypatch):
    from acdbit_keras.convert import to_tflite

    monkeypatch.setattr(report, "draw", lambda path, results: None)
    facts, path = data.info("digits"), tmp_path / "m.tflite"
    to_tflite(subject("acd_bit", tmp_path).model, path, card={"mean": [*facts.mean], "std": [*facts.std]}, input=dtype)
    settings = Settings(tests=("bitflip",), samples=24, repetitions=1, rates=(0.0, 0.5))
    results = measure.run([path], tmp_path / "results", settings, "digits")
    assert [row["strength"] for row in results["rows"]] == [0.0, 0.5]
    assert results["rows"][0]["accuracy"] == results["models"][0]["clean"]


@pytest.mark.any_backend
def test_models_that_cannot_be_compared(tmp_path):
    subject("float32", tmp_path)
    path = tmp_path / "float32.keras"
    with pytest.raises(ValueError, match="does not say which dataset"):
        subjects.open_all([path])
    with pytest.raises(ValueError, match="is given twice"):
        subjects.open_all([path, path], "digits")
    with pytest.raises(ValueError, match="10 classes and 1 image channels, cifar10 has 10 and 3"):
        subjects.open_all([path], "cifar10")
    with pytest.raises(ValueError, match="from 1 to 355"):
        subjects.pixels_of("digits", 8, 356)
    Run(tmp_path / "runs").write_recipe(recipes.get("cifar10_small_teacher"))
    Run(tmp_path).write_recipe(recipes.get("digits_teacher"))
    with pytest.raises(ValueError, match="different datasets"):
        subjects.shared_dataset([path, tmp_path / "runs"])
    larger = models.build("vit_nano_patch2_8", "float32", classes=10, depth=1, image_size=16)
    larger.save(tmp_path / "larger.keras")
    with pytest.raises(ValueError, match="images of different sizes"):
        subjects.open_all([path, tmp_path / "larger.keras"], "digits")


@pytest.mark.any_backend
def test_logits_that_are_not_finite_are_wrong():
    logits = np.array([[1.0, 0.0], [np.nan, 5.0], [np.inf, 0.0], [0.0, 2.0]])
    np.testing.assert_array_equal(subjects.correct(logits, np.array([0, 1, 0, 0])), [True, False, False, False])
