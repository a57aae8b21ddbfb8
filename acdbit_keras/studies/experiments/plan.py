"""What an experiment is: rows of a table, each a change of one recipe, crossed with seeds; all from one teacher."""

import dataclasses
import hashlib
import json
import re

from acdbit_keras import checks, schemes
from acdbit_keras.distillation import LabelDistillation, QueryKeyDistillation
from acdbit_keras.models import data
from acdbit_keras.models.recipes import Recipe
from acdbit_keras.typing import Path

# Left out of what a run is recognised by: how it is called, and how its steps are carried out.
_NOT_OF_THE_RESULT = ("name",)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        key: short and unique in the table.
        title: what the table prints.
        changes: fields of the recipe that make it this row.
        labels: dict from column to text, the row's settings where a table has columns for them.
        paper: what the paper gives for it on this dataset, see `paper.of`.
        is_teacher: the row of the teacher itself, which is trained once and not again for each seed.
        skipped: why this combination is not trained, `None` if it is.
        seeds: those of the experiment that it is trained with, `None` for all.
    """

    key: str
    title: str
    changes: dict = dataclasses.field(default_factory=dict)
    labels: dict = dataclasses.field(default_factory=dict)
    paper: dict | None = None
    is_teacher: bool = False
    skipped: str | None = None
    seeds: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a table."""

    row: Row
    seed: int
    recipe: Recipe


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A table to be filled.

    Attributes:
        kind: `"compare"`, `"ablate"` or `"sweep"`.
        recipe: the student's recipe that the rows change.
        rows: tuple of `Row`.
        seeds: tuple of integers, one run per row and seed.
        reference: key of the row that the others are compared with, seed by seed; `None` for no such column.
        contrasts: pairs of keys, further differences that are printed below the table.
        spread: `"sd"`, the standard deviation of the seeds, or `"se"`, the standard error of their mean.
        measured: whether files are converted, compared with Keras and timed at the end.
        notes: sentences below the table.
        data_dir: where the datasets are prepared; not kept.

    Raises:
        ValueError: no seed, a seed twice or negative, no row or a row twice, a recipe without teacher, a dataset with
            one class.
    """

    kind: str
    recipe: Recipe
    rows: tuple
    seeds: tuple
    reference: str | None = None
    contrasts: tuple = ()
    spread: str = "sd"
    measured: bool = False
    notes: tuple = ()
    data_dir: dataclasses.InitVar[Path | None] = None

    def __post_init__(self, data_dir):
        facts = data.info(self.recipe.dataset, data_dir)
        if facts.classes < 2:
            raise ValueError(
                f"{self.recipe.dataset} has one class, which every model predicts; {self.kind} needs a dataset with at least two"
            )
        if self.recipe.teacher is None:
            raise ValueError(
                f"{self.recipe.name} is a recipe without teacher; {self.kind} needs a student's, which names that of all rows"
            )
        if not self.seeds:
            raise ValueError(f"{self.kind} needs at least one seed, e.g. --seeds 0 1 2")
        for seed in self.seeds:
            checks.integer("a seed", seed, 0)
        if repeated := _repeated(self.seeds):
            raise ValueError(f"seed {repeated[0]} is given twice; every run of a row needs a seed of its own")
        if not any(not row.is_teacher and row.skipped is None for row in self.rows):
            raise ValueError(f"{self.kind} has no row to train")
        if repeated := _repeated([row.key for row in self.rows]):
            raise ValueError(f"{repeated[0]} is given twice; every row of a table differs from the others")

    def row(self, key):
        """The row of that key."""
        return next(row for row in self.rows if row.key == key)

    def cells(self):
        """The runs, all rows of one seed before the next, so that an unfinished table already compares."""
        return [
            Cell(row, seed, normalised(self.recipe.replace(**row.changes, seed=seed)))
            for seed in self.seeds
            for row in self.rows
            if seed in self.seeds_of(row)
        ]

    def seeds_of(self, row):
        """The seeds that a row is trained with; none for the teacher's and for one that is skipped."""
        if row.is_teacher or row.skipped:
            return ()
        return self.seeds if row.seeds is None else row.seeds


def normalised(recipe):
    """The same run, with weights that the scheme brings anyway left unsaid: equal runs of several tables are one run."""
    brought = {type(term): term for term in schemes.get(recipe.scheme).distillation}
    label, query_key = brought.get(LabelDistillation), brought.get(QueryKeyDistillation)
    changes = {}
    if label and recipe.label_weight == label.weight:
        changes["label_weight"] = None
    if query_key and recipe.query_key_weight == query_key.weight:
        changes["query_key_weight"] = None
    weight = changes.get("query_key_weight", recipe.query_key_weight)
    if weight == 0 or (query_key is None and weight is None) or (query_key and recipe.query_key_form == query_key.form):
        changes["query_key_form"] = None
    return recipe.replace(**changes)


def folder_name(recipe, teacher):
    """Name of a run's folder: readable, and different for runs that differ, be it in what their scheme was at the time.

    Args:
        recipe: of the run.
        teacher: SHA-256 of the teacher's file.
    """
    return _folder_name(recipe, teacher, schemes.get(recipe.scheme).definition())


def folder_names(recipe, teacher):
    """`folder_name`, and behind it what the folder of the same run was called when label terms had no form."""
    definition = schemes.get(recipe.scheme).definition()
    return [_folder_name(recipe, teacher, each) for each in (definition, _without_form(definition))]


def _without_form(said):
    if isinstance(said, list):
        return [_without_form(part) for part in said]
    if not isinstance(said, dict):
        return said
    late = "form" if said.get("class") == LabelDistillation.__name__ and said.get("form") is None else None
    return {key: _without_form(part) for key, part in said.items() if key != late}


def _folder_name(recipe, teacher, definition):
    # Fields at their default are left out, so that a field that recipes gain later does not rename older runs.
    said = {
        field.name: getattr(recipe, "scheme_name" if field.name == "scheme" else field.name)
        for field in dataclasses.fields(recipe)
        if field.name not in _NOT_OF_THE_RESULT and getattr(recipe, field.name) != field.default
    }
    run = [said, definition, teacher]
    digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]
    scheme = re.sub(r"[^a-z0-9]+", "_", recipe.scheme_name.lower()).strip("_")
    return f"{scheme}-seed{recipe.seed}-{digest}"


def _repeated(values):
    return [value for index, value in enumerate(values) if value in values[:index]]
