"""The pages of docs/: their code runs or is one that would, their links lead somewhere, and the site is whole.

The site is built here as `make docs` builds it, with its own tools, strictly: a link or an anchor that leads nowhere fails it.
"""

import ast
import configparser
import importlib
import inspect
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

import acdbit_keras as acd
from acdbit_keras import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
# Packages with public names; each has a page.
ROOMS = (
    "acdbit_keras",
    *(f"acdbit_keras.{room}" for room in ("layers", "quantizers", "schemes", "distillation", "models", "models.data")),
    *(f"acdbit_keras.{room}" for room in ("models.recipes", "convert", "execution", "training")),
)
# Its code is the README's, which tests/test_readme.py runs; here its names and arguments are looked up.
LOOKED_UP = ("tutorial.md",)
# What stands in the commands of pages besides our own; none of them is ours to check.
OTHERS = {"adb", "build-example/classify", "cmake", "export", "python3", "sudo", "unzip"}


def named(path):
    return path.relative_to(DOCS).as_posix()


def blocks(path, *languages):
    """The fenced blocks of a page in a language."""
    return [
        code
        for language, code in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", path.read_text(), re.M | re.S)
        if language in languages
    ]


# === Python ===
@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """A folder with what pages take for granted: pictures of three classes and a converted student; and what those of the
    tutorial are in their code."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "owls"):
        (folder / "my_images" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8), "uint8")).save(folder / "my_images" / name / f"{number}.png")
    keras.utils.set_random_seed(7)
    images = rng.normal(size=(32, 8, 8, 1)).astype("float32")
    student = acd.models.build("vit_nano_patch2_8", "acd_bit", depth=1)
    student(images, training=True)
    acd.convert.to_tflite(student, folder / "student.tflite", card={"classes": list("0123456789"), "mean": [0.3], "std": [0.3]})
    return folder, {"student": student, "images": images, "labels": np.arange(32) % 10}


@pytest.mark.parametrize("path", [page for page in PAGES if blocks(page, "python") and named(page) not in LOOKED_UP], ids=named)
def test_the_python_of_a_page_runs(path, surroundings, monkeypatch, capsys):
    folder, given = surroundings
    monkeypatch.chdir(folder)
    monkeypatch.setattr("keras.src.trainers.trainer.model_supports_jit", lambda model: False)
    names = dict(given)
    for code in blocks(path, "python"):
        exec(compile(code, named(path), "exec"), names)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", [page for page in PAGES if named(page) in LOOKED_UP], ids=named)
def test_the_names_and_arguments_in_a_page_exist(path):
    looked_up = 0
    for code in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("acd.", "keras.")):
                function = eval(ast.unparse(node.func), {"acd": acd, "keras": keras})
                parameters = inspect.signature(function).parameters
                assert all(argument.arg in parameters for argument in node.keywords), ast.unparse(node)
                looked_up += 1
    assert looked_up > 10


# === Commands ===
def commands():
    """Every line of a command in the pages, in blocks and in the text: pairs of a page and the line without its comment."""
    found = []
    for path in PAGES:
        for code in blocks(path, "bash", "sh", ""):
            found += [(named(path), line.partition("#")[0].strip()) for line in code.splitlines()]
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        # `acdbit watch` speaks of the command, which is not called without what it needs.
        found += [
            (named(path), f"{line} --help" if line.count(" ") == 1 else line) for line in re.findall(r"`(acdbit [^`|]+)`", text)
        ]
    return [(page, line) for page, line in found if line]


@pytest.mark.parametrize("page, line", commands())
def test_a_command_of_a_page_is_one(page, line, capsys):
    for command in line.split(" && "):
        words = [word for word in shlex.split(command) if word != "..."]
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        program = words[0] if words[0] in OTHERS else pathlib.Path(words[0]).name
        check(program, words[1:])
    capsys.readouterr()


def check(program, arguments):
    if program == "acdbit":
        redirected = arguments.index(">") if ">" in arguments else None
        try:
            cli._parser().parse_args(arguments[:redirected])
        except SystemExit as ended:
            assert ended.code == 0, arguments
    elif program == "make":
        targets = " ".join(re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.M)).split()
        assert all(argument in targets or "=" in argument for argument in arguments)
    elif program == "pip":
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg")
        for extra in re.findall(r"acdbit-keras\[([\w,-]+)\]", " ".join(arguments)):
            assert set(extra.split(",")) <= set(extras["options.extras_require"])
    else:
        assert program in OTHERS, program


# === Links of what is read without the site ===
@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(f"docs/{named(page)}" for page in PAGES)])
def test_the_links_of_a_page_lead_to_files(name):
    made = {f"docs/api/{module.rpartition('.')[2]}.md" for module in ROOMS}
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        target = pathlib.Path(os.path.normpath((ROOT / name).parent / link))
        assert ":" in link or target.exists() or target.relative_to(ROOT).as_posix() in made, link


# === The site ===
@pytest.fixture(scope="module")
def site():
    """The folder of the built site."""
    made = subprocess.run(["make", "--silent", "docs", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / "build" / "site"


def test_every_public_name_has_its_place_in_the_reference(site):
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    places = {line.split(" ")[0]: line.split(" ")[3].replace("$", line.split(" ")[0]) for line in inventory.splitlines()}
    for room in ROOMS:
        module = importlib.import_module(room)
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if name[0] != "_"]):
            dotted = f"{module.__name__}.{name}"
            if name.startswith("__") or inspect.ismodule(getattr(module, name)):
                continue
            # A function may have the name of its module.
            page, _, anchor = (places.get(f"{dotted}.{name}") or places[dotted]).partition("#")
            assert f'id="{anchor}"' in (site / page).read_text(), dotted


def test_every_situation_is_held_by_a_test():
    found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "situations.md").read_text())
    assert len(found) == 30
    for file, name in found:
        assert f"\ndef {name}(" in (ROOT / file).read_text(), name


def test_every_scheme_has_a_page_with_its_formulas_both_ways():
    own = [path.stem for path in (ROOT / "acdbit_keras" / "schemes").glob("*.py") if "\nSCHEME = " in path.read_text()]
    assert set(own) == {path.stem for path in (DOCS / "schemes").glob("*.md")} - {"index"}
    overview = (DOCS / "schemes" / "index.md").read_text()
    for name in own:
        text = (DOCS / "schemes" / f"{name}.md").read_text()
        assert "$$" in text.partition("## Backward")[0] and "## Backward" in text and "*Source:*" in text, name
        assert f"<!-- scheme: {name} -->" in text and f"({name}.md)" in overview, name


def test_the_site_needs_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert not re.search(r'<(script|img|iframe)[^>]+src="https?:|<link[^>]+(stylesheet|preconnect|icon)[^>]+https?:', text), (
            path
        )
        assert "arithmatex" not in text and "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", text), path
    assert not re.search(r"url\(.?https?:", (site / "site.css").read_text())


def test_the_figures_of_a_page_are_those_of_the_files(site):
    board = json.loads((ROOT / "results" / "mcu.json").read_text())["boards"]["cortex-m4"]["cifar10_vit_micro_acd_bit, compact"]
    text = " ".join((site / "index.html").read_text().split())
    assert f"{board['instructions'] * 1e-6:.1f} million instructions a picture" in text
    compared = json.loads((ROOT / "results" / "compare_cifar10" / "results.json").read_text())["rows"][-1]
    cells = f"<td>{compared['title']}</td> <td>{compared['summary']['n']}</td>"
    found = re.sub(r' style="[^"]*"| align="[^"]*"', "", " ".join((site / "results.html").read_text().split()))
    assert cells in found and f"{compared['file']['bytes'] / 1e3:.0f}" in found
    cost = json.loads((ROOT / "results" / "training_cost.json").read_text())
    hours = [sum(row["hours"][device] for row in cost["trainings"]) for device in cost["assumed_flops_per_second"]]
    found = re.sub(r' style="[^"]*"| align="[^"]*"', "", " ".join((site / "training_cost.html").read_text().split()))
    assert " ".join(f"<td>{sum_:,.0f}</td>" for sum_ in hours) in found


@pytest.mark.parametrize(
    "text, message",
    [
        ("{{ results/mcu.json : boards / cortex-m5 | .1f }}", "cortex-m5"),
        ("{{ results/mcu.json : boards | .1f }}", "has no number at 'boards'"),
        ("{{ mcu.json boards }}", "a figure that is not understood"),
        ("<!-- table: none -->", "none"),
    ],
)
def test_a_figure_that_is_not_there_stops_the_site(text, message, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "website"))
    import tables

    with pytest.raises((KeyError, ValueError), match=message):
        tables.filled(text)
