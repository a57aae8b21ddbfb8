"""Every example of a docstring runs and gives what it shows, and what a network is built of has one."""

import ast
import doctest
import pathlib

import keras
import numpy as np
import pytest

import acdbit_keras as acd
from acdbit_keras import layers, quantizers
from acdbit_keras.models import data, sizes

PACKAGE = pathlib.Path(acd.__file__).parent
FILE = "student.tflite"
PUBLIC = [
    *(getattr(layers, name) for name in layers.__all__),
    *(getattr(quantizers, name) for name in quantizers.__all__),
    *(getattr(acd, name) for name in ("Code", "Distiller", "LabelDistillation", "QueryKeyDistillation", "matmul", "summary")),
    *(acd.models.Backbone, acd.models.VisionTransformer, acd.models.PyramidVisionTransformer, acd.models.ConvolutionalNetwork),
    acd.models.build,
    *(acd.models.BinaryBlock, acd.models.FloatBlock, acd.schemes.get),
    *(acd.convert.to_tflite, acd.convert.verify, acd.convert.Interpreter, acd.convert.benchmark),
]


def examples():
    """Every docstring of the package with an example, as a `doctest.DocTest`."""
    parser, found = doctest.DocTestParser(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for name, docstring, line in docstrings(ast.parse(path.read_text()), module):
            if ">>>" in docstring:
                found.append(parser.get_doctest(docstring, {}, name, str(path), line))
    return found


def docstrings(node, name):
    """`(name, docstring, line from 0)` of a node and of all that is defined in it."""
    if docstring := ast.get_docstring(node, clean=False):
        yield name, docstring, node.body[0].lineno - 1
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
            yield from docstrings(child, f"{name}.{child.name}")


def assumed(example):
    """The names that an example does not define: those that stand for what its reader has."""
    nodes = [node for part in example.examples for node in ast.walk(ast.parse(part.source)) if isinstance(node, ast.Name)]
    stored = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    return {node.id for node in nodes} - stored


class Camera:
    def read(self):
        return np.zeros((12, 9), "uint8")


def networks():
    """A small network of floats and one of bits, the same ones in every example, untrained but measured once."""
    keras.utils.set_random_seed(7)
    teacher, student = (acd.models.build("vit_nano_patch2_8", scheme, depth=1) for scheme in ("float32", "acd_bit"))
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    student(images, training=True)
    return {"teacher": teacher, "student": student, "images": images, "labels": np.arange(32) % 10, "camera": Camera()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / FILE
    acd.convert.to_tflite(networks()["student"], path, card={"classes": list("0123456789"), "mean": [0.3], "std": [0.3]})
    return path.read_bytes()


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_gives_what_it_shows(example, tmp_path, monkeypatch, request):
    for registry in (acd.schemes.registry, sizes.registry, data.sources.registry):
        monkeypatch.setattr(registry, "registered", {})
    # Compiling would take most of the time.
    monkeypatch.setattr("keras.src.trainers.trainer.model_supports_jit", lambda model: False)
    monkeypatch.chdir(tmp_path)
    # Layers are numbered as in a new process, whatever ran in this one.
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    if assumed(example) & {"student", "images", "camera"}:
        example.globs.update(networks())
    if FILE in example.docstring and "to_tflite" not in example.name:
        (tmp_path / FILE).write_bytes(request.getfixturevalue("file"))
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, _ = runner.run(example, out=said.append)
    assert not failed, "".join(said)


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_there_is_an_example_of(thing):
    _, heading, example = thing.__doc__.partition("\n    Example:\n")
    assert heading, f"the docstring of {thing.__name__} has no section Example"
    assert example.lstrip().startswith(">>> ")
