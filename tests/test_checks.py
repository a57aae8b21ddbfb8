"""Checks of arguments: one sentence that names the argument, what is allowed and what was given."""

import numpy as np
import pytest

from acdbit_keras import checks, text

pytestmark = pytest.mark.any_backend


def test_what_is_allowed_passes():
    checks.choice("form", "gram", ("gram", "direct"))
    checks.choice("scale", None, (None, "mad"))
    checks.choices("forms", ["direct", "gram"], ("gram", "direct"))
    for value in (1, np.int32(3), 4):
        checks.integer("runs", value, 1, 4)
    checks.integer("seed", 10**12, 0)


@pytest.mark.parametrize(
    "check, said",
    [
        (lambda: checks.choice("a", "gramm", ("gram", "x")), "a must be one of 'gram', 'x', not 'gramm'; did you mean 'gram'?"),
        (lambda: checks.choice("severity", 6, (1, 2)), "severity must be one of 1, 2, not 6"),
        (lambda: checks.choice("form", ["gram"], {"gram": 0}), "form must be one of 'gram', not ['gram']; did you mean 'gram'?"),
        (lambda: checks.choices("forms", [], ("gram", "direct")), "forms must be some of 'gram', 'direct', not none"),
        (lambda: checks.choices("forms", ["gram", "x"], ("gram", "direct")), "forms must be some of 'gram', 'direct', not 'x'"),
        (lambda: checks.integer("runs", 0, 1), "runs must be an integer of at least 1, not 0"),
        (lambda: checks.integer("runs", True, 1), "runs must be an integer of at least 1, not True"),
        (lambda: checks.integer("bits", 2.0, 1, 8), "bits must be an integer from 1 to 8, not 2.0"),
        (lambda: checks.integer("bits", 9, 1, 8), "bits must be an integer from 1 to 8, not 9"),
        (lambda: checks.integer("bits", "4", 1, 8), "bits must be an integer from 1 to 8, not '4'"),
    ],
)  # fmt: skip
def test_what_is_not_is_told_with_what_is(check, said):
    with pytest.raises(ValueError) as error:
        check()
    assert str(error.value) == said


def test_a_table_has_names_to_the_left_and_numbers_to_the_right():
    assert text.table(["model", "", "ms"], [["a", "x", "1.5"], ["longer", "", "10"]], text_columns=2) == (
        "model       ms\na       x  1.5\nlonger      10"
    )


def test_a_markdown_table():
    assert text.markdown(["", "ms"], [["a", "1.5"], ["b", ""]]) == "| | ms |\n|---|---|\n| a | 1.5 |\n| b | |"
