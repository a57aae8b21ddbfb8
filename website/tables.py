"""Figures and tables of committed results, made when the site is built, so that they cannot part from the files.

`TABLES` has a function for every `<!-- table: NAME -->`, `value` reads `{{ FILE : KEY / KEY | FACTOR FORMAT }}`.
"""

import ast
import collections
import functools
import json
import pathlib
import re
import statistics

ROOT = pathlib.Path(__file__).resolve().parent.parent
ZOO = "acdbit_keras/models/zoo"
_VALUE = re.compile(r"\{\{\s*([\w./-]+\.json)\s*:\s*(.+?)\s*\|\s*(?:([\de.-]+)\s+)?([\w.,+%]+)\s*\}\}")
_MARK = re.compile(r"<!-- (table|scheme): ([\w.]+) -->")
_ENGINES = {
    "litert": "LiteRT",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "lce": "Larq Compute Engine",
    "acdbit": "this runtime",
}


def filled(markdown):
    """A page with its figures, tables and definitions.

    Raises:
        KeyError, ValueError, OSError: it names what is not there.
    """
    markdown = _VALUE.sub(lambda match: value(*match.groups()), markdown)
    if "{{" in markdown:
        raise ValueError(f"a figure that is not understood: {markdown[markdown.index('{{') :].splitlines()[0]}")
    return _MARK.sub(lambda match: TABLES[match[2]]() if match[1] == "table" else scheme(match[2]), markdown)


def value(file, keys, factor, form):
    """A figure of a JSON file of the repository.

    Keys are separated by " / "; into a list leads a number, or the file that one of its records is of.
    """
    found = read(file)
    for key in keys.split(" / "):
        if isinstance(found, list) and not key.isdecimal():
            found = next((each for each in found if key in (each.get("file"), each.get("path"))), {})
        else:
            found = found[int(key) if isinstance(found, list) else key.strip()]
    if not isinstance(found, (int, float)):
        raise ValueError(f"{file} has no number at {keys!r}")
    return format(found * float(factor or 1), form)


@functools.cache
def read(file):
    return json.loads((ROOT / file).read_text())


def scheme(name):
    """The definition of a scheme, from `SCHEME` to its end, with the functions that it uses."""
    text = (ROOT / "acdbit_keras" / "schemes" / f"{name}.py").read_text()
    nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.Assign))]
    return "```python\n" + "\n\n".join(ast.get_source_segment(text, node) for node in nodes) + "\n```"


def table(header, rows, align=None):
    """Markdown; all columns but the first are to the right, or as `align` says, a letter for each."""
    align = align or "l" + "r" * (len(header) - 1)
    lines = [header, [":--" if side == "l" else "--:" for side in align], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# --- Results of trainings -------------------------------------------------------------------------------------------------


def compare():
    rows = []
    for row in read("results/compare_cifar10/results.json")["rows"]:
        if not row.get("summary"):
            continue
        top1, file = row["summary"]["top1"], row["file"]
        rows.append([
            row["title"], row["summary"]["n"], spread(top1, "sd"), percent(file["top1"]), f"{file['bytes'] / 1e3:.0f}",
            f"{file['median_ms']:.3f}", percent(file["equal_argmax"], 1), row["paper"]["top1"] if row["paper"] else "-",
        ])  # fmt: skip
    header = ["system", "seeds", "top-1 %", "file, top-1 %", "file kB", "median ms", "argmax equal to Keras, %", "paper, top-1 %"]
    return table(header, rows)


def ablation(name):
    found = read(f"results/{name}/results.json")
    rows = []
    for row in found["rows"]:
        if row.get("summary"):
            away = row.get("difference") or {}
            rows.append([row["title"], row["summary"]["n"], spread(row["summary"]["top1"], "se"), difference(away)])
    return table(["row", "seeds", "top-1 %", "points from the first row"], rows)


def difference(found):
    if found.get("mean") is None:
        return "-"
    error = "" if found.get("se") is None else f" ± {100 * found['se']:.2f}"
    return f"{100 * found['mean']:+.2f}{error}"


def spread(found, key):
    return percent(found["mean"]) + ("" if found.get(key) is None else f" ± {100 * found[key]:.2f}")


def percent(share, digits=2):
    return f"{100 * share:.{digits}f}"


def small():
    rows = []
    for name, run in read("results/cifar10_small/results.json")["runs"].items():
        for form, file in run["files"].items():
            rows.append([
                name.removeprefix("cifar10_small_"), form, percent(run["test"]["accuracy"]), f"{file['bytes'] / 1e3:.0f}",
                f"{file['median_ms']:.2f}", _ENGINES[file["engine"]],
            ])  # fmt: skip
    return table(["model", "file", "Keras, top-1 %", "file kB", "median ms", "engine"], rows, "llrrrl")


def zoo():
    rows = []
    for path in sorted((ROOT / ZOO).glob("*/card.json")):
        card = json.loads(path.read_text())
        latency = card.get("latency") or {}
        rows.append([
            f"`{card['name']}`", f"`{card['model']['preset']}`", f"`{card['model']['scheme']}`",
            percent(card["accuracy"]["top1"]), f"{card['size']['compact_bytes'] / 1e3:.0f}",
            f"{card['size']['tflite_bytes'] / 1e3:.0f}", f"{latency['median_ms']:.3f}" if latency else "-",
        ])  # fmt: skip
    return table(["name", "preset", "scheme", "top-1 %", "stored kB", "`.tflite` kB", "median ms"], rows, "lllrrrr")


def bit_flips():
    found, rates = collections.defaultdict(list), []
    for row in read("results/robustness_cifar10/results.json")["rows"]:
        if row["test"] == "bitflip":
            found[row["model"], row["strength"]].append(row["accuracy"])
            rates += [row["strength"]] if row["strength"] not in rates else []
    models = list(dict.fromkeys(model for model, _ in found))
    rows = [[model, *(percent(statistics.mean(found[model, rate]), 1) for rate in rates)] for model in models]
    return table(["share of bits flipped", *(f"{rate:g}" for rate in rates)], rows)


def compact():
    names = ("exact.tflite", "int8_stem.tflite", "compact.tflite", "exact.acdm", "compact.acdm")
    found = {name: read(f"results/compact_cifar10/{name}.json") for name in names}
    rows = [[f"`{name}`", percent(each["accuracy"]), each["images"]] for name, each in found.items()]
    return table(["file", "top-1 %", "images"], rows)


# --- Times, instructions, memory ------------------------------------------------------------------------------------------


def latency(name):
    found = read(f"results/{name}.json")
    rows = [
        [
            f"`{each['path']}`", engine(each["engine"]), each["num_threads"],
            f"{each['median_ms']:.3g}", f"{each['min_ms']:.3g}", f"{1 / each['ratio']:.1f}",
            f"{each['heap_bytes'] / 1e6:.1f}", f"{each['file_bytes'] / 1e6:.1f}",
        ]
        for each in found["results"]
    ]  # fmt: skip
    header = [
        "file",
        f"engine, on an {found['processor']}",
        "threads",
        "median ms",
        "least",
        "times as fast",
        "heap MB",
        "file MB",
    ]
    return table(header, rows, "llrrrrrr")


def engine(name):
    first, _, path = name.partition(":")
    return _ENGINES[first] + (f", {path}" if path else "")


def kernels(name):
    found = read(f"results/{name}.json")
    rows = [
        [each["kernel"], each["form"], engine(each["engine"]), f"{each['median_us']:.0f}", f"{each['speedup']:.1f}"]
        for each in found["times"]
    ]
    return table(["alone", "form", f"engine, {found['processor']}", "median µs", "times as fast"], rows, "lllrr")


def instructions():
    rows = []
    for cpu in read("results/instructions_arm64_vit_small.json")["cpus"]:
        counts = {each["file"]: each for each in cpu["models"]}
        for name, each in counts.items():
            fewer = [counts[other]["instructions"] / each["instructions"] for other in ("float32.tflite", "dynamic.tflite")]
            rows.append([
                cpu["cpu"], f"`{name}`", f"{each['instructions'] / 1e6:.0f}", *(f"{times:.1f}" for times in fewer),
                f"{each['simd'] / each['instructions']:.0%}", f"{each['file_bytes'] / 1e6:.1f}",
            ])  # fmt: skip
    header = [
        "core",
        "file",
        "million instructions",
        "fewer than float32, times",
        "than dynamic int8",
        "of them vector",
        "file MB",
    ]
    return table(header, rows, "llrrrrr")


def boards(model):
    rows = []
    for board, models in read("results/mcu.json")["boards"].items():
        for form in ("exact", "compact"):
            row = models[f"{model}, {form}"]
            rows.append([
                f"`{board}`", form, f"{row['instructions'] / 1e6:.2f}", f"{row['flash_bytes'] / 1e3:.0f}",
                f"{row['arena_bytes'] / 1e3:.1f}", f"{row['stack_bytes'] / 1e3:.1f}",
                f"{row['classes_of_keras']} of {row['images']}",
            ])  # fmt: skip
    header = ["core", "file", "million instructions", "flash kB", "arena kB", "stack kB", "class of Keras"]
    return table(header, rows, "llrrrrr")


def device_start():
    found = read("results/device_start.json")
    rows = [
        [f"`{name}`" if name.startswith("acdbit") else name, f"{row['processor_seconds']:.2f}", f"{row['resident_mb']:.1f}"]
        for name, row in found["first_answer"].items()
    ]
    return table(["first answer of", "processor seconds", "resident MB"], rows)


def training(name):
    rows = [
        [each, f"{row['cpu_milliseconds_per_step']:.0f}", f"{row['relative_cpu_time']:.2f}"]
        for each, row in read(f"results/{name}.json")["contenders"].items()
    ]
    return table(["model", "processor ms per step", "of the first"], rows)


def training_shares():
    found = read("results/training_cost.json")["measured"]
    rows = [
        [f"`{name}`", f"{1e3 * row['seconds'] / found['batch_size']:.0f}", percent(row["share"], 0)]
        for name, row in found["schemes"].items()
    ]
    return table(["scheme", "processor ms an image", "share of the product's speed, %"], rows)


def training_cost():
    found, rows = read("results/training_cost.json"), []
    for name, datasets in found["tables"].items():
        for dataset, row in datasets.items():
            rows.append([name, dataset, f"{row['flops']:.1e}", *(f"{hours:,.0f}" for hours in row["hours"].values())])
    sums = [sum(row["hours"][device] for row in found["trainings"]) for device in found["assumed_flops_per_second"]]
    rows.append(["all", "", f"{sum(row['flops'] for row in found['trainings']):.1e}", *(f"{hours:,.0f}" for hours in sums)])
    devices = [f"hours, {device}" for device in found["assumed_flops_per_second"]]
    return table(["table", "dataset", "operations", *devices], rows, "llr" + "r" * len(devices))


def training_systems():
    found = read("results/training_cost.json")
    of = collections.defaultdict(dict)
    for row in found["trainings"]:
        if row["table"] == "comparison":
            of[row["scheme"]][row["dataset"]] = f"{row['hours']['A100']:,.1f}"
    datasets = list(next(iter(of.values())))
    return table(
        ["scheme", *(f"{dataset}, A100 hours" for dataset in datasets)], [[f"`{n}`", *h.values()] for n, h in of.items()]
    )


TABLES = {
    "training_shares": training_shares,
    "training_cost": training_cost,
    "training_systems": training_systems,
    "compare": compare,
    "ablation_cifar10": functools.partial(ablation, "ablation_cifar10"),
    "ablation_cifar100": functools.partial(ablation, "ablation_cifar100"),
    "ablation_bits": functools.partial(ablation, "ablation_bits_cifar10"),
    "ablation_threshold": functools.partial(ablation, "ablation_threshold_cifar10"),
    "ablation_restore": functools.partial(ablation, "ablation_restore_cifar10"),
    "small": small,
    "zoo": zoo,
    "bit_flips": bit_flips,
    "compact": compact,
    "latency_small": functools.partial(latency, "latency_x86_vit_small"),
    "latency_tiny": functools.partial(latency, "latency_x86_vit_tiny"),
    "latency_micro": functools.partial(latency, "latency_x86_vit_micro"),
    "latency_threads": functools.partial(latency, "latency_x86_threads"),
    "latency_xeon": functools.partial(latency, "latency_xeon_vit_small"),
    "kernels_x86": functools.partial(kernels, "kernels_x86"),
    "kernels_xeon": functools.partial(kernels, "kernels_xeon"),
    "instructions_arm64": instructions,
    "boards_digits": functools.partial(boards, "digits_vit_nano_acd_bit"),
    "boards_cifar10": functools.partial(boards, "cifar10_vit_micro_acd_bit"),
    "device_start": device_start,
    "training_kernels": functools.partial(training, "speed_training"),
}
