"""Bad input on the command line: exit status 2, one line on standard error, nothing half-written."""

import dataclasses
import re

import numpy as np
import pytest

from acdbit_keras.cli import main
from acdbit_keras.models import data
from acdbit_keras.models.data import sources


@pytest.fixture
def broken_files(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage.tflite").write_bytes(np.random.default_rng(0).bytes(4096))
    (tmp_path / "truncated.keras").write_bytes(b"PK\x03\x04" + bytes(200))
    (tmp_path / "text.png").write_text("not a picture")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["train"], "train needs a recipe; known: "),
        (["train", "digits_teecher"], "did you mean 'digits_teacher'"),
        (["train", "digits_teacher", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["train", "digits_teacher", "--set", "epochs=many"], "epochs must be of type int, not 'many'"),
        (["train", "digits_teacher", "--set", "epochs"], "key=value"),
        (["train", "digits_teacher", "--set", "scheme=acd_bitt"], "did you mean 'acd_bit'"),
        (["train", "digits_teacher", "--set", "preset=vit_nano"], "unknown preset 'vit_nano'"),
        (["train", "digits_teacher", "--set", "dataset=digitz"], "did you mean 'digits'"),
        (["train", "digits_teacher", "--set", "image_size=9"], "image_size=9 is not divisible by patch_size=2"),
        (["train", "cifar10_small_teacher", "--data-dir", "{folder}/empty"], "acdbit data prepare cifar10 --data-dir"),
        (["train", "digits_teacher", "--out", "/dev/null/run"], "/dev/null/run"),
        (["train", "digits_teacher", "--devices", "64"], "devices=64, but there is 1: CPU:0"),
        (["evaluate", "{folder}/none.keras", "--dataset", "digits"], "there is no file"),
        (["evaluate", "{folder}/truncated.keras", "--dataset", "digits"], "truncated.keras"),
        (["evaluate", "{folder}/empty", "--data", "digits"], "holds no model.keras"),
        (["summary", "vit_nano_patch2_8:acd_bit:ten"], "PRESET:SCHEME"),
        (["convert", "vit_nano_patch2_8:acd_bit", "{folder}/empty/a.tflite", "--precision", "4bit"], "precision"),
        (["convert", "vit_nano_patch2_8:acd_bit", "{folder}/missing/a.tflite"], "missing"),
        (["verify", "{folder}/none.keras", "{folder}/garbage.tflite"], "there is no file"),
        (["bench", "{folder}/garbage.tflite"], "garbage.tflite"),
        (["bench", "{folder}/none.tflite"], "none.tflite"),
        (["bench", "{folder}/none.tflite", "--runs", "0"], "--runs must be an integer of at least 1, not 0"),
        (["bench", "--kernels", "--out", "{folder}/missing/a.json"], "there is no folder"),
        (["bench", "{folder}/none.tflite", "--plot", "{folder}/missing/a.png"], "there is no folder"),
        (["predict", "{folder}/garbage.tflite", "{folder}/text.png"], "garbage.tflite"),
        (
            ["predict", "{folder}/garbage.tflite", "{folder}/text.png", "--top", "0"],
            "--top must be an integer of at least 1, not 0",
        ),
        (["convert", "vit_nano_patch2_8:quant_noise_w8a8", "{folder}/empty/a.tflite"], "pass --dataset"),
        (["robustness", "{folder}/nowhere", "--out", "{folder}/empty/out"], "there is no file or folder"),
        (["visualize", "{folder}/nowhere", "--out", "{folder}/empty/out"], "there is no file or folder"),
        (["data", "prepare", "cifar11"], "did you mean 'cifar10'"),
        (["data", "prepare"], "data prepare needs a dataset"),
    ],
)
def test_bad_input_ends_with_one_clear_line(arguments, expected, broken_files, capsys, monkeypatch):
    monkeypatch.chdir(broken_files)
    before = sorted(broken_files.rglob("*"))
    status = main([argument.format(folder=broken_files) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("acdbit: ")]
    assert status == 2, captured
    assert len(lines) == 1 and expected in lines[0], captured.err
    assert sorted(broken_files.rglob("*")) == before, "something was left behind"


@pytest.mark.parametrize(
    "command", ["demo", "train", "evaluate", "summary", "convert", "verify", "bench", "predict", "zoo", "data"]
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_what_recordings_are_and_images_of_other_channels(capsys, monkeypatch):
    assert main(["data", "show", "movements"]) == 0
    shown = capsys.readouterr().out
    assert "readings  9 per time step" in shown and "size      128 time steps" in shown and "pixel" not in shown
    monkeypatch.setitem(sources.registry.registered, "cubes", dataclasses.replace(data.info("cifar10"), name="cubes", channels=5))
    assert main(["data", "show", "cubes"]) == 0
    assert "colour    5 channels" in capsys.readouterr().out


def test_lists(capsys):
    assert main(["train", "--list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "digits_acd_bit" in [row.split()[0] for row in rows]
    assert len({re.match(r"\S+ +", row).end() for row in rows}) == 1, "in columns"
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert "tiny_imagenet" in listed and "steps 128" in listed
