"""The figures behind the views against closed forms; what is observed against the model's own outputs; page and errors."""

import csv
import json
import re

import keras
import numpy as np
import pytest

from acdbit_keras import models
from acdbit_keras.models import data
from acdbit_keras.studies import subjects
from acdbit_keras.studies.visualize import measures
from acdbit_keras.studies.visualize.observation import observe

# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.any_backend
def test_divergence_of_histograms():
    sample = np.random.default_rng(0).standard_normal(1000)
    assert measures.jensen_shannon(sample, sample[::-1], -4, 4) == 0
    assert measures.jensen_shannon(np.zeros(9), np.ones(9), 0, 1) == 1
    # p = (1, 0), q = (1/2, 1/2): half of log2(4/3), and a quarter of log2(2/3) + log2(2).
    expected = np.log2(4 / 3) / 2 + (np.log2(2 / 3) + 1) / 4
    assert measures.jensen_shannon(np.zeros(10), np.tile([0, 1], 5), 0, 1, bins=2) == pytest.approx(expected)
    assert measures.jensen_shannon(sample, sample + 1, -4, 4) == measures.jensen_shannon(sample + 1, sample, -4, 4) > 0


@pytest.mark.any_backend
def test_transport():
    sample = np.random.default_rng(0).standard_normal(1000)
    assert measures.transport(sample, sample + 0.5) == pytest.approx(0.5)
    # A standard normal to its signs, E||z| - 1| = E|z| - 1 + 2 E(1 - |z|)+, as the order is kept on each side.
    half = np.abs(np.random.default_rng(1).standard_normal(200_000))
    symmetric = np.concatenate([half, -half])
    expected = 0.7978846 - 1 + 4 * (0.3413447 - (0.3989423 - 0.2419707))
    assert measures.transport(symmetric, np.sign(symmetric)) == pytest.approx(expected, abs=0.005)


@pytest.mark.any_backend
def test_eigen_cam():
    rng = np.random.default_rng(0)
    u, v = rng.random((5, 7)), rng.standard_normal(16)
    cam, explained = measures.eigen_cam(u[..., None] * v)
    np.testing.assert_allclose(cam, (u - u.min()) / (u.max() - u.min()), atol=1e-9)
    assert explained == pytest.approx(1)
    flipped, _ = measures.eigen_cam(-u[..., None] * v)
    np.testing.assert_allclose(flipped, cam, atol=1e-9)
    still, nothing = measures.eigen_cam(np.ones((5, 7, 16)))
    assert not still.any() and nothing == 0


@pytest.mark.any_backend
def test_attention_error_and_neighbours():
    p = np.random.default_rng(0).random((2, 3, 4, 5))
    np.testing.assert_array_equal(measures.attention_error(p, p), np.zeros((2, 3)))
    np.testing.assert_allclose(measures.attention_error(p, 0 * p), 1)
    np.testing.assert_allclose(measures.attention_error(p, 1.5 * p), 0.5)
    features = np.array([[1.0, 0.1], [5.0, 0.2], [0.1, 1.0], [0.1, 9.0]])
    assert measures.neighbour_agreement(features, np.array([0, 0, 1, 1])) == 1
    assert measures.neighbour_agreement(features, np.array([0, 1, 0, 1])) == 0


# --- observation ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A float, a baseline and an aligned model, untrained but with the running statistics of some batches."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(3)
    images = data.normalize(data.arrays("digits", "train")[0], "digits")
    for scheme in ("float32", "binary_vit", "acd_bit"):
        model = models.build("vit_nano_patch2_8", scheme, classes=10, depth=2)
        for start in range(0, 640, 64) if scheme == "acd_bit" else ():
            model(images[start : start + 64], training=True)
        model.save(folder / f"{scheme}.keras")
    return folder


@pytest.mark.parametrize("scheme", ["float32", "acd_bit"])
def test_what_is_observed_is_what_the_model_computes(scheme, saved):
    subject = subjects.KerasSubject(saved / f"{scheme}.keras", scheme, "digits")
    pixels, _ = subjects.pixels_of("digits", 8, 10)
    seen = observe(subject, pixels, pictures=3, batch_size=4)
    outputs = subject.model(data.normalize(pixels, "digits"), training=False, return_taps=True)
    last = keras.ops.convert_to_numpy(outputs["taps"][-1]["features"])
    np.testing.assert_allclose(seen.logits, keras.ops.convert_to_numpy(outputs["logits"]), atol=1e-4)
    np.testing.assert_allclose(seen.features, last.mean(axis=(1, 2)), atol=1e-4)
    np.testing.assert_allclose(seen.tokens, last[:3], atol=1e-4)
    assert [attention.block for attention in seen.attentions] == ["block_0", "block_1"]
    for attention, taps in zip(seen.attentions, outputs["taps"]):
        softmax, code = attention.shown
        np.testing.assert_allclose(softmax.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_allclose(code, keras.ops.convert_to_numpy(taps["probabilities"])[:3], atol=1e-6)
        errors = np.concatenate(attention.errors)
        assert errors.shape == (10, 2)
        if scheme == "float32":
            assert not errors.any() and np.concatenate(attention.kept).mean() == 1
        else:
            expected = np.linalg.norm(softmax - code, axis=(-2, -1)) / np.linalg.norm(softmax, axis=(-2, -1))
            np.testing.assert_allclose(errors[:3], expected, rtol=1e-4)
    # Six products, query, key, value and probabilities, in each of two blocks.
    assert len(seen.places) == 20
    assert [place.name for place in seen.places[:7]] == [
        "query input", "key input", "value input", "query", "key", "value", "probabilities",
    ]  # fmt: skip
    assert seen.is_binary == (scheme == "acd_bit")


def test_balance_and_error_of_a_tensor_of_signs(saved):
    subject = subjects.KerasSubject(saved / "acd_bit.keras", "acd_bit", "digits")
    pixels, _ = subjects.pixels_of("digits", 8, 10)
    [place] = [p for p in observe(subject, pixels, pictures=1).places if (p.block, p.name) == ("block_1", "query")]
    outputs = subject.model(data.normalize(pixels, "digits"), training=False, return_taps=True)
    query = outputs["taps"][1]["query"]
    code = subject.model.blocks[1].attention.query_quantizer(query, training=False)
    real, decoded, signs = (keras.ops.convert_to_numpy(x) for x in (query, code.decode(), code.signs))
    facts = place.facts
    assert facts["values"] == real.size
    assert facts["p_plus"] == pytest.approx((signs > 0).mean(), abs=2e-3)
    assert facts["p_plus_at_zero"] == pytest.approx((real >= 0).mean(), abs=2e-3)
    assert facts["relative_error"] == pytest.approx(np.linalg.norm(real - decoded) / np.linalg.norm(real), rel=1e-2)
    # Alignment is for this: the code lies closer to the float values than the bare signs do.
    assert facts["distance_of_code"] < facts["distance_of_signs"]
    kept, restored, bare = place.samples
    assert len(kept) == len(restored) == len(bare) and set(np.unique(bare)) == {-1.0, 1.0}


# --- page -----------------------------------------------------------------------------------------------------------


def test_the_five_views_and_the_page(saved, tmp_path, capsys):
    from acdbit_keras.cli import main

    paths = [str(saved / f"{scheme}.keras") for scheme in ("float32", "binary_vit", "acd_bit")]
    arguments = [
        "visualize",
        *paths,
        "--dataset",
        "digits",
        "--out",
        str(tmp_path / "views"),
        "--samples",
        "30",
        "--pictures",
        "3",
    ]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    folder = tmp_path / "views"
    assert printed == json.loads((folder / "results.json").read_text())
    wanted = {"alignment", "tsne", "eigen_cam", "attention_error"}
    wanted |= {f"{view}_{scheme}" for view in ("distributions", "attention") for scheme in ("float32", "binary_vit", "acd_bit")}
    assert wanted <= {name.removesuffix(".png") for name in printed["pictures"]}
    text = (folder / "index.html").read_text()
    for name in printed["pictures"]:
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert text.count("data:image/png;base64,") == len(printed["pictures"]) == text.count("<figcaption>")
    assert not re.search(r'(src|href)="(?!data:|#)', text), "the page must need nothing from outside"
    floats, baseline, aligned = printed["models"]
    assert floats["divergence_of_code"] is None and floats["attention_error"] is None
    # The bare sign is the baseline's code.
    assert baseline["divergence_of_code"] == baseline["divergence_of_signs"]
    assert aligned["distance_of_code"] < aligned["distance_of_signs"] and 0 < aligned["attention_error"]
    for model in printed["models"]:
        assert f"{model['accuracy']:.1%}" in text
    rows = list(csv.DictReader((folder / "layers.csv").open(newline="")))
    assert len(rows) == 3 * 20 and {row["model"] for row in rows} == {"float32", "binary_vit", "acd_bit"}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (["--samples", "2"], "samples must be an integer of at least 3"),
        (["--samples", "356"], "samples must be from 1 to 355"),
        (["--pictures", "0"], "pictures must be an integer from 1 to 12"),
        (["--dataset", "digitz"], "did you mean 'digits'"),
    ],
)
def test_bad_input(changes, sentence, saved, tmp_path, capsys):
    from acdbit_keras.cli import main

    arguments = ["visualize", str(saved / "float32.keras"), "--out", str(tmp_path / "views"), "--dataset", "digits"]
    assert main([*arguments, *changes]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "views").exists()


@pytest.mark.parametrize(
    "model, dataset, sentence",
    [
        (lambda: models.ConvolutionalNetwork(image_size=8, channels=1, widths=(8,)), "digits", "a has no blocks to look into: "),
        (lambda: models.SequenceTransformer("float32", 6, width=32, depth=1), "movements", "a takes recordings, which no view"),
    ],
)
def test_a_model_that_no_view_shows(model, dataset, sentence, tmp_path, capsys):
    from acdbit_keras.cli import main

    model().save(tmp_path / "a.keras")
    words = [str(tmp_path / "a.keras"), "--out", str(tmp_path / "views"), "--dataset", dataset, "--samples", "8"]
    assert main(["visualize", *words]) == 2
    assert f"acdbit: {sentence}" in capsys.readouterr().err
    assert not (tmp_path / "views").exists()


def test_a_file_has_no_inside(tmp_path, capsys):
    from acdbit_keras.cli import main

    (tmp_path / "a.tflite").touch()
    assert main(["visualize", str(tmp_path / "a.tflite"), "--out", str(tmp_path / "views"), "--dataset", "digits"]) == 2
    assert "name the Keras model it was converted from" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["robustness", "visualize"])
def test_both_commands_explain_themselves(command, capsys):
    from acdbit_keras.cli import main

    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert "--json" in capsys.readouterr().out
