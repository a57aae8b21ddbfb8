"""One true tree: what Python imports lies where its name says, in a clone, an archive of the source and a wheel."""

import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

import acdbit_keras

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
ROOMS = ("models", "convert")


def run(*command, **options):
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, timeout=900, **options
    ).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone whose file system has no links, as on Windows."""
    folder = tmp_path_factory.mktemp("clone") / "acdbit"
    run("git", "-c", "core.symlinks=false", "clone", "--quiet", "--depth=1", REPOSITORY.as_uri(), folder)
    return folder


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel that is built from it and from nothing else."""
    folder = tmp_path_factory.mktemp("distributions")
    copy = folder / "tree"
    run("git", "clone", "--quiet", "--depth=1", REPOSITORY.as_uri(), copy)
    # Without further words the wheel is built from the source distribution.
    run(sys.executable, "-m", "build", "--outdir", folder, copy)
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def _tracked(*under):
    return [line for line in run("git", "ls-files", *under, cwd=REPOSITORY).splitlines() if not line.startswith("tests/")]


def test_the_top_level_leads_to_the_rooms():
    for room in ROOMS:
        assert (REPOSITORY / room).resolve() == REPOSITORY / "acdbit_keras" / room
        assert (REPOSITORY / room / "__init__.py").is_file()


def test_a_clone_without_links_is_imported_all_the_same(clone):
    assert all((clone / room).is_file() for room in ROOMS), "this clone has links"
    code = "import acdbit_keras as acd; print(acd.models.__file__, acd.convert.__file__, acd.convert.Interpreter.__module__)"
    models, convert, name = run(sys.executable, "-c", code, cwd=clone).split()
    assert pathlib.Path(models).is_relative_to(clone) and pathlib.Path(convert).is_relative_to(clone)
    assert name == "acdbit_keras.convert.interpreter"


def test_the_source_distribution_builds_without_the_clone(distributions):
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(_tracked("acdbit_keras/*.py", "acdbit_keras/convert/runtime")) - names
    assert not missing


def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {"acdbit_keras", f"acdbit_keras-{acdbit_keras.__version__}.dist-info"}
    assert not set(_tracked("acdbit_keras/*.py")) - names
    assert {"acdbit_keras/py.typed", "acdbit_keras/convert/runtime/libacdbit_runtime.so"} <= names
    assert any(name.endswith("weights.acdbit") for name in names)
    assert f"acdbit_keras-{acdbit_keras.__version__}-py3-none-" in wheel.name
