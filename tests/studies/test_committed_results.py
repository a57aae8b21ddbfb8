"""What lies in `results/` and in the zoo: its tables say what its numbers do, and its commands are commands."""

import dataclasses
import json
import pathlib
import re
import shlex

import pytest

from acdbit_keras import cli
from acdbit_keras.models import recipes, zoo
from acdbit_keras.studies import curves, experiments, report
from acdbit_keras.studies import zoo as zoo_study
from acdbit_keras.studies.experiments import figures, worker

RESULTS = pathlib.Path(__file__).parents[2] / "results"
TABLES = sorted(path.parent.name for path in RESULTS.glob("*/table.md"))
RECORDS = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("*/results.json"))


def read(path):
    return json.loads((RESULTS / path).read_text())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_its_results_give(name):
    results = read(f"{name}/results.json")
    assert (RESULTS / name / "table.md").read_text() == experiments.markdown(results) + "\n"
    assert (RESULTS / name / "table.csv").read_text() == experiments.comma_separated(results)


def experiment_of(results):
    """The experiment of a table, as its command makes it, without rows that its grid gained since."""
    options = cli._parser().parse_args(shlex.split(results["command"])[1:])
    recipe = recipes.get(results["recipe"]["name"])
    if results["kind"] == "compare":
        made = experiments.compare(recipe, options.schemes, options.seeds, options.leaders)
    else:
        made = experiments.ablate(recipe, options.grid, options.seeds)
    keys = {row["key"] for row in results["rows"]}
    return dataclasses.replace(made, rows=tuple(row for row in made.rows if row.key in keys))


def gone_on(results, tmp_path, monkeypatch):
    """A table that is asked for again, with nothing left to do."""
    (tmp_path / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr(worker, "is_complete", lambda teacher: True)
    monkeypatch.setattr(worker, "digest", lambda teacher: results["teacher"]["sha256"])
    monkeypatch.setattr(figures, "draw", lambda results, path: None)
    return experiments.run(experiment_of(results), tmp_path, tmp_path / "runs", execute=lambda *_: pytest.fail("nothing is left"))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_goes_on_with_its_own_experiment(name, tmp_path, monkeypatch):
    results = read(f"{name}/results.json")
    again = gone_on(results, tmp_path, monkeypatch)
    assert [row["cells"] for row in again["rows"]] == [row["cells"] for row in results["rows"]]
    assert [row["file"] for row in again["rows"]] == [row["file"] for row in results["rows"]]


def test_finished_runs_of_a_scheme_as_it_was_are_not_given_up(tmp_path, monkeypatch):
    results = read("ablation_cifar10/results.json")
    results["rows"][0]["cells"][0]["folder"] = "binary_vit-seed0-00000000"
    with pytest.raises(ValueError, match="holds runs of none .* its scheme as it was at the time; choose another"):
        gone_on(results, tmp_path, monkeypatch)
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/costs.md")))
def test_what_trainings_cost_is_what_their_results_give(name):
    assert (RESULTS / name / "costs.md").read_text() == curves.markdown(read(f"{name}/results.json"))


def test_the_report_is_what_its_results_give():
    assert (RESULTS / "cifar10_small" / "results.md").read_text() == report.markdown(read("cifar10_small/results.json")) + "\n"


@pytest.mark.parametrize("name", zoo.zoo_names())
def test_the_text_of_a_card_is_what_it_says(name):
    assert (zoo.entries.FOLDER / name / "card.md").read_text() == zoo_study.markdown(zoo.card(name)) + "\n"


def commands():
    """Every command of `acdbit` that made a result: those that files record, and those of the README of the results."""
    for path in RECORDS:
        if command := read(path).get("command"):
            yield command
    for block in re.findall(r"```\n(.*?)```", (RESULTS / "README.md").read_text(), flags=re.DOTALL):
        yield from (line for line in block.replace("\\\n", "").splitlines() if line.startswith("acdbit "))


def test_deit_s_in_a_browser_s_engine_takes_a_sixth_of_float32_and_its_compact_file_4_2_mb():
    found = read("web.json")
    times = found["milliseconds"]["vit_small_patch16_224"]
    assert times["float32 over bits"] == round(times["onnxruntime-web float32"] / times["acdbit"], 2) >= 6
    assert found["bytes"]["vit_small_patch16_224_compact.acdm"] <= 4_200_000


def test_there_are_commands_to_try():
    assert len(list(commands())) > 15


@pytest.mark.parametrize("command", list(commands()))
def test_a_recorded_command_is_one_that_the_command_line_takes(command):
    words = shlex.split(command.partition(" > ")[0], comments=True)
    assert cli._parser().parse_args(words[1:]).run
