"""The README's Python code runs as it stands, block after block, in an empty folder."""

import argparse
import pathlib
import re

import pytest

from acdbit_keras import cli

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.end_to_end
def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    # As it stands but for the number of epochs, and without XLA, Keras' default, whose compiling would take most of the time.
    monkeypatch.setattr("keras.src.trainers.trainer.model_supports_jit", lambda model: False)
    names = {}
    for block in blocks:
        exec(compile(block.replace("epochs=10", "epochs=1"), str(README), "exec"), names)
    assert names["student"].scheme.name == "acd_bit"
    assert (tmp_path / "student.tflite").stat().st_size < 200_000
    assert "18 binary layers packed" in capsys.readouterr().out


def test_every_command_is_in_the_readme():
    [commands] = [action.choices for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    text = README.read_text()
    assert {"watch", "serve"} < set(commands)
    assert [name for name in commands if f"`acdbit {name}" not in text] == []
