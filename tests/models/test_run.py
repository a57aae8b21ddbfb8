"""What a run's folder says about the run, whatever state it was left in."""

import pytest

from acdbit_keras.models import recipes
from acdbit_keras.models.run import Run

RECIPE = recipes.get("digits_acd_bit").replace(seed=5)

pytestmark = pytest.mark.any_backend


def test_a_folder_without_a_run_says_how_one_is_made(tmp_path):
    run = Run(tmp_path / "nowhere")
    assert not run.exists and not run.is_finished and run.trained_path is None and run.history == []
    with pytest.raises(ValueError, match="nowhere is not a run: it has no recipe.json; `acdbit train RECIPE --out .*nowhere`"):
        _ = run.recipe


def test_an_unfinished_run_says_how_it_goes_on(tmp_path):
    run = Run(tmp_path / "run")
    run.write_recipe(RECIPE)
    assert run.exists and not run.is_finished and run.recipe == RECIPE
    with pytest.raises(ValueError, match="is not finished; `acdbit train digits_acd_bit --out .*run` goes on with it"):
        _ = run.result
    run.write_result({"accuracy": 0.5})
    assert run.is_finished and run.result == {"accuracy": 0.5}


def test_the_model_of_the_last_epoch_is_taken_before_the_best_one(tmp_path):
    run = Run(tmp_path)
    run.best_path.touch()
    assert run.trained_path == run.best_path
    run.model_path.touch()
    assert run.trained_path == run.model_path


def test_the_run_around_a_file_is_that_of_its_folder(tmp_path):
    run = Run(tmp_path)
    run.best_path.touch()
    assert Run.around(tmp_path).folder == Run.around(run.best_path).folder == tmp_path


def test_epochs_that_will_be_run_again_leave_the_history(tmp_path):
    run = Run(tmp_path)
    run.history_path.write_text("epoch,loss\n0,1.0\n1,0.5\n2,0.25\n")
    assert run.finished_epochs == 3
    run.forget_epochs_from(1)
    assert run.history == [{"epoch": "0", "loss": "1.0"}]


@pytest.mark.parametrize(
    "text, said", [("{", "truncated or not JSON"), ('{"name": "a", "colour": 3}', "not a recipe of this version")]
)
def test_a_recipe_that_cannot_be_read_is_named(tmp_path, text, said):
    run = Run(tmp_path)
    run.recipe_path.write_text(text)
    with pytest.raises(ValueError, match=f"recipe.json is {said}"):
        _ = run.recipe
