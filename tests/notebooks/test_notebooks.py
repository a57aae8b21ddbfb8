"""The notebooks: their form, outputs that belong to their code, and their code itself.

`make notebooks` executes all of them as they stand and writes their outputs. Here one runs so, in a kernel; the others run in
this process with one epoch, where TensorFlow is there already.
"""

import pathlib
import re

import matplotlib
import nbformat
import pytest
import run_notebooks

import acdbit_keras as acd

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
IN_A_KERNEL = "5_reading_a_file"
# What makes a run short, and what it becomes.
REDUCED = (
    (r"\bepochs=\d+", "epochs=1"),
    (r"\bruns=\d+", "runs=3"),
    (r"\bsamples=\d+", "samples=40"),
    (r"recordings\(1200,", "recordings(64,"),
    (r'\("mean_sign", "binary_vit", "acd_bit"\)', '("mean_sign",)'),
)


def named(path):
    return path.stem


def read(path):
    return nbformat.read(path, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(output):
    return output.get("text", output.get("data", {}).get("text/plain", ""))


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_a_notebook_opens_with_what_it_shows_and_ends_with_what_to_try(path):
    notebook = read(path)
    nbformat.validate(notebook)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    assert re.match(r"# .+\n\n.{200,}", first.source, re.DOTALL) and last.source.startswith("## What to try\n\n- ")
    for link in re.findall(r"\]\(([^)]+)\)", "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")):
        assert (FOLDER / link).is_file(), link


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_the_outputs_are_small_and_of_the_code_as_it_stands(path):
    notebook = read(path)
    assert notebook.metadata.get("executed") == run_notebooks.digest(notebook), "make notebooks"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert not re.search(r"/(home|root|tmp|usr|work)/", shown(output)), shown(output)
        picture = output.get("data", {}).get("image/png", "")
        assert len(picture) * 3 / 4 < run_notebooks.LARGEST_PICTURE
    assert path.stat().st_size < 500_000


def test_the_committed_outputs_are_those_of_a_kernel():
    path = FOLDER / f"{IN_A_KERNEL}.ipynb"
    committed, found = read(path), run_notebooks.executed(path)
    for before, after in zip(committed.cells, found.cells, strict=True):
        # Times differ, and which node is the slowest.
        if before.cell_type == "code" and "benchmark" not in before.source:
            assert [shown(output) for output in before.outputs] == [shown(output) for output in after.outputs], before.source


@pytest.mark.parametrize("path", [path for path in PATHS if path.stem != IN_A_KERNEL], ids=named)
def test_the_code_of_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(acd.schemes.registry, "registered", {})
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    for number, source in enumerate(run_notebooks.code(read(path))):
        for pattern, reduced in REDUCED:
            source = re.sub(pattern, reduced, source)
        exec(compile(source, f"{path.name}, cell {number + 1}", "exec"), names)
    matplotlib.pyplot.close("all")
    assert capsys.readouterr().out
