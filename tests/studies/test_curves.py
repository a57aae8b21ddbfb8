"""Learning curves: hours add up over stages, and what has no history is named."""

import json

import pytest

from acdbit_keras.models import recipes
from acdbit_keras.models.run import Run
from acdbit_keras.studies import curves

RECIPE = "cifar10_mini_acd_bit"


def make_run(folder, accuracies, seconds=1800.0, recipe=RECIPE):
    folder.mkdir()
    run = Run(folder)
    run.write_recipe(recipes.get(recipe))
    rows = ["epoch,accuracy,images_per_second,loss,seconds,val_accuracy,val_loss"]
    rows += [f"{epoch},0.5,{50000 / seconds},1.0,{seconds},{value},1.0" for epoch, value in enumerate(accuracies)]
    run.history_path.write_text("\n".join(rows) + "\n")
    return str(folder)


def test_hours_add_up_over_stages(tmp_path):
    first, second = make_run(tmp_path / "first", [0.5, 0.6]), make_run(tmp_path / "second", [0.7, 0.65], seconds=3600.0)
    results = curves.run([first, f"{first}+{second}"], tmp_path / "out")
    alone, both = results["trainings"]
    assert alone["curve"] == [[0.5, 50.0], [1.0, 60.0]]
    assert both["curve"] == [[0.5, 50.0], [1.0, 60.0], [2.0, 70.0], [3.0, 65.0]]
    assert (both["name"], both["epochs"], both["hours"]) == ("second", 4, 3.0)
    assert (both["top1"], both["best_top1"]) == (65.0, 70.0)
    assert results["marks"]["paper: ACD-BiT"] == 89.72
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert "| second | `vit_mini_pooled4_32` | 4 |" in (tmp_path / "out" / "costs.md").read_text()
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_accuracy_of_a_run_that_held_images_out_is_that_of_the_test_images(tmp_path):
    folder = make_run(tmp_path / "run", [0.5, 0.9])
    Run(folder).write_result({"accuracy": 0.7, "validation_accuracy": 0.9})
    [training] = curves.run([folder], tmp_path / "out")["trainings"]
    assert (training["top1"], training["best_top1"], training["curve"][-1][1]) == (70.0, 90.0, 90.0)


def test_bad_subjects_are_refused_before_anything_is_written(tmp_path):
    run, empty = make_run(tmp_path / "run", [0.5]), make_run(tmp_path / "empty", [])
    other = make_run(tmp_path / "other", [0.5], recipe="digits_teacher")
    for subjects, sentence in (
        ([], "name at least one model"),
        ([empty], "empty has no history of its training"),
        ([run, other], "curves of one figure must be of one dataset, not of cifar10 and digits"),
        ([str(tmp_path / "nothing")], "is not a run"),
    ):
        with pytest.raises(ValueError, match=sentence):
            curves.run(subjects, tmp_path / "out")
    assert not (tmp_path / "out").exists()
