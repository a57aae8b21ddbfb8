"""The bar over the epochs of a run."""

import io

import pytest

from acdbit_keras.studies.progress import Epochs

pytestmark = pytest.mark.any_backend


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(stream, total=40):
    bar = Epochs(stream)
    for epoch in range(1, total + 1):
        bar("digits_teacher", epoch, total, {"accuracy": epoch / total, "val_accuracy": 0.5})
    return stream.getvalue()


def test_a_file_gets_a_line_for_every_tenth_of_the_epochs():
    lines = told(io.StringIO()).splitlines()
    assert len(lines) == 10
    assert "epoch 4/40  training 0.100  test 0.500" in lines[0] and "left" in lines[0]
    assert lines[-1].startswith("     [====================] epoch 40/40") and "left" not in lines[-1]


def test_a_terminal_gets_one_line_that_is_drawn_over_itself():
    text = told(Terminal())
    assert text.count("\n") == 1 and text.endswith("\n") and text.count("\r") == 40


def test_fewer_epochs_than_ten_are_all_shown():
    assert len(told(io.StringIO(), total=3).splitlines()) == 3
