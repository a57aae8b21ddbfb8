"""Tables that are really made, of tiny runs: filled, gone on with after a kill, with a run that fails."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from outsiders import write_tfds

from acdbit_keras.cli import main
from acdbit_keras.models import build, recipes
from acdbit_keras.models.run import Busy, Run
from acdbit_keras.models.sizes import Preset, registry
from acdbit_keras.models.train import train
from acdbit_keras.models.vit import VisionTransformer
from acdbit_keras.studies import experiments
from acdbit_keras.studies.experiments import results as results_file
from acdbit_keras.studies.experiments import worker
from acdbit_keras.studies.experiments.plan import folder_name

tfds = pytest.importorskip("tensorflow_datasets")

# One block: nearly all the time of such runs is spent on tracing layers. Processes of their own do not know it.
PRESET = "one_block_8"
QUICK = dict(epochs=1, jit_compile=False, preset=PRESET)
RECIPE = recipes.get("digits_binary_vit").replace(**QUICK)
SETTINGS = ["--set", "epochs=1", "--set", "jit_compile=false", "--set", f"preset={PRESET}"]
COMPARISON = experiments.compare(RECIPE, ["binary_vit"], seeds=(0, 1))


class Here:
    """Performs tasks in this process, which has imported everything already, and keeps count."""

    def __init__(self):
        self.tasks = []

    def __call__(self, task, tick):
        self.tasks.append(task["task"])
        tick()
        return worker.perform(task)


@pytest.fixture(scope="module", autouse=True)
def preset():
    with pytest.MonkeyPatch.context() as patch:
        sizes = dict(image_size=8, patch_size=2, channels=1, width=32, depth=1, num_heads=1)
        patch.setitem(registry.registered, PRESET, Preset(PRESET, VisionTransformer, sizes))
        yield


@pytest.fixture(scope="module")
def teacher(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(recipes.get("digits_teacher").replace(**QUICK), folder, verbose=0)
    return folder


@pytest.fixture(scope="module")
def table(teacher, tmp_path_factory):
    """Folder of a comparison of one scheme with two seeds, its results, and the tasks that it took."""
    folder, here = tmp_path_factory.mktemp("table"), Here()
    results = experiments.run(COMPARISON, folder / "out", folder / "runs", teacher, execute=here)
    return folder, results, here.tasks


def test_a_comparison_leaves_results_tables_and_a_figure(table):
    folder, results, tasks = table
    assert tasks == ["prepare", "cell", "cell", "measure"]
    assert json.loads((folder / "out" / "results.json").read_text()) == results
    assert experiments.failures(results) == []
    for row in results["rows"]:
        assert row["summary"]["n"] == (1 if row["is_teacher"] else 2)
        assert 0 < row["summary"]["top1"]["mean"] <= row["summary"]["top5"]["mean"] <= 1
        assert row["file"]["bytes"] > 0 and row["file"]["median_ms"] > 0
    teacher, student = results["rows"]
    assert (teacher["file"]["precision"], student["file"]["precision"]) == ("float32", "bits")
    assert student["file"]["equal_argmax"] >= 0.99 and student["file"]["images"] == 355
    assert student["file"]["top1"] == pytest.approx(student["cells"][0]["test"]["top1"], abs=0.011), "four images of 355"
    assert student["cells"][0]["test"]["loss"] != student["cells"][1]["test"]["loss"], "another seed is another run"
    assert student["cells"][0]["cost"]["bit_macs"] > 0 == results["teacher"]["cost"]["bit_macs"]
    markdown = (folder / "out" / "table.md").read_text()
    assert "| BinaryViT | 2 | " in markdown and "paper" not in markdown
    rows = list(csv.DictReader((folder / "out" / "table.csv").open(newline="")))
    assert [row["key"] for row in rows] == ["float32", "binary_vit"]

    from PIL import Image

    assert Image.open(folder / "out" / "figure.png").size[0] > 1000


@pytest.mark.parametrize("command", ["compare", "ablate", "sweep"])
def test_data_are_looked_for_where_they_are_said_to_be(command, tmp_path, monkeypatch, capsys):
    features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": np.full((8, 8, 1), place, "uint8"), "label": place % 2} for place in range(10)]
    write_tfds(tmp_path, "elsewhere", features, {"train": examples})
    build(PRESET, "float32", 2).save(tmp_path / "teacher.keras")

    def run(experiment, *_, runs, teacher, data_dir, **__):
        [cell] = experiment.cells()[:1]
        answer = worker.perform(
            {
                "task": "prepare",
                "recipe": experiment.recipe.to_dict(),
                "rows": {"first": cell.recipe.to_dict()},
                "teacher": teacher,
                "runs": runs,
                "data_dir": data_dir,
            }
        )
        raise ValueError(answer.get("error") or f"tested on {answer['value']['test']['images']} images")

    monkeypatch.setattr(experiments, "run", run)
    words = [command, "digits_acd_bit@tfds:elsewhere", *SETTINGS, "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    main([*words, "--teacher", str(tmp_path / "teacher.keras")])
    assert capsys.readouterr().err.endswith("acdbit: tested on 2 images\n")


def test_a_run_of_a_table_is_the_run_that_train_makes(table):
    folder, results, _ = table
    cell = results["rows"][1]["cells"][1]
    run = folder / "runs" / "digits_binary_vit.cells" / cell["folder"]
    assert Run(run).recipe == RECIPE.replace(seed=1)
    assert json.loads((run / "result.json").read_text())["accuracy"] == pytest.approx(cell["test"]["top1"], abs=1e-6)


def test_a_finished_table_repeats_nothing(table, teacher):
    folder, results, _ = table
    here = Here()
    again = experiments.run(COMPARISON, folder / "out", folder / "runs", teacher, execute=here)
    assert here.tasks == [] and again == results


def test_another_table_takes_the_run_that_it_shares_and_survives_one_that_fails(table, teacher, tmp_path):
    folder, results, _ = table
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("history.csv")}
    rows = (experiments.Row("wild", "wild", {"learning_rate": 1e30, "warmup_epochs": 0.0}), experiments.Row("shared", "shared"))
    experiment = experiments.Experiment("sweep", RECIPE, rows, (0,))
    swept = experiments.run(experiment, tmp_path / "out", folder / "runs", teacher, execute=Here())
    [(title, what, error)] = experiments.failures(swept)
    assert (title, what) == ("wild", "seed 0") and error.startswith("the loss became ")
    assert f"Failed: wild, seed 0: {error}" in (tmp_path / "out" / "table.md").read_text()
    assert swept["rows"][1]["cells"][0]["test"] == results["rows"][1]["cells"][0]["test"]
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a run that two tables share is made once"
    tasks = []
    experiments.run(
        experiment, tmp_path / "out", folder / "runs", teacher, execute=lambda task, tick: tasks.append(task) or {"error": error}
    )
    assert [task["recipe"]["learning_rate"] for task in tasks] == [1e30], "what failed is tried again, what is finished is not"


def test_a_teacher_that_does_not_fit_is_told_before_anything_is_trained(teacher, tmp_path):
    here = Here()
    experiment = experiments.compare(RECIPE.replace(dataset="cifar10"), ["binary_vit"])
    with pytest.raises(ValueError, match="binary_vit cannot learn from the teacher .*run: the teacher takes images of shape"):
        experiments.run(experiment, tmp_path / "out", tmp_path / "runs", teacher, execute=here)
    assert here.tasks == ["prepare"] and not (tmp_path / "runs").exists()


def test_a_table_with_another_teacher_is_another_table(table, tmp_path):
    (tmp_path / "teacher.keras").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="is not the one that the table in .* was begun with"):
        experiments.run(COMPARISON, table[0] / "out", table[0] / "runs", tmp_path / "teacher.keras", execute=Here())


# --- In processes of their own --------------------------------------------------------------------------------------

LONG = experiments.Row("long", "long", {"epochs": 8})
SCRIPT = """
import sys
from acdbit_keras.models import recipes
from acdbit_keras.studies import experiments
recipe = recipes.get("digits_binary_vit").replace(epochs=1, jit_compile=False)
rows = experiments.Row("short", "short"), experiments.Row("long", "long", {"epochs": 8})
experiments.run(experiments.Experiment("sweep", recipe, rows, (0,)), *sys.argv[1:], stream=sys.stderr)
"""


def test_a_killed_table_goes_on_where_it_was(table, teacher, tmp_path):
    recipe = RECIPE.replace(preset="vit_nano_patch2_8")
    cells = table[0] / "runs" / f"{recipe.name}.cells"
    teachers = table[1]["teacher"]
    finished = {**table[1]["rows"][1]["cells"][0], "folder": folder_name(recipe, teachers["sha256"])}
    begun_table = results_file.start(experiments.Experiment("sweep", recipe, (experiments.Row("short", "short"), LONG), (0,)))
    begun_table["teacher"], begun_table["rows"][0]["cells"] = teachers, [finished]
    results_file.write(tmp_path / "results.json", begun_table)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(table[0] / "runs"), str(teacher)]
    known = {folder.name for folder in cells.iterdir()}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (
        long := next(
            (path.parent for path in cells.glob("*/state.npz") if path.parent.name not in known and history(path.parent)), None
        )
    ):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the long run never finished an epoch"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    worker_gone(long)
    assert not (long / "result.json").exists(), "killed too late to show anything"
    begun = history(long)
    assert 1 <= len(begun) < 8
    statuses = [row["cells"][0]["status"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]]
    assert statuses == ["finished", "waiting"], "the table is there, killed or not"

    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["cells"][0]["status"] for row in results["rows"]] == ["finished", "finished"]
    assert results["rows"][0]["cells"] == [finished] and "short" not in done.stderr, "the finished run is not repeated"
    assert "2 of 2  long, seed 0" in done.stderr
    rows = history(long)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(8)]
    assert rows[0] == begun[0], "the unfinished run is resumed, not begun again"


def history(folder):
    path = folder / "history.csv"
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def worker_gone(folder):
    """Waits until nobody trains into the folder: the worker leaves when the one who asked is gone."""
    deadline = time.monotonic() + 120
    descriptor = os.open(folder, os.O_RDONLY)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.close(descriptor)
        except BlockingIOError:
            assert time.monotonic() < deadline, "the worker outlived the table"
            time.sleep(0.05)


def test_a_worker_that_dies_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert worker.in_subprocess({"task": "cell"}) == {"error": "its process ended with status 1"}


def test_a_worker_killed_by_the_system_says_so(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert worker.in_subprocess({"task": "cell"})["error"].startswith(
        "its process was ended by signal 9, as a machine without memory"
    )


# --- Several at a time ----------------------------------------------------------------------------------------------


def seeds_of(tasks):
    return [task["recipe"]["seed"] for task in tasks if task["task"] == "cell"]


def test_jobs_train_side_by_side(table, teacher, tmp_path):
    experiment = experiments.compare(RECIPE, ["binary_vit"], seeds=(0, 1, 2, 3))
    together, seen = threading.Barrier(2), []

    def execute(task, tick):
        if task["task"] == "cell":
            seen.append(task)
            tick()
            together.wait(60)  # for another one, which runs at the same time
            return {"error": "not trained here"}
        return worker.perform(task)

    results = experiments.run(experiment, tmp_path / "out", tmp_path / "runs", teacher, execute=execute, jobs=2)
    assert sorted(seeds_of(seen)) == [0, 1, 2, 3]
    assert [what for _, what, _ in experiments.failures(results)] == ["seed 0", "seed 1", "seed 2", "seed 3"]


def test_what_ends_one_job_ends_the_others(teacher, tmp_path):
    begun = threading.Event()

    def execute(task, tick):
        if task["task"] != "cell":
            return worker.perform(task)
        if task["recipe"]["seed"] == 0:
            assert begun.wait(60)
            raise KeyboardInterrupt
        begun.set()
        while True:
            tick()
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        experiments.run(COMPARISON, tmp_path / "out", tmp_path / "runs", teacher, execute=execute, jobs=2)


def test_what_another_process_trains_comes_last_and_is_waited_for(teacher, tmp_path):
    seen = []

    def execute(task, tick):
        if task["task"] != "cell":
            return worker.perform(task)
        seen.append((task["recipe"]["seed"], task["waits"]))
        return {"busy": True} if task["recipe"]["seed"] == 0 and not task["waits"] else {"error": "not trained here"}

    experiments.run(COMPARISON, tmp_path / "out", tmp_path / "runs", teacher, execute=execute)
    assert seen == [(0, False), (1, False), (0, True)]


def test_a_run_in_the_hands_of_another_process_is_busy(tmp_path):
    folder = tmp_path / "run"
    task = {"task": "cell", "recipe": RECIPE.to_dict(), "folder": str(folder), "teacher": None, "runs": "runs", "data_dir": None}
    with worker._alone(folder):
        assert worker.perform({**task, "waits": False}) == {"busy": True}


@pytest.mark.parametrize("field", ["label_teacher", "start"])
def test_a_run_that_needs_one_in_the_hands_of_another_process_is_busy(field, teacher, tmp_path):
    recipe = recipes.get("digits_acd_bit").replace(**QUICK, **{field: "digits_teacher"})
    task = {"task": "cell", "recipe": recipe.to_dict(), "folder": str(tmp_path / "run"), "teacher": str(teacher)}
    with Run(tmp_path / "runs" / "digits_teacher").locked():
        assert worker.perform({**task, "runs": str(tmp_path / "runs"), "data_dir": None, "waits": False}) == {"busy": True}


def test_what_a_run_needs_is_waited_for(tmp_path, monkeypatch):
    needed, waited = Run(tmp_path / "needed"), []

    def train_(*_, **__):
        if not waited:
            raise Busy("process 1 is training in it", needed)
        return {"epochs": 1}

    monkeypatch.setattr("acdbit_keras.models.train.train", train_)
    monkeypatch.setattr(Run, "wait", lambda run: waited.append(run))
    assert worker._train(RECIPE, tmp_path / "run") == {"epochs": 1} and waited == [needed]


def test_a_run_is_waited_for_until_its_process_lets_go(tmp_path):
    run, order = Run(tmp_path / "run"), []
    run.wait()  # for nobody
    with run.locked():
        waiting = threading.Thread(target=lambda: (run.wait(), order.append("waited")))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        order.append("let go")
    waiting.join(60)
    assert order == ["let go", "waited"]


@pytest.mark.parametrize("visible", [["3", "5"], ["0", "1"]])
def test_jobs_share_the_gpus(visible, monkeypatch):
    monkeypatch.setattr(worker, "_gpus", lambda: visible)
    shares = [worker.environment_of(number, 3) for number in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == [visible[0], visible[1], visible[0]]
    assert {share["XLA_PYTHON_CLIENT_MEM_FRACTION"] for share in shares} == {"0.45"}
    assert worker.environment_of(0, 1) == {}


def test_without_gpus_jobs_share_the_processor(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert worker.environment_of(1, 3)["TF_NUM_INTRAOP_THREADS"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,4")
    assert worker.environment_of(1, 2)["CUDA_VISIBLE_DEVICES"] == "4"


# --- The command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["compare", "digits_acd_bit", "--schemes", "acd_bits"], "did you mean 'acd_bit'"),
        (["compare", "digits_acd_bit", "--schemes", "acd_bit", "--seeds"], "compare needs at least one seed"),
        (["compare", "digits_acd_bitt"], "did you mean 'digits_acd_bit'"),
        (["compare", "digits_teacher"], "is a recipe without teacher"),
        (["compare", "digits_acd_bit", "--set", "seed=3"], "--set seed= has no meaning in a table, --seeds say it"),
        (["ablate", "digits_acd_bit", "--grid", "thresholds"], "grid must be one of"),
        (["ablate", "digits_acd_bit", "--set", "scheme=bibert"], "--set scheme= has no meaning in a table"),
        (["sweep", "digits_acd_bit", "--forms", "directly"], "forms must be some of"),
        (["sweep", "digits_acd_bit", "--teacher", "{folder}/none.keras"], "there is no file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "in_subprocess", Here())
    assert main([*[argument.format(folder=tmp_path) for argument in arguments], "--out", "out"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("acdbit: ")]
    assert len(lines) == 1 and expected in lines[0]
    assert not list(tmp_path.rglob("*.*"))


def test_the_command_prints_its_table_and_says_if_a_run_failed(table, teacher, capsys, monkeypatch):
    folder, _, _ = table
    arguments = ["compare", "digits_binary_vit", "--schemes", "binary_vit", "--seeds", "0", "1", *SETTINGS]
    places = ["--teacher", str(teacher), "--runs", str(folder / "runs"), "--out"]
    assert main([*arguments, *places, str(folder / "out")]) == 0
    output = capsys.readouterr().out
    assert "| BinaryViT | 2 |" in output and "Command: `acdbit compare digits_binary_vit" in output
    assert f"--teacher {teacher} --runs {folder / 'runs'}" in output
    out = folder / "failed"
    monkeypatch.setattr(
        worker, "in_subprocess", lambda task, tick: worker.perform(task) if task["task"] == "prepare" else {"error": "broken"}
    )
    assert main([*arguments, *places, str(out)]) == 1
    output = capsys.readouterr().out
    assert "Failed: BinaryViT, seed 1: broken" in output and "Failed: ViT (teacher), file: broken" in output
    assert (out / "figure.png").exists()


@pytest.mark.parametrize("command", ["compare", "ablate", "sweep"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0 and "--seeds" in capsys.readouterr().out
