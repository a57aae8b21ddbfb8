"""The floors of the package: who may import whom, as `pyproject.toml` says it, imports inside functions included."""

import pathlib
import re
import shutil
import subprocess
import sys

import grimp
import pytest

ROOT = pathlib.Path(__file__).parent.parent
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(folder):
    """Exit status and output of import-linter for the package in a folder, which is the one it imports."""
    environment = {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", LINT], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_imports_go_downwards_and_in_no_circle():
    status, output = lint(ROOT)
    assert status == 0, output
    assert "3 kept, 0 broken" in output


def test_nothing_inside_the_package_imports_its_front_door():
    """Whose names may lie on any floor."""
    graph = grimp.build_graph("acdbit_keras", exclude_type_checking_imports=True, cache_dir=None)
    assert not graph.find_modules_that_directly_import("acdbit_keras")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The Python files of the package, and what the floors are."""
    folder = tmp_path_factory.mktemp("copy")
    for path in [ROOT / "pyproject.toml", *(ROOT / "acdbit_keras").rglob("*.py")]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder


@pytest.mark.parametrize(
    "module, line, broken",
    [
        ("models/train.py", "from acdbit_keras.convert import rewrite", "The command line stands on the studies"),
        ("convert/export.py", "import acdbit_keras.models.blocks", "The command line stands on the studies"),
        ("models/train.py", "from acdbit_keras.studies import speed", "The command line stands on the studies"),
        ("studies/report.py", "from acdbit_keras.cli import emit", "The command line stands on the studies"),
        ("code.py", "from acdbit_keras.models import blocks", "All else in the package lies below"),
        ("code.py", "from acdbit_keras import execution", "No circles"),
        ("models/blocks.py", "from acdbit_keras.models import pyramid", "No circles"),
    ],
)
def test_an_import_that_goes_upwards_is_found_even_inside_a_function(copy, module, line, broken):
    path = copy / "acdbit_keras" / module
    before = path.read_text()
    path.write_text(f"{before}\n\ndef wrong():\n    {line}\n")
    try:
        status, output = lint(copy)
    finally:
        path.write_text(before)
    assert status == 1, output
    assert re.search(rf"{broken}((?!KEPT).)*BROKEN", output, flags=re.DOTALL), output
