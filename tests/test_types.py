"""Public functions have type hints, and a type checker finds the public API used rightly where it is."""

import importlib
import inspect
import json
import pathlib
import re
import subprocess
import sys
import typing

import pytest

from acdbit_keras import distillation, quantizers

HERE = pathlib.Path(__file__).parent
ROOMS = ("", ".convert", ".models", ".models.data", ".models.recipes", ".schemes", ".quantizers", ".layers", ".distillation")


def _public():
    """Dict from a name that people write to the function behind it: functions, constructors, methods, properties."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(f"acdbit_keras{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if not getattr(value, "__module__", "").startswith("acdbit_keras"):
                continue
            if not inspect.isclass(value):
                found[f"{module.__name__}.{name}"] = getattr(value, "__func__", value)
                continue
            ours = [each for each in reversed(value.__mro__) if each.__module__.startswith("acdbit_keras")]
            for attribute, member in {key: member for each in ours for key, member in vars(each).items()}.items():
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if inspect.isfunction(function) and (attribute == "__init__" or not attribute.startswith("_")):
                    found[f"{module.__name__}.{name}.{attribute}"] = function
    return found


def test_every_public_function_says_what_it_takes_and_gives():
    found = _public()
    assert len(found) > 200
    untyped = []
    for name, function in found.items():
        signature = inspect.signature(function)
        bare = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
        ]
        if bare or signature.return_annotation is signature.empty:
            untyped.append(f"{name}: {', '.join(bare) or 'what it returns'}")
    assert not untyped, "\n".join(untyped)


@pytest.mark.parametrize(
    "cls",
    [
        *(quantizers.AlignedSign, quantizers.WeightSign, quantizers.ThresholdedProbabilities, quantizers.StoredSign),
        *(quantizers.UniformQuantizer, distillation.QueryKeyDistillation),
    ],
)
def test_the_options_that_an_editor_proposes_are_those_that_there_are(cls):
    hints = inspect.get_annotations(cls.__init__)
    options = {name: _options(hint, cls) for name, hint in hints.items() if "Literal" in hint}
    assert options
    for name, values in options.items():
        with pytest.raises(ValueError, match=f"{name} must be") as told:
            cls(**{name: "no option"})
        allowed = str(told.value).partition("must be")[2].partition(", not ")[0]
        assert set(re.findall(r"'\w+'|None|\d", allowed)) == set(map(repr, values))


def _options(hint, cls):
    """The values that a hint `Literal[...]` or `Literal[...] | None` allows."""
    hint = eval(hint, vars(sys.modules[cls.__module__]))
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return (*typing.get_args(typing.get_args(hint)[0]), None)


def check(folder):
    """What basedpyright has to say of the Python files in a folder, in its basic mode."""
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"include": [str(folder)], "typeCheckingMode": "basic", "extraPaths": [str(HERE.parent)]})
    )
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= 1, done.stderr
    return [
        f"{pathlib.Path(each['file']).name}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    ]


def test_a_type_checker_resolves_and_accepts_the_public_api(tmp_path):
    (tmp_path / "public_api.py").write_text((HERE / "typing" / "public_api.py").read_text())
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    "wrong",
    [
        'acd.convert.to_tflite(student, "student.tflite", half="yes")',
        "acd.models.zoo_names().upper()",
        "acd.models.nothing",
        "acd.BinaryDense()",
        "acd.BinaryDense(3, input_quantizer=3)",
        'acd.AlignedSign(threshold="medain")',
    ],
)
def test_a_type_checker_sees_what_is_wrong(tmp_path, wrong):
    (tmp_path / "wrong.py").write_text(
        f'import acdbit_keras as acd\n\nstudent = acd.models.from_zoo("digits_vit_nano_acd_bit")\n{wrong}\n'
    )
    [error] = check(tmp_path)
    assert error.startswith("wrong.py:4")
