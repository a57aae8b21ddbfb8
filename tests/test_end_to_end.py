"""The chain a user runs, through the command line: train, kill, resume, convert, verify, measure, predict."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from acdbit_keras.cli import main

pytestmark = pytest.mark.end_to_end

# Without XLA: the run is about the chain, not about speed, and compiling would take most of the time. TensorFlow's AddN
# then starts its sum with whichever input's buffer is free, so gradients are rounded as the operations happen to be
# scheduled, and equal runs need them one at a time. Compiled by XLA, which is the recipes' default, they are equal as is.
SETTINGS = ["--set", "jit_compile=false", "--set", "epochs=3"]


def run(capsys, *arguments):
    """Runs a command in this process; returns its exit status and its JSON value."""
    capsys.readouterr()
    status = main([*arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def history(folder):
    rows = list(csv.DictReader((folder / "history.csv").open(newline="")))
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A teacher, a student trained in one go, and the same student killed in the middle and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    common = [*SETTINGS, "--runs", str(folder), "--json"]
    assert main(["train", "digits_teacher", "--out", str(folder / "teacher"), *common]) == 0
    student = ["train", "digits_acd_bit", "--teacher", str(folder / "teacher"), *common, "--out"]
    command = [sys.executable, "-m", "acdbit_keras.cli", *student]
    options = dict(env={**os.environ, "TF_NUM_INTEROP_THREADS": "1"}, stdout=subprocess.DEVNULL, text=True)
    subprocess.run([*command, str(folder / "whole")], check=True, **options)

    process = subprocess.Popen([*command, str(folder / "killed")], stderr=subprocess.PIPE, **options)
    state = folder / "killed" / "state.npz"
    deadline = time.monotonic() + 300
    while not state.exists() or int(np.load(state)["finished_epochs"]) < 1:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the training never finished an epoch"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "killed" / "result.json").exists(), "killed too late to show anything"
    subprocess.run([*command, str(folder / "killed")], check=True, **options)
    return folder


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(runs):
    assert history(runs / "killed") == history(runs / "whole")
    assert [row["epoch"] for row in history(runs / "killed")] == ["0", "1", "2"]


def test_a_finished_run_is_not_repeated(runs, capsys):
    before = (runs / "whole" / "history.csv").stat().st_mtime_ns
    status, result = run(
        capsys, "train", "digits_acd_bit", *SETTINGS, "--teacher", str(runs / "teacher"), "--out", str(runs / "whole")
    )
    assert status == 0 and result["epochs"] == 3
    assert (runs / "whole" / "history.csv").stat().st_mtime_ns == before


def test_convert_verify_evaluate_predict_and_bench(runs, capsys, tmp_path):
    bits, floats, integers = (str(tmp_path / f"{name}.tflite") for name in ("bits", "float32", "int8"))
    student, teacher = str(runs / "killed"), str(runs / "teacher")

    status, report = run(capsys, "convert", student, bits)
    assert status == 0
    assert report["packed_layers"] == 3 * 6
    for path, precision in ((floats, "float32"), (integers, "int8")):
        assert run(capsys, "convert", teacher, path, "--precision", precision)[0] == 0

    status, parity = run(capsys, "verify", student, bits)
    assert status == 0 and parity["samples"] == 355 and parity["equal_argmax"] >= 0.999
    status, parity = run(capsys, "verify", str(runs / "whole"), bits)
    assert status == 0, "the resumed run is the same model"
    status, parity = run(capsys, "verify", teacher, bits, "--samples", "32")
    assert status == 1, "a file of another model must not pass"

    _, in_keras = run(capsys, "evaluate", student)
    _, in_bits = run(capsys, "evaluate", bits)
    assert in_keras["images"] == in_bits["images"] == 355
    assert in_bits["accuracy"] == pytest.approx(in_keras["accuracy"], abs=1 / 355)

    status, analysis = run(capsys, "summary", student)
    assert status == 0
    assert analysis["totals"]["file_bytes"] == pytest.approx(pathlib.Path(bits).stat().st_size, rel=0.05)

    status, timings = run(capsys, "bench", bits, floats, integers, "--runs", "5", "--no-profile")
    assert status == 0 and [row["file_bytes"] for row in timings] == [
        pathlib.Path(p).stat().st_size for p in (bits, floats, integers)
    ]

    from PIL import Image
    from sklearn.datasets import load_digits

    picture = tmp_path / "zero.png"
    pixels = load_digits().images[0] * 15.9375
    Image.fromarray(pixels.astype("uint8")).save(picture)
    deep = tmp_path / "deep.png"
    Image.fromarray(pixels.astype("uint8").astype("uint16") * 257).save(deep)
    status, answers = run(capsys, "predict", bits, str(picture), str(deep))
    assert answers[0]["classes"] == answers[1]["classes"], "16 bits a pixel are scaled, not cut off"
    assert status == 0 and len(answers[0]["classes"]) == 3
    total = sum(row["probability"] for row in run(capsys, "predict", bits, str(picture), "--top", "10")[1][0]["classes"])
    assert total == pytest.approx(1.0, abs=1e-5)


def test_report_gathers_runs_into_one_folder(runs, capsys, tmp_path):
    out = tmp_path / "results"
    status, results = run(capsys, "report", str(out), str(runs / "teacher"), str(runs / "whole"), "--samples", "32")
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.png",
        "digits_acd_bit.csv",
        "digits_teacher.csv",
        "results.json",
        "results.md",
    ]
    assert json.loads((out / "results.json").read_text()) == results
    student = results["runs"]["digits_acd_bit"]
    assert student["test"]["accuracy"] == pytest.approx(student["training"]["accuracy"], abs=1e-6)
    assert student["files"]["bits"]["parity"]["ok"] and student["files"]["bits"]["parity"]["samples"] == 32
    assert set(results["runs"]["digits_teacher"]["files"]) == {"float32", "dynamic", "int8"}
    assert student["files"]["bits"]["bytes"] < results["runs"]["digits_teacher"]["files"]["float32"]["bytes"]


def test_the_demo_makes_its_table_and_pictures(runs, tmp_path, capsys):
    # The demo does not repeat training that is finished; what training does is shown above.
    for run_folder, recipe in (("teacher", "digits_teacher"), ("whole", "digits_acd_bit")):
        shutil.copytree(runs / run_folder, tmp_path / "demo" / recipe)
    status, report = run(capsys, "demo", "--out", str(tmp_path / "demo"), *SETTINGS)
    assert status == 0
    assert set(report["models"]) == {"float32", "int8", "bits"}
    assert report["parity"]["ok"] and report["parity"]["samples"] == 355
    assert report["models"]["bits"]["accuracy"] == pytest.approx(report["student_accuracy"], abs=1 / 355)

    from PIL import Image

    for picture in report["pictures"]:
        assert Image.open(picture).size[0] > 800
    from acdbit_keras.studies.demo import table

    assert "student, 1 bit" in table(report)
    status, [answer] = run(capsys, "predict", report["models"]["bits"]["file"], report["digit"], "--top", "10")
    assert status == 0 and len(answer["classes"]) == 10 and f"predict {report['models']['bits']['file']} " in table(report)
