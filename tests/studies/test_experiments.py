"""Experiments as plans, and their tables from hand-made results; nothing is trained here."""

import csv
import io
import json

import keras
import pytest

from acdbit_keras import quantizers, schemes
from acdbit_keras.distillation import LabelDistillation
from acdbit_keras.models import data, recipes
from acdbit_keras.models.data import sources
from acdbit_keras.studies import experiments, progress
from acdbit_keras.studies.experiments import paper, plan, worker
from acdbit_keras.studies.experiments import results as results_file

pytestmark = pytest.mark.any_backend

DIGITS = recipes.get("digits_acd_bit")
CIFAR10 = recipes.get("cifar10_small_acd_bit")


def filled(experiment, scores):
    """Results as if run: `scores` maps a row's key to the top-1 of its seeds, `None` for a run that failed."""
    results = results_file.start(experiment)
    cost = {"parameters": 1000, "packed_bytes": 500, "bit_macs": 2_000_000, "float_macs": 300_000}
    results["teacher"] = {
        "folder": "runs/t",
        "sha256": "0" * 64,
        "test": {"top1": 0.9, "top5": 0.99},
        "cost": {**cost, "bit_macs": 0},
    }
    for row in results["rows"]:
        for cell, top1 in zip(row["cells"], scores.get(row["key"], ())):
            found = {"status": "failed", "error": "the loss became nan"}
            if top1 is not None:
                found = {"status": "finished", "test": {"top1": top1, "top5": top1 + 0.1}, "cost": cost}
            cell.update(found)
    return results


def lines(table):
    """The table's rows as dicts."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


# --- Plans ----------------------------------------------------------------------------------------------------------


def test_a_comparison_is_every_scheme_with_every_seed():
    experiment = experiments.compare(DIGITS, ["acd_bit", "float32", "binary_vit"], seeds=(3, 1))
    assert [(cell.row.key, cell.seed) for cell in experiment.cells()] == [
        ("acd_bit", 3),
        ("binary_vit", 3),
        ("acd_bit", 1),
        ("binary_vit", 1),
    ]
    assert all(cell.recipe == DIGITS.replace(scheme=cell.row.key, seed=cell.seed) for cell in experiment.cells())
    assert experiment.rows[0].is_teacher, "float32 is the teacher itself, which is not trained for each seed"


def test_only_the_leaders_have_every_seed():
    experiment = experiments.compare(DIGITS, ["xnor_net", "acd_bit"], seeds=(3, 1, 2), leaders=["acd_bit"])
    assert [(cell.row.key, cell.seed) for cell in experiment.cells()] == [
        ("xnor_net", 3),
        ("acd_bit", 3),
        ("acd_bit", 1),
        ("acd_bit", 2),
    ]
    results = filled(experiment, {"xnor_net": [0.5], "acd_bit": [0.6, 0.7, 0.8]})
    assert [row["seeds"] for row in lines(experiments.markdown(results))] == ["1", "1", "3"]


def test_by_default_every_scheme_is_compared_in_the_papers_order():
    names = [row.key for row in experiments.compare(DIGITS).rows]
    assert set(names) == set(schemes.names())
    assert [name for name in names if name in paper.COMPARISON] == [name for name in paper.COMPARISON if name in names]


def test_the_ablation_is_alignment_times_correction():
    cells = {cell.row.key: cell.recipe for cell in experiments.ablate(DIGITS, seeds=(0,)).cells()}
    assert cells["none"] == DIGITS.replace(scheme="binary_vit")
    assert cells["Da"] == DIGITS.replace(label_weight=1.0, query_key_weight=0.0)
    assert cells["Dc"] == DIGITS.replace(scheme="binary_vit", label_weight=0.9, query_key_weight=0.1, query_key_form="gram")
    assert cells["Da+Dc"] == DIGITS


def test_weights_of_the_recipe_are_those_of_the_correction_alone():
    recipe = DIGITS.replace(label_weight=0.7, query_key_weight=0.3, query_key_form="direct")
    cells = {cell.row.key: cell.recipe for cell in experiments.ablate(recipe, seeds=(0,)).cells()}
    assert cells["none"] == DIGITS.replace(scheme="binary_vit")
    assert cells["Da"] == DIGITS.replace(label_weight=1.0, query_key_weight=0.0)
    assert cells["Dc"] == recipe.replace(scheme="binary_vit")
    assert cells["Da+Dc"] == recipe


def test_the_grids_vary_one_part_of_alignment():
    rows = experiments.ablate(DIGITS, "threshold", seeds=(0,)).rows
    others = ["shifted_median", "mean", "learned"]
    assert [row.key for row in rows] == ["none", *(f"{name}/frozen/channel" for name in ["median", *others])]
    assert [row.changes["scheme"] for row in rows[1:]] == ["acd_bit", *(f"acd_bit[threshold={name}]" for name in others)]
    for cell in experiments.ablate(DIGITS, "axis", seeds=(0,)).cells():
        weights = (cell.recipe.label_weight, cell.recipe.query_key_weight)
        assert weights == ((None, None) if cell.row.key == "none" else (1.0, 0.0)), "labels alone, in every row"


def test_the_grid_of_bits_leaves_parts_real():
    cells = {cell.row.key: cell.recipe for cell in experiments.ablate(DIGITS, "bits", seeds=(0,)).cells()}
    assert list(cells) == ["none", "weights real", "activations real", "attention real", "all real"]
    for key, recipe in cells.items():
        scheme = schemes.get(recipe.scheme)
        bits = [scheme.quantizer(place).is_binary for place in ("weight", "activation", "hidden", "query", "probabilities")]
        part, whole = key.split()[0], {"weights": [0], "activations": [1, 2], "attention": [3, 4], "all": range(5), "none": []}
        assert bits == [index not in whole[part] for index in range(5)]
        assert recipe.query_key_weight is None and scheme.block == "binary"


def test_the_grid_of_parts_gives_back_one_part_at_a_time_with_and_without_learned_shifts():
    experiment = experiments.ablate(DIGITS, "parts", seeds=(0,))
    found = {cell.row.key: schemes.get(cell.recipe.scheme) for cell in experiment.cells()}
    assert len(found) == 12 and [not scheme.shifts for scheme in found.values()] == ["without shifts" in key for key in found]
    assert sum(scheme.shifts for scheme in found.values()) == 6
    paper = {cell.row.key: cell.recipe for cell in experiments.ablate(DIGITS, seeds=(0,)).cells()}
    whole = {cell.row.key: cell.recipe for cell in experiment.cells()}
    assert whole["none"] == paper["none"] and whole["Da"] == paper["Da"], "runs that both tables share"
    ends = {"threshold": "learned", "scale": None, "restore": "off", "center": "mean"}
    for part, end in ends.items():
        for behind in ("", ", without shifts"):
            scheme = found[f"Da, {part} of BinaryViT{behind}"]
            quantizer, weight = scheme.quantizer("query"), scheme.quantizer("weight")
            own = dict(threshold=quantizer.threshold, scale=quantizer.scale, restore=quantizer.restore, center=weight.center)
            expected = dict(threshold="median", scale="mad", restore="frozen", center="median") | {part: end}
            if behind and part == "threshold":
                expected["threshold"] = None
            assert own == expected
    assert all({first, second} <= set(found) for first, second in experiment.contrasts)


def test_the_grid_of_forms_takes_back_what_binds_and_shares_the_runs_of_other_grids():
    experiment = experiments.ablate(DIGITS, "forms", seeds=(0,))
    cells = {cell.row.key: cell.recipe for cell in experiment.cells()}
    schemes_of = {key: schemes.get(recipe.scheme) for key, recipe in cells.items() if key != "none"}
    said = [(scheme.quantizer("query").threshold, scheme.quantizer("weight").center) for scheme in schemes_of.values()]
    assert said == [("median", "median"), ("median", "mean"), ("shifted_median", "mean"), ("learned", "mean")]
    parts = {cell.row.key: cell.recipe for cell in experiments.ablate(DIGITS, "parts", seeds=(0,)).cells()}
    assert all(cells[key] == parts[key] for key in ("none", "Da", "Da, center of BinaryViT"))
    assert experiment.contrasts == tuple((key, "Da") for key in list(cells)[2:])


def test_the_crossed_grid_skips_what_has_no_meaning_and_says_why():
    experiment = experiments.ablate(DIGITS, "alignment", seeds=(0,))
    assert len(experiment.rows) == 1 + 4 * 3 * 3
    skipped = {row.key: row.skipped for row in experiment.rows if row.skipped}
    assert skipped["median/frozen/token"].startswith("the statistics of a token come from the input")
    assert "learned/dynamic/tensor" in skipped and "learned/dynamic/channel" not in skipped
    cells = experiment.cells()
    assert len(cells) == len(experiment.rows) - len(skipped)
    for cell in cells:
        scheme = schemes.get(cell.recipe.scheme)
        if cell.row.labels:
            assert {name: getattr(scheme.quantizer("activation"), name) for name in cell.row.labels} == cell.row.labels


def test_the_sweep_is_the_papers_weights_and_two_more_in_both_forms():
    experiment = experiments.sweep(DIGITS)
    pairs = [(cell.recipe.label_weight, cell.recipe.query_key_weight) for cell in experiment.cells()]
    assert set(paper.SWEEP) < {(row.changes["label_weight"], row.changes["query_key_weight"]) for row in experiment.rows}
    assert pairs.count((0.4, 0.6)) == 2 and pairs.count((1.0, 0.0)) == 1, "without the term its form makes no other run"
    assert len({plan.folder_name(cell.recipe, "") for cell in experiment.cells()}) == len(pairs) == 11


def test_the_other_reading_gives_the_first_weight_to_queries_and_keys():
    rows = {row.key: row for row in experiments.sweep(CIFAR10, forms=["gram"], readings=["label", "query_key"]).rows}
    assert rows["0.9/0.1 gram query-key first"].changes == {
        "label_weight": 0.1,
        "query_key_weight": 0.9,
        "query_key_form": "gram",
    }
    assert rows["0.9/0.1 gram query-key first"].paper == rows["0.9/0.1 gram"].paper == {"top1": 89.72, "top5": 99.67}
    assert rows["1/0 gram query-key first"].skipped == "without a term on the labels the classifier is not trained"


def test_equal_runs_of_several_tables_are_one_run():
    compared = experiments.compare(DIGITS, ["acd_bit"]).cells()[0].recipe
    ablated = {cell.row.key: cell.recipe for cell in experiments.ablate(DIGITS, seeds=(0,)).cells()}
    swept = {cell.row.key: cell.recipe for cell in experiments.sweep(DIGITS).cells()}
    assert compared == ablated["Da+Dc"] == swept["0.9/0.1 gram"]
    assert ablated["Da"] == swept["1/0"]


def test_folders_are_named_after_what_a_run_is():
    name = plan.folder_name(DIGITS, "a")
    assert name.startswith("acd_bit-seed0-")
    assert name == plan.folder_name(DIGITS.replace(name="other"), "a")
    others = [DIGITS.replace(epochs=3), DIGITS.replace(seed=1), DIGITS.replace(scheme="acd_bit[threshold=mean]")]
    assert len({name, plan.folder_name(DIGITS, "b"), *(plan.folder_name(other, "a") for other in others)}) == 5


def test_a_folder_of_a_scheme_that_was_changed_since_is_not_taken(monkeypatch):
    names = {plan.folder_name(DIGITS, "a")}
    scheme = schemes.get("acd_bit")
    changed = [
        scheme.replace(probabilities=quantizers.ElasticBinary(0.005)),
        scheme.replace(distillation=(LabelDistillation(weight=1.0),)),
        scheme.replace(stages=(schemes.Stage("first", 0.5, {"probabilities": None}), schemes.Stage("second", 0.5))),
    ]
    for other in changed:
        monkeypatch.setattr(schemes, "get", lambda name, scheme=other: scheme)
        names.add(plan.folder_name(DIGITS, "a"))
    assert len(names) == 4
    monkeypatch.setattr(schemes, "get", lambda name: scheme.replace(title="called otherwise"))
    assert plan.folder_name(DIGITS, "a") in names


@pytest.mark.parametrize("name", schemes.names())
def test_the_definition_of_a_scheme_is_the_same_every_time(name):
    first = json.dumps(schemes.get(name).definition())
    quantizers.ElasticBinary(), quantizers.AlignedSign()  # which moves on the numbers in Keras' names
    assert json.dumps(schemes.get(name).definition()) == first


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: experiments.compare(DIGITS, ["acd_bit"], seeds=()), "compare needs at least one seed"),
        (lambda: experiments.compare(DIGITS, ["acd_bit"], seeds=(1, 1)), "seed 1 is given twice"),
        (lambda: experiments.compare(DIGITS, ["acd_bit"], seeds=(1, 0, 2, 0)), "seed 0 is given twice"),
        (
            lambda: experiments.compare(DIGITS, ["acd_bit"], leaders=["bit"]),
            "bit is a leader that is not compared; compared are acd_bit",
        ),
        (lambda: experiments.compare(DIGITS, ["acd_bit"], seeds=(-1,)), "a seed must be an integer of at least 0, not -1"),
        (lambda: experiments.compare(DIGITS, ["acd_bits"]), "unknown scheme 'acd_bits'; known: .*did you mean 'acd_bit'"),
        (lambda: experiments.compare(DIGITS, ["acd_bit", "acd_bit"]), "acd_bit is given twice"),
        (lambda: experiments.compare(DIGITS, ["float32"]), "compare needs at least one scheme besides the teacher"),
        (lambda: experiments.compare(recipes.get("digits_teacher")), "digits_teacher is a recipe without teacher"),
        (lambda: experiments.ablate(DIGITS, "all"), "grid must be one of 'paper', .* not 'all'"),
        (lambda: experiments.sweep(DIGITS, forms=["gramm"]), "forms must be some of 'gram', 'direct', not 'gramm'"),
        (lambda: experiments.sweep(DIGITS, readings=[]), "readings must be some of 'label', 'query_key', not none"),
        (
            lambda: experiments.sweep(DIGITS.replace(scheme="fq_vit_w8a4")),
            "fq_vit_w8a4 is not distilled from the teacher's labels",
        ),
        (
            lambda: experiments.sweep(DIGITS.replace(scheme="xnor_net")),
            "no weights to sweep; schemes that are: .*acd_bit.*binary_vit",
        ),
    ],
)
def test_bad_plans(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_a_dataset_with_one_class(monkeypatch):
    import dataclasses

    monkeypatch.setitem(sources.registry.registered, "ones", dataclasses.replace(data.info("digits"), name="ones", classes=1))
    with pytest.raises(ValueError, match="ones has one class, which every model predicts"):
        experiments.compare(DIGITS.replace(dataset="ones"), ["acd_bit"])


# --- Tables ---------------------------------------------------------------------------------------------------------


def test_mean_and_spread():
    assert results_file.spread([]) == {"mean": None, "sd": None, "se": None}
    assert results_file.spread([0.5]) == {"mean": 0.5, "sd": None, "se": None}
    found = results_file.spread([1.0, 2.0, 6.0])
    assert (found["mean"], found["sd"], found["se"]) == pytest.approx((3.0, 7**0.5, (7 / 3) ** 0.5))


def test_the_comparison_has_ours_and_the_papers_columns():
    results = filled(
        experiments.compare(CIFAR10, ["binary_vit", "acd_bit"], (0, 1, 2)), {"acd_bit": [0.70, 0.71, 0.75], "binary_vit": [0.6]}
    )
    facts = {
        "precision": "bits",
        "bytes": 470_000,
        "images": 1000,
        "equal_argmax": 0.999,
        "top1": 0.7012,
        "engine": "acdbit",
        "median_ms": 1.2345,
    }
    results_file.row(results, "acd_bit")["file"] = facts
    teacher, baseline, aligned = lines(experiments.markdown(results))
    assert (teacher["system"], teacher["seeds"], teacher["top-1 %"], teacher["bit-MACs 1e6"]) == (
        "ViT (teacher)",
        "1",
        "90.00",
        "0.00",
    )
    assert (baseline["seeds"], baseline["top-1 %"], baseline["file kB"], baseline["median ms"]) == ("1", "60.00", "-", "-")
    assert aligned["top-1 %"] == "72.00 ± 2.65" and aligned["top-5 %"] == "82.00 ± 2.65"
    assert (aligned["packed kB"], aligned["file kB"], aligned["file: top-1 %"]) == ("0.5", "470.0", "70.12")
    assert (aligned["bit-MACs 1e6"], aligned["other MACs 1e6"]) == ("2.00", "0.30")
    assert (aligned["median ms"], aligned["engine, form of the file"], aligned["class as Keras %"]) == (
        "1.234",
        "acdbit, bits",
        "99.9",
    )
    assert (aligned["paper: top-1 %"], aligned["paper: top-5 %"], aligned["paper: W/A"], aligned["paper: size MB"]) == (
        "89.72", "99.67", "1/1", "5.0",
    )  # fmt: skip


def test_the_papers_figures_stand_beside_their_own_dataset_only():
    assert "paper" not in experiments.markdown(filled(experiments.compare(DIGITS, ["acd_bit"]), {"acd_bit": [0.9]}))
    tiny = experiments.ablate(CIFAR10.replace(dataset="tiny_imagenet"))
    assert tiny.row("Da+Dc").paper == {"top1": 55.24, "top5": 77.57}
    assert experiments.compare(CIFAR10.replace(dataset="tiny_imagenet"), ["acd_bit"]).row("acd_bit").paper is None


def test_the_ablation_pairs_its_seeds():
    scores = {"none": [0.60, 0.70, 0.80], "Da": [0.61, 0.69, 0.84], "Dc": [0.62, None, 0.80], "Da+Dc": [0.65, 0.75]}
    results = filled(experiments.ablate(CIFAR10), scores)
    none, da, dc, both = lines(experiments.markdown(results))
    assert none["top-1 %"] == "70.00 ± 5.77", "standard error, not deviation"
    assert da["top-1 less none"] == "+1.33 ± 1.45 (2 of 3)"
    assert dc["seeds"] == "2" and dc["top-1 less none"] == "+1.00 ± 1.00 (1 of 2)", "only seeds that both rows have"
    assert both["top-1 less none"] == "+5.00 ± 0.00 (2 of 2)" and none["top-1 less none"] == "-"
    assert both["paper: top-1 less none"] == "+5.37"
    text = experiments.markdown(results)
    assert "Da+Dc less Da: +5.00 ± 1.00 (2 of 2) points of top-1." in text
    assert "Da+Dc less Dc: +3.00 points of top-1." in text
    assert "Failed: Dc, seed 1: the loss became nan" in text
    assert experiments.failures(results) == [("Dc", "seed 1", "the loss became nan")]


def test_skipped_rows_say_why():
    results = filled(experiments.ablate(DIGITS, "axis", seeds=(0,)), {})
    by_key = {line["alignment and correction"]: line for line in lines(experiments.markdown(results))}
    assert by_key["median/frozen/token"]["not trained, because"].startswith("the statistics of a token")
    assert by_key["median/frozen/token"]["top-1 %"] == "-" and by_key["median/frozen/tensor"]["axis"] == "tensor"


def test_the_csv_has_plain_numbers():
    results = filled(experiments.ablate(CIFAR10), {"none": [0.6, 0.7, 0.8], "Dc": [None]})
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(experiments.comma_separated(results)))}
    assert float(rows["none"]["top1_mean"]) == pytest.approx(0.7) and float(rows["none"]["top1_sd"]) == pytest.approx(0.1)
    assert rows["Da"]["top1_mean"] == "" and rows["Da"]["paper_top1"] == "87.61"
    assert rows["Dc"]["note"] == "the loss became nan"
    assert rows["none"]["bit_macs"] == "2000000"


def test_the_csv_has_the_costs_of_the_teacher_too():
    results = filled(experiments.compare(CIFAR10, ["acd_bit"]), {"acd_bit": [0.7]})
    teacher, _ = csv.DictReader(io.StringIO(experiments.comma_separated(results)))
    assert teacher["bit_macs"] == "0" and int(teacher["packed_bytes"]) > 0


# --- The results file -----------------------------------------------------------------------------------------------


def test_results_come_back(tmp_path):
    experiment = experiments.ablate(CIFAR10)
    results = filled(experiment, {"none": [0.6, 0.7, 0.8]})
    results_file.write(tmp_path / "results.json", results)
    assert results_file.read(tmp_path / "results.json", experiment) == json.loads(json.dumps(results))
    assert results_file.read(tmp_path / "other.json", experiment) is None


@pytest.mark.parametrize(
    "content, expected",
    [
        ('{"format": 99}', "has version 99 of the results format, this program reads version 1; choose another --out"),
        ("[]", "is not a results file of a table"),
        ("{", "is not a results file of a table"),
        ('{"format": 1}', "is not a results file of a table"),
        ('{"format": 1, "kind": "ablate", "recipe": {}, "teacher": null}', "is not a results file of a table"),
    ],
)
def test_results_of_another_version_are_refused(content, expected, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=expected):
        experiments.run(experiments.ablate(CIFAR10), tmp_path, execute=None)
    assert (tmp_path / "results.json").read_text() == content


def test_results_of_another_experiment_are_refused(tmp_path):
    path = tmp_path / "results.json"
    results_file.write(path, results_file.start(experiments.ablate(CIFAR10)))
    with pytest.raises(ValueError, match="holds the table of acdbit ablate, not of sweep"):
        results_file.read(path, experiments.sweep(CIFAR10))
    with pytest.raises(ValueError, match=r"holds a table of other settings \(epochs differ\)"):
        results_file.read(path, experiments.ablate(CIFAR10.replace(epochs=99)))


def test_fields_that_recipes_gained_or_lost_since(tmp_path):
    path, experiment = tmp_path / "results.json", experiments.ablate(CIFAR10)
    results = results_file.start(experiment)
    del results["recipe"]["floor"], results["recipe"]["schedule"]
    results_file.write(path, results)
    assert results_file.read(path, experiment) == json.loads(json.dumps(results))
    with pytest.raises(ValueError, match=r"holds a table of other settings \(floor differ\)"):
        results_file.read(path, experiments.ablate(CIFAR10.replace(floor=0.1)))
    results["recipe"]["gone"] = 1
    results_file.write(path, results)
    with pytest.raises(ValueError, match="of a recipe that this version cannot read .*'gone'.*; choose another --out"):
        results_file.read(path, experiment)


# --- The engine, with made-up answers -------------------------------------------------------------------------------


class MadeUp:
    """Answers every task at once and notes which there were."""

    def __init__(self, teacher):
        self.teacher = teacher
        self.tasks = []

    def __call__(self, task, tick):
        self.tasks.append((task["task"], *([task["recipe"]["scheme"], task["recipe"]["seed"]] if task["task"] == "cell" else [])))
        tick()
        facts = {
            "test": {"images": 10, "top1": 0.5, "top5": 0.9, "loss": 1.0},
            "cost": dict.fromkeys(("parameters", "packed_bytes", "bit_macs", "float_macs"), 1),
        }
        if task["task"] == "prepare":
            return {"value": {"folder": str(self.teacher), "sha256": worker.digest(self.teacher), **facts}}
        if task["task"] == "cell":
            return {"value": facts}
        file = {
            "precision": "bits",
            "bytes": 1000,
            "images": 10,
            "equal_argmax": 1.0,
            "engine": "acdbit",
            "median_ms": 1.0,
            "p90_ms": 1.0,
        }
        return {"value": dict.fromkeys(task["files"], file)}


@pytest.fixture
def teacher(tmp_path):
    path = tmp_path / "teacher.keras"
    path.write_bytes(b"weights")
    return path


def test_a_table_grows_without_repeating_what_it_has(teacher, tmp_path):
    def run(names, seeds):
        made_up = MadeUp(teacher)
        results = experiments.run(
            experiments.compare(DIGITS, names, seeds), tmp_path / "out", tmp_path / "runs", teacher, execute=made_up
        )
        return results, [task for task in made_up.tasks if task[0] != "measure"], ("measure",) in made_up.tasks

    on_tensorflow = keras.config.backend() == "tensorflow"
    results, tasks, measured = run(["binary_vit", "acd_bit"], (0,))
    assert tasks == [("prepare",), ("cell", "binary_vit", 0), ("cell", "acd_bit", 0)] and measured == on_tensorflow
    assert any("KERAS_BACKEND=tensorflow" in note for note in results["notes"]) != on_tensorflow
    results, tasks, measured = run(["binary_vit", "acd_bit"], (0, 1))
    assert tasks == [("cell", "binary_vit", 1), ("cell", "acd_bit", 1)] and not measured, (
        "the files are those of the first seed still"
    )
    assert [row["summary"]["n"] for row in results["rows"]] == [1, 2, 2]
    results, tasks, measured = run(["binary_vit", "acd_bit", "acd_bit[restore=off]"], (1,))
    assert tasks == [("prepare",), ("cell", "acd_bit[restore=off]", 1)] and measured == on_tensorflow, (
        "a new row is checked first"
    )
    teacher.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="is not the one that the table in .*out was begun with"):
        run(["binary_vit"], (0,))


def test_one_process_at_a_time_makes_a_table(teacher, tmp_path):
    def inner(task, tick):
        with pytest.raises(ValueError, match="another process is making a table in .*out"):
            experiments.run(experiments.compare(DIGITS, ["acd_bit"]), tmp_path / "out", tmp_path / "runs", teacher)
        return {"error": "enough seen"}

    with pytest.raises(ValueError, match="enough seen"):
        experiments.run(experiments.compare(DIGITS, ["acd_bit"]), tmp_path / "out", tmp_path / "runs", teacher, execute=inner)


# --- The line of progress -------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_with_the_time_that_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = Terminal()
    line = progress.Progress({"a": 4, "b": 4, "c": 0}, {"a": 2}, stream)
    line.show("a")
    assert stream.getvalue().endswith("1 of 3  a  epoch 3 of 4  time left not known yet")
    now[0] = 160.0
    line.show("a", 3)
    assert stream.getvalue().rstrip().endswith("1 of 3  a  epoch 4 of 4  5 min left"), "one epoch in a minute, five to go"
    line.show("b", 1)
    assert "\n" not in stream.getvalue() and stream.getvalue().rstrip().endswith("2 of 3  b  epoch 2 of 4  2 min left")


def test_progress_that_is_no_terminal_gets_a_line_per_run():
    stream = io.StringIO()
    line = progress.Progress({"a": 4, "b": 4}, {}, stream)
    for name, epoch in (("a", None), ("a", 1), ("a", 4), ("b", 2)):
        line.show(name, epoch)
    line.close()
    assert stream.getvalue() == "1 of 2  a\n2 of 2  b\n"


def test_time_left_is_said_in_words():
    assert [progress.clock(seconds) for seconds in (40, 119, 3000, 3900)] == ["40 s", "2 min", "50 min", "1 h 05 min"]
