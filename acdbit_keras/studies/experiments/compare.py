"""`acdbit compare`: the systems of the paper's table, from one teacher and on the same budget."""

from acdbit_keras import schemes
from acdbit_keras.studies.experiments import paper
from acdbit_keras.studies.experiments.plan import Experiment, Row

TEACHER = "float32"


def systems():
    """Names of the schemes to compare by default: the paper's that there are here, in its order, then the others."""
    known = [name for name in schemes.names() if name != TEACHER]
    return sorted(
        known, key=lambda name: list(paper.COMPARISON).index(name) if name in paper.COMPARISON else len(paper.COMPARISON)
    )


def compare(recipe, names=None, seeds=(0,), leaders=None, data_dir=None):
    """The comparison as an `Experiment`.

    Args:
        recipe: `Recipe` of a student; every row is this recipe with another scheme.
        names: schemes, variants such as `"acd_bit[restore=dynamic]"` included; default `systems()`. The teacher has a row
            in any case.
        seeds: of the runs of each row.
        leaders: those of the schemes that have a run for every seed, the others for the first one alone; default all.
        data_dir: where the datasets are prepared.

    Raises:
        ValueError: an unknown scheme, leaders that are not compared, and what `Experiment` raises.
    """
    names = systems() if names is None else [name for name in names if name != TEACHER]
    if not names:
        raise ValueError(f"compare needs at least one scheme besides the teacher; known: {', '.join(systems())}")
    seeds = tuple(seeds)
    if strangers := [name for name in leaders or () if name not in names]:
        raise ValueError(f"{strangers[0]} is a leader that is not compared; compared are {', '.join(names)}")
    rows = [Row(TEACHER, schemes.get(TEACHER).title, paper=paper.of(paper.COMPARISON, TEACHER, recipe.dataset), is_teacher=True)]
    for name in names:
        own = None if leaders is None or name in leaders else seeds[:1]
        row = Row(
            name, schemes.get(name).title, {"scheme": name}, paper=paper.of(paper.COMPARISON, name, recipe.dataset), seeds=own
        )
        rows.append(row)
    return Experiment("compare", recipe, tuple(rows), seeds, measured=True, notes=_notes(rows), data_dir=data_dir)


def _notes(rows):
    notes = [
        "Every row has the teacher of the first one and the budget of one recipe. Top-1 and top-5 are those of the Keras model "
        "on the test images: mean and standard deviation of the seeds. The file is that of the first seed: its own top-1 on the "
        "same images, and how many of 1000 it puts into the class that Keras does. Packed are the weights and constants in it; "
        "other MACs are all multiply-adds that are not of two bits, those of integers too."
    ]
    if any(row.paper for row in rows):
        notes.append(
            "The paper's columns are its own figures on this dataset, for a backbone of DeiT-S's size. Its operations are left "
            "out: they give bits no credit and are no count of multiply-adds."
        )
    # What a reader must know of single systems, proxies among them.
    notes += [note for row in rows if (note := schemes.get(row.key).note)]
    return tuple(notes)
