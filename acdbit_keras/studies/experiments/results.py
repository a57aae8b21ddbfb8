"""`results.json` of a table: what was found so far, written after every run, read when the table goes on.

format        version of this layout
kind, recipe, rows, seeds, reference, contrasts, spread, notes      the experiment
backend, versions, and what the command line adds: command, processor
teacher       folder, sha256, test, cost
rows[i]       key, title, labels, changes, paper, skipped, is_teacher; cells: per seed folder, status, test, cost, error;
              file: of one run, precision, bytes, engine, median_ms, ...; summary: mean, sd, se over the finished cells
"""

import dataclasses
import statistics

from acdbit_keras.files import read_json, write_json
from acdbit_keras.models.recipes import Recipe

FORMAT = 1
FINISHED, FAILED, WAITING = "finished", "failed", "waiting"


def start(experiment):
    """The results of an experiment of which nothing has been run."""
    rows = []
    for row in experiment.rows:
        cells = [{"seed": seed, "status": WAITING} for seed in experiment.seeds_of(row)]
        rows.append({**dataclasses.asdict(row), "cells": cells, "file": None})
    return {
        "format": FORMAT,
        "kind": experiment.kind,
        "recipe": experiment.recipe.to_dict(),
        "seeds": list(experiment.seeds),
        "reference": experiment.reference,
        "contrasts": [list(pair) for pair in experiment.contrasts],
        "spread": experiment.spread,
        "notes": list(experiment.notes),
        "teacher": None,
        "rows": rows,
    }


def read(path, experiment):
    """The results that an earlier call left, `None` if there are none.

    Raises:
        ValueError: not a results file, one of another version, one of another experiment, or of a recipe that this version
            cannot read.
    """
    if not path.exists():
        return None
    try:
        results = read_json(path)
        version = results["format"]
        if version == FORMAT:
            results["kind"], results["recipe"].items(), results["teacher"], [row["cells"] for row in results["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a results file of a table; move it away or choose another --out") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} has version {version} of the results format, this program reads version {FORMAT}; choose another --out"
        )
    if results["kind"] != experiment.kind:
        raise ValueError(f"{path} holds the table of acdbit {results['kind']}, not of {experiment.kind}; choose another --out")
    try:
        # What recipes gained since has its default in a table from before.
        changed = experiment.recipe.differences(Recipe(**results["recipe"]))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} holds a table of a recipe that this version cannot read ({error}); choose another --out"
        ) from error
    if changed:
        raise ValueError(f"{path} holds a table of other settings ({', '.join(changed)} differ); choose another --out")
    return results


def write(path, results):
    """Adds the summaries and writes the file, whole or not at all."""
    summarise(results)
    write_json(path, results)


def row(results, key):
    """The row of that key."""
    return next(row for row in results["rows"] if row["key"] == key)


def finished(row):
    """The finished cells of a row."""
    return [cell for cell in row["cells"] if cell["status"] == FINISHED]


def failures(results):
    """`(row title, what, error)` of everything that failed."""
    found = []
    for each in results["rows"]:
        found += [(each["title"], f"seed {cell['seed']}", cell["error"]) for cell in each["cells"] if cell["status"] == FAILED]
        if (each["file"] or {}).get("error"):
            found.append((each["title"], "file", each["file"]["error"]))
    return found


def summarise(results):
    """Writes into every row `summary`, and its differences from the reference; into the results the contrasts."""
    for each in results["rows"]:
        scores = (
            [results["teacher"]["test"]]
            if each["is_teacher"] and results["teacher"]
            else [cell["test"] for cell in finished(each)]
        )
        each["summary"] = {name: spread([score[name] for score in scores]) for name in ("top1", "top5")} | {"n": len(scores)}
        reference = results["reference"]
        each["difference"] = difference(each, row(results, reference)) if reference and each["key"] != reference else None
    results["differences"] = [
        {"row": first, "from": second, **difference(row(results, first), row(results, second))}
        for first, second in results["contrasts"]
    ]


def difference(first, second):
    """Top-1 of one row less that of another, paired by seed: `spread` of the differences and how many are above 0."""
    others = {cell["seed"]: cell["test"]["top1"] for cell in finished(second)}
    pairs = [cell["test"]["top1"] - others[cell["seed"]] for cell in finished(first) if cell["seed"] in others]
    return {"n": len(pairs), "above": sum(pair > 0 for pair in pairs), **spread(pairs)}


def spread(values):
    """`{"mean", "sd", "se"}`: standard deviation of the values and standard error of their mean; `None` where undefined."""
    if not values:
        return {"mean": None, "sd": None, "se": None}
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "se": None if sd is None else sd / len(values) ** 0.5}
