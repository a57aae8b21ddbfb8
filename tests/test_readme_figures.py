"""Every figure of the README's tables, and those of its sentences about results, against the committed file it comes from.

`TABLES` says for every table with figures which value of which file each cell prints, `SENTENCES` the same for places in
the text. A figure is right if it is the committed value rounded to the digits that are printed.
"""

import functools
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS, ZOO = ROOT / "results", ROOT / "acdbit_keras" / "models" / "zoo"
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
ENGINES = {"LiteRT": "litert", "Larq Compute Engine": "lce", "this runtime": "acdbit"}


@functools.cache
def results(name):
    return json.loads((RESULTS / name).read_text())


def card(name):
    return json.loads((ZOO / name / "card.json").read_text())


def numbers(text):
    return re.findall(NUMBER, text)


def is_printed(value, text):
    """Whether a text is a value rounded to the text's digits."""
    if "e" in text:
        return f"{value:.0e}".replace("e-0", "e-") == text
    decimals = len(text.partition(".")[2])
    sign = "+" if text[0] in "+-" else ""
    return f"{value:{sign}.{decimals}f}" == text.replace(",", "")


# --- Tables -----------------------------------------------------------------------------------------------------------


class Table:
    """A table of the README: `header`, and `rows` as lists of cells."""

    def __init__(self, lines):
        self.header, _, *self.rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def tables():
    found, lines = [], []
    for line in [*README.splitlines(), ""]:
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            found.append(Table(lines))
            lines = []
    return found


def small_table(row):
    """`results/cifar10_small/results.json`, of `acdbit report`."""
    key = {"teacher": "teacher", "BinaryViT": "binary_vit", "ACD-BiT": "acd_bit"}[row[0].partition(",")[0]]
    run = results("cifar10_small/results.json")["runs"][f"cifar10_small_{key}"]
    file = run["files"][row[1]]
    assert ENGINES[row[5].partition(", ")[2]] == file["engine"]
    return [
        None,
        [],
        [100 * run["test"]["accuracy"]],
        [100 * file["parity"]["equal_argmax"]],
        [file["bytes"] / 1e3],
        [file["median_ms"]],
    ]


def comparison(row):
    """`results/compare_cifar10/results.json`, of `acdbit compare`."""
    keys = {
        "teacher": "float32", "Mixed-Precision": "mixed16", "Quant-Noise": "quant_noise_w8a8", "FQ-ViT": "fq_vit_w8a4",
        "XNOR-Net": "xnor_net", "BiBERT": "bibert", "BiT": "bit", "BiViT": "bivit", "BinaryViT": "binary_vit",
        "BinaryFormer (proxy)": "binary_former", "ACD-BiT": "acd_bit",
    }  # fmt: skip
    found = compared(keys[row[0].partition(",")[0]])
    top1, file = found["summary"]["top1"], found["file"]
    return [
        None,
        [found["summary"]["n"]],
        [100 * top1["mean"], *([] if top1["sd"] is None else [100 * top1["sd"]])],
        [100 * file["top1"]],
        [file["bytes"] / 1e3],
        [file["median_ms"]],
        [100 * file["equal_argmax"]],
        [found["paper"]["top1"]],
    ]


def latency(row):
    """One thread of `results/latency_x86_vit_small.json` and its siblings, of `acdbit bench --model`."""
    name = next((name for name in ("vit_tiny", "vit_micro") if name in row[0]), "vit_small")
    unit, figure, factor = next(
        each
        for each in (("heap MB", "heap_bytes", 1e-6), ("file MB", "file_bytes", 1e-6), ("ms", "median_ms", 1.0))
        if row[0].endswith(each[0])
    )
    alone = [each for each in timed(f"latency_x86_{name}.json") if each["num_threads"] == 1]
    measured = {(each["path"], each["engine"]): each[figure] * factor for each in alone}
    contenders = [
        [("float32.tflite", "litert")],
        [("dynamic.tflite", "litert")],
        [("float32.onnx", "onnx")],
        [("dynamic.onnx", "onnx"), ("int8.onnx", "onnx")],
        [("openvino_float32.onnx", "openvino"), ("openvino_int8.xml", "openvino")],
        [("bits_float_attention.tflite", "lce")],
        [("bits.tflite", "acdbit:avx512")],
        [("bits_int8_stem.tflite", "acdbit")],
        [("bits.tflite", "acdbit:avx2")],
    ]
    return [None, *([measured[each] for each in cell if each in measured] for cell in contenders)]


def threads(path, count, figure="median_ms"):
    rows = timed("latency_x86_threads.json")
    return next(each[figure] for each in rows if (each["path"], each["num_threads"]) == (f"{path}.tflite", count))


def gain(path, figure="median_ms"):
    return threads(path, 1, figure) / threads(path, 2, figure)


# Header of the table (first cells) -> function from a row's texts to the values that each cell prints, `None` for the cell
# that names the row. A table that is not here has no figures.
def instructions(file, cpu="cortex-a72"):
    cpus = results("instructions_arm64_vit_small.json")["cpus"]
    models = next(each["models"] for each in cpus if each["cpu"] == cpu)
    return next(each["instructions"] for each in models if each["file"] == f"{file}.tflite") / 1e6


CORES = {
    "Cortex-A72 (Raspberry Pi 4)": "cortex-a72",
    "Cortex-A76 (Raspberry Pi 5), SDOT": "cortex-a76",
    "with i8mm, as in phones of today": "i8mm",
}


def cores(row):
    counts = {file: instructions(file, CORES[row[0]]) for file in ("float32", "dynamic", "acd_bit", "acd_bit_int8_stem")}
    return [None, *([each] for each in counts.values()), *([counts[file] / counts["acd_bit"]] for file in ("float32", "dynamic"))]


TABLES = {
    ("model", "file", "top-1, 10,000 test images"): small_table,
    ("system", "seeds", "top-1 %"): comparison,
    ("", "LiteRT float32", "LiteRT int8 (dynamic)"): latency,
    ("", "LiteRT float32", "its dynamic int8"): cores,
}


def timed(name):
    return results(name)["results"]


def compared(key):
    return next(row for row in results("compare_cifar10/results.json")["rows"] if row["key"] == key)


def test_every_table_with_figures_has_a_source():
    headers = [tuple(table.header[:3]) for table in tables()]
    for header in TABLES:
        assert headers.count(header) == 1, f"there must be one table that begins with {header}"
    for table in tables():
        if tuple(table.header[:3]) not in TABLES:
            loose = [cell for row in table.rows for cell in row if numbers(re.sub(r"`[^`]*`", "", cell))]
            assert not loose or table.header == ["command", "does"], f"figures without a source: {loose}"


@pytest.mark.parametrize("header", TABLES, ids=lambda header: header[1])
def test_the_figures_of_a_table_are_the_committed_ones(header):
    [table] = [table for table in tables() if tuple(table.header[:3]) == header]
    for row in table.rows:
        assert len(row) == len(table.header)
        for title, text, values in zip(table.header, row, TABLES[header](row), strict=True):
            if values is None:
                continue
            place = f"{row[0]}, {title}: {text!r}, committed are {values}"
            printed = numbers(text) if values else numbers(re.sub(r"float32|int8", "", text))
            assert len(printed) == len(values), place
            assert all(is_printed(value, figure) for value, figure in zip(values, printed)), place


# --- Sentences --------------------------------------------------------------------------------------------------------


def small(key):
    return results("cifar10_small/results.json")["runs"][f"cifar10_small_{key}"]["files"]["bits"]["parity"]["beyond_tolerance"]


ABLATIONS = ("ablation_cifar10", "ablation_cifar100")


def ablation(name, key, figure):
    rows = results(f"{name}/results.json")["rows"]
    baseline, row = (next(each for each in rows if each["key"] == wanted) for wanted in ("none", key))
    if figure == "top1":
        return 100 * row["summary"]["top1"]["mean"]
    if figure == "paper":
        return row["paper"]["top1"] - baseline["paper"]["top1"]
    return row["difference"][figure] * (1 if figure in ("n", "above") else 100)


def leads(seed):
    """Points of top-1 by which ACD-BiT lies before BinaryViT in the comparison."""
    ours, theirs = (
        next(cell["test"]["top1"] for cell in compared(key)["cells"] if cell["seed"] == seed) for key in ("acd_bit", "binary_vit")
    )
    return 100 * (ours - theirs)


def minutes(choose):
    rows = results("compare_cifar10/results.json")["rows"]
    return choose(cell["training_seconds"] for row in rows for cell in row["cells"] if row["key"] != "fq_vit_w8a4") / 60


def flipped(model, rate):
    """Points of top-1 that a model loses when that share of its weight bits is flipped."""
    found = results("robustness_cifar10/results.json")
    clean = next(each["clean"] for each in found["models"] if each["name"] == model)
    kept = [row["accuracy"] for row in found["rows"] if (row["test"], row["model"], row["strength"]) == ("bitflip", model, rate)]
    return 100 * (clean - sum(kept) / len(kept))


def kernel(name, kind, form, engine="acdbit:avx512", figure="speedup"):
    times = results(name)["times"]
    return next(each[figure] for each in times if (each["kernel"], each["form"], each["engine"]) == (kind, form, engine))


def xeon(file):
    return next(each["median_ms"] for each in timed("latency_xeon_vit_small.json") if each["path"] == f"{file}.tflite")


def parity(key):
    return results(f"runtime_parity/{key}.json")["beyond_tolerance"]


def on_arm64():
    return max(results(f"runtime_parity/arm64_{key}.json")["x86_64"]["largest_difference"] for key in ("acd_bit", "binary_vit"))


def shrinking():
    cards = [card(path.parent.name) for path in ZOO.glob("*/card.json")]
    return [found["size"]["float32_over_compact"] for found in cards if found["model"]["scheme"] != "float32"]


def transferred():
    """Accuracies that the notebook on transfer printed, in percent, in its order."""
    notebook = json.loads((ROOT / "notebooks" / "2_own_pictures_and_transfer.ipynb").read_text())
    texts = ["".join(out.get("text", "")) for cell in notebook["cells"] for out in cell.get("outputs", ())]
    return [float(found) for text in texts for found in re.findall(r"trained weights: ([\d.]+)%", text)]


X86, XEON = "kernels_x86.json", "kernels_xeon.json"
# Text of the README, {} for a figure -> the values.
SENTENCES = {
    "{} % from nothing, {} % with a new head behind the frozen body, {} % with all of it trained": transferred(),
    "network takes {} ms of processor time against {} for the Keras form under XLA": [
        results("speed_training.json")["contenders"][name]["cpu_milliseconds_per_step"]
        for name in ("acd_bit, labels, kernels", "acd_bit, labels")
    ],
    "installs {} MB, of which {} are this package, and `acdbit predict` answers within {} s of processor time in {} MB, where "
    "LiteRT alone takes {} s and {} MB": [results("device_start.json")[key] for key in ("installed_mb", "package_mb")]
    + [
        first[key]
        for first in results("device_start.json")["first_answer"].values()
        for key in ("processor_seconds", "resident_mb")
    ],
    "`cifar10_edge` knows {} % of CIFAR-10's test images; its file has {} kB and takes {} ms": [
        100 * card("cifar10_edge")["accuracy"]["top1"],
        card("cifar10_edge")["size"]["tflite_bytes"] / 1e3,
        card("cifar10_edge")["latency"]["median_ms"],
    ],
    "`cifar10_midi` ({} %) and `cifar100_edge` ({} % of CIFAR-100, {} kB and {} ms), each "
    "with a float twin ({} % and {} %) that take {} and {} ms": [
        100 * card("cifar10_midi")["accuracy"]["top1"],
        100 * card("cifar100_edge")["accuracy"]["top1"],
        card("cifar100_edge")["size"]["tflite_bytes"] / 1e3,
        card("cifar100_edge")["latency"]["median_ms"],
        *(100 * card(f"{name}_float32")["accuracy"]["top1"] for name in ("cifar10_midi", "cifar100_edge")),
        *(card(f"{name}_float32")["latency"]["median_ms"] for name in ("cifar10_midi", "cifar100_edge")),
    ],
    "`fashion_mnist_edge` knows {} % of Fashion-MNIST in a file of {} kB, in {} ms": [
        100 * card("fashion_mnist_edge")["accuracy"]["top1"],
        card("fashion_mnist_edge")["size"]["tflite_bytes"] / 1e3,
        card("fashion_mnist_edge")["latency"]["median_ms"],
    ],
    "{} % of the photographs of ten things, 96 x 96 pixels, in a file of {} kB, in {} ms": [
        100 * card("imagenette_edge")["accuracy"]["top1"],
        card("imagenette_edge")["size"]["tflite_bytes"] / 1e3,
        card("imagenette_edge")["latency"]["median_ms"],
    ],
    "students of CIFAR-10 ({} %), CIFAR-100 ({} %) and the digits ({} %), each with a card": [
        100 * card(name)["accuracy"]["top1"]
        for name in ("cifar10_vit_micro_acd_bit", "cifar100_vit_micro_acd_bit", "digits_vit_nano_acd_bit")
    ],
    "the same network without quantizers, {} % and {} %, named on": [
        100 * card(name)["accuracy"]["top1"] for name in ("cifar10_vit_micro_float32", "cifar100_vit_micro_float32")
    ],
    "(together 1/{} to 1/{} of float32 at this size": [min(shrinking()), max(shrinking())],
    "CIFAR-10, `vit_micro_patch4_32`, {} epochs, one seed": [
        results("cifar10_small/results.json")["runs"]["cifar10_small_acd_bit"]["training"]["epochs"]
    ],
    "Of the {} images {} (BinaryViT) and {} (ACD-BiT) differ from Keras": [10_000, small("binary_vit"), small("acd_bit")],
    "each run on one core in {} to {} minutes": [minutes(min), minutes(max)],
    "by little: {}, {} and {} points before BinaryViT with the same seed": [leads(seed) for seed in (0, 1, 2)],
    "and `cifar100_table_acd_bit` ({} epochs; {} and {} % for BinaryViT, {} and {} % for the teachers)": [
        *{results(f"{name}/results.json")["recipe"]["epochs"] for name in ABLATIONS},
        *(ablation(name, "none", "top1") for name in ABLATIONS),
        *(100 * results(f"{name}/results.json")["teacher"]["test"]["top1"] for name in ABLATIONS),
    ],
    "ACD-BiT less BinaryViT is {} ± {} points on CIFAR-10 ({} of {} seeds) and {} ± {} on CIFAR-100 ({} of {}),": [
        ablation(name, "Da+Dc", figure) for name in ABLATIONS for figure in ("mean", "se", "above", "n")
    ],
    "alignment alone {} ± {} and {} ± {}, correction alone {} ± {} and {} ± {} (mean and standard error of three seeds": [
        ablation(name, key, figure) for key in ("Da", "Dc") for name in ABLATIONS for figure in ("mean", "se")
    ],
    "The paper has {} and {}; here": [ablation(name, "Da+Dc", "paper") for name in ABLATIONS],
    "the same block reaches {} % instead of {}": [ablation("ablation_bits_cifar10", key, "top1") for key in ("all real", "none")],
    "the two students lose {} and {} points": [flipped("binary_vit", 0.1), flipped("acd_bit", 0.1)],
    "takes {} us against {} us for XNNPACK's float32 ({} times; AVX2 {} times)": [
        kernel(X86, "product", "1 bit", figure="median_us"),
        kernel(X86, "product", "float32", "litert", "median_us"),
        kernel(X86, "product", "1 bit"),
        kernel(X86, "product", "1 bit", "acdbit:avx2"),
    ],
    "the binary attention {} us against {} us ({} times; {} with the key bias of frozen means, {} with dynamic statistics)": [
        kernel(X86, "attention", "1 bit", figure="median_us"),
        kernel(X86, "attention", "float32", "litert", "median_us"),
        *(kernel(X86, "attention", form) for form in ("1 bit", "1 bit, key bias", "1 bit, dynamic")),
    ],
    "DeiT-S takes {} ms (`acd_bit`), {} (`binary_vit`) or {} (`acd_bit` with dynamic statistics, {} times its frozen form": [
        xeon("acd_bit"),
        xeon("binary_vit"),
        xeon("acd_bit_dynamic"),
        xeon("acd_bit_dynamic") / xeon("acd_bit"),
    ],
    "against {} of float32 and {} of its dynamic int8: {} and {} times": [
        xeon("float32"),
        xeon("dynamic"),
        xeon("float32") / xeon("acd_bit"),
        xeon("dynamic") / xeon("acd_bit"),
    ],
    "the product is {} times and the attention {} times as fast as float32": [
        kernel(XEON, kind, "1 bit") for kind in ("product", "attention")
    ],
    "depends on the core: {} to {} times fewer instructions": [
        instructions("dynamic", cpu) / instructions("acd_bit", cpu) for cpu in ("i8mm", "cortex-a72")
    ],
    "on two threads DeiT-S takes {} instead of {} ms ({} times as fast; {} in the fastest of 150 turns), "
    "its dynamic int8 {} instead of {}, `vit_tiny_patch4_32` {} instead of {} and `vit_micro_patch8_32` {} instead of {}": [
        threads("acd_bit", 2),
        threads("acd_bit", 1),
        gain("acd_bit"),
        gain("acd_bit", "min_ms"),
        *(threads(path, count) for path in ("dynamic", "vit_tiny_patch4_32", "vit_micro_patch8_32") for count in (2, 1)),
    ],
    "On the A72 `binary_vit` takes {} million, and `acd_bit[restore=dynamic]`": [instructions("binary_vit")],
    "of each input, {} million, {} times the frozen form": [
        instructions("acd_bit_dynamic"),
        instructions("acd_bit_dynamic") / instructions("acd_bit"),
    ],
    "{} (`acd_bit`) and {} (`binary_vit`) images part by more than": [parity("acd_bit"), parity("binary_vit")],
    "against Keras on all {} test images: the same class on every one": [results("runtime_parity/acd_bit.json")["samples"]],
    "{} of them under ARM64 emulation give the logits of x86_64 to {} (": [
        results("runtime_parity/arm64_acd_bit.json")["samples"],
        on_arm64(),
    ],
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_figures_of_a_sentence_are_the_committed_ones(sentence):
    pattern = re.escape(sentence).replace(r"\{\}", f"({NUMBER})")
    found = re.findall(pattern, " ".join(README.split()))
    assert len(found) == 1, "the README no longer says this, or more than once"
    printed = found[0] if isinstance(found[0], tuple) else (found[0],)
    assert all(is_printed(value, text) for value, text in zip(SENTENCES[sentence], printed, strict=True)), (
        f"printed {printed}, committed {SENTENCES[sentence]}"
    )
