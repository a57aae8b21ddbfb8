"""The tables of an experiment, from the content of its `results.json`: Markdown to read, CSV to compute with."""

import csv
import io

from acdbit_keras import text
from acdbit_keras.studies.experiments import results as results_file

MISSING = "-"


def markdown(results):
    """The table, its failures and its notes as Markdown."""
    results_file.summarise(results)
    columns = _columns(results)
    rows = [[content(row) for _, content in columns] for row in results["rows"]]
    sentences = []
    if results["differences"]:
        sentences += [
            f"{each['row']} less {each['from']}: {_difference(each)} points of top-1." for each in results["differences"]
        ]
    if results["kind"] != "compare" and results["teacher"]:
        test = results["teacher"]["test"]
        sentences.append(f"Teacher of every row: top-1 {test['top1']:.2%}, top-5 {test['top5']:.2%}.")
    sentences += [f"Failed: {title}, {what}: {error}" for title, what, error in results_file.failures(results)]
    recipe = results["recipe"]
    sentences += results["notes"]
    sentences.append(
        f"{recipe['dataset']}, {recipe['preset']}, {recipe['epochs']} epochs, batch {recipe['batch_size']}, "
        f"seeds {' '.join(map(str, results['seeds']))}."
    )
    if results.get("command"):
        sentences.append(f"Command: `{results['command']}`")
    return "\n\n".join([text.markdown([title for title, _ in columns], rows), *sentences])


def comma_separated(results):
    """The table as CSV: one line per row, accuracies as fractions, empty where there is no value."""
    results_file.summarise(results)
    lines = [_plain(results, row) for row in results["rows"]]
    header = list(dict.fromkeys(name for line in lines for name in line))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _columns(results):
    """`(title, function of a row to text)` of each column."""
    spread, reference = results["spread"], results["reference"]
    labels = list(dict.fromkeys(name for row in results["rows"] for name in row["labels"]))
    columns = [
        (
            {"compare": "system", "ablate": "alignment and correction", "sweep": "weights"}[results["kind"]],
            lambda row: row["title"],
        )
    ]
    columns += [(name, lambda row, name=name: row["labels"].get(name, MISSING)) for name in labels]
    columns += [
        ("seeds", lambda row: str(row["summary"]["n"])),
        ("top-1 %", lambda row: percent(row["summary"]["top1"], spread)),
        ("top-5 %", lambda row: percent(row["summary"]["top5"], spread)),
    ]
    if reference:
        columns.append((f"top-1 less {reference}", lambda row: _difference(row["difference"])))
    if results["kind"] == "compare":
        columns += [
            ("packed kB", lambda row: _number(_costs(results, row).get("packed_bytes"), 1e-3, 1)),
            ("file kB", lambda row: _number(_file(row, "bytes"), 1e-3, 1)),
            ("bit-MACs 1e6", lambda row: _number(_costs(results, row).get("bit_macs"), 1e-6, 2)),
            ("other MACs 1e6", lambda row: _number(_costs(results, row).get("float_macs"), 1e-6, 2)),
            ("median ms", lambda row: _number(_file(row, "median_ms"), 1, 3)),
            (
                "engine, form of the file",
                lambda row: f"{_file(row, 'engine')}, {_file(row, 'precision')}" if _file(row, "engine") else MISSING,
            ),
            ("file: top-1 %", lambda row: _number(_file(row, "top1"), 100, 2)),
            ("class as Keras %", lambda row: _number(_file(row, "equal_argmax"), 100, 1)),
        ]
    if any(row["paper"] for row in results["rows"]):
        columns += [
            ("paper: top-1 %", lambda row: _number(_paper(row, "top1"), 1, 2)),
            ("paper: top-5 %", lambda row: _number(_paper(row, "top5"), 1, 2)),
        ]
        if reference:
            columns.append((f"paper: top-1 less {reference}", lambda row: _paper_difference(results, row)))
        if any(_paper(row, "bits") for row in results["rows"]):
            columns += [
                ("paper: W/A", lambda row: _paper(row, "bits") or MISSING),
                ("paper: size MB", lambda row: _number(_paper(row, "size"), 1, 1)),
            ]
    if any(row["skipped"] for row in results["rows"]):
        columns.append(("not trained, because", lambda row: row["skipped"] or ""))
    return columns


def percent(spread, which):
    """`"73.72 ± 0.31"` of fractions, the part behind ± only where there are several."""
    if spread["mean"] is None:
        return MISSING
    return f"{100 * spread['mean']:.2f}" + (f" ± {100 * spread[which]:.2f}" if spread[which] is not None else "")


def _difference(difference):
    if difference is None or not difference["n"]:
        return MISSING
    text = f"{100 * difference['mean']:+.2f}"
    if difference["se"] is None:
        return text
    return f"{text} ± {100 * difference['se']:.2f} ({difference['above']} of {difference['n']})"


def _paper_difference(results, row):
    reference = results_file.row(results, results["reference"])
    if row is reference or not row["paper"] or not reference["paper"]:
        return MISSING
    return f"{row['paper']['top1'] - reference['paper']['top1']:+.2f}"


def _number(value, factor, digits):
    return MISSING if value is None else f"{value * factor:.{digits}f}"


def _paper(row, name):
    return (row["paper"] or {}).get(name)


def _file(row, name):
    return (row["file"] or {}).get(name)


def _costs(results, row):
    """Of any finished run: seeds change no count; empty while there is none."""
    if row["is_teacher"]:
        return results["teacher"]["cost"] if results["teacher"] else {}
    done = results_file.finished(row)
    return done[0]["cost"] if done else {}


def _plain(results, row):
    line = {"key": row["key"], "title": row["title"], **row["labels"], "seeds": row["summary"]["n"]}
    for name in ("top1", "top5"):
        line |= {f"{name}_{part}": value for part, value in row["summary"][name].items()}
    if row.get("difference"):
        line |= {f"top1_difference_{part}": row["difference"][part] for part in ("mean", "se", "n", "above")}
    line |= _costs(results, row)
    line |= {f"file_{name}": value for name, value in (row["file"] or {}).items()}
    line |= {f"paper_{name}": value for name, value in (row["paper"] or {}).items()}
    errors = [cell["error"] for cell in row["cells"] if cell["status"] == results_file.FAILED]
    line["note"] = row["skipped"] or "; ".join(errors)
    return {name: "" if value is None else value for name, value in line.items()}
