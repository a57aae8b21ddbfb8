"""`acdbit demo`: the whole chain on the digits, ending with a table and two pictures."""

import shutil
import sys
import textwrap
import time

import numpy as np

from acdbit_keras import figures, text
from acdbit_keras.convert import Interpreter
from acdbit_keras.files import write_beside, write_json
from acdbit_keras.models import data, recipes
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.train import train
from acdbit_keras.studies import deployed
from acdbit_keras.studies.progress import Epochs, speaker

DATASET = "digits"
TEACHER, STUDENT = "digits_teacher", "digits_acd_bit"


def run(folder, settings=(), verbose=1):
    """Trains teacher and student, converts both, verifies the bits against Keras, times the files.

    Args:
        folder: `pathlib.Path` of everything it makes; training that is finished there is not repeated.
        settings: `key=value` strings that change both recipes.
        verbose: 0 for silence, 1 for progress.

    Returns:
        A dict of plain values: accuracies, sizes, parity, latencies, files, seconds.
    """
    start = time.perf_counter()
    say, epochs = speaker(quiet=not verbose), Epochs(sys.stdout if verbose else None)
    say(f"1/5  training the float teacher ({TEACHER})")
    teacher_result = train(recipes.get(TEACHER).with_settings(settings), folder / TEACHER, verbose=0, progress=epochs)
    say(f"     accuracy {teacher_result['accuracy']:.4f}")
    say(f"2/5  distilling it into the 1-bit student ({STUDENT})")
    student_result = train(
        recipes.get(STUDENT).with_settings(settings), folder / STUDENT, teacher=folder / TEACHER, verbose=0, progress=epochs
    )
    say(f"     accuracy {student_result['accuracy']:.4f}")

    teacher, student = load_model(folder / TEACHER), load_model(folder / STUDENT)
    files = {"float32": folder / "teacher.tflite", "int8": folder / "teacher_int8.tflite", "bits": folder / "student.tflite"}
    say("3/5  converting to .tflite")
    conversions = {
        name: deployed.convert(student if name == "bits" else teacher, path, DATASET, precision=name)
        for name, path in files.items()
    }
    say(f"     {conversions['bits']}")
    say("4/5  comparing Keras and the files on all test images")
    parity = deployed.compare(student, files["bits"], DATASET)
    say(textwrap.indent(str(parity), " " * 5))
    accuracy = {name: deployed.evaluate_file(path, DATASET)["accuracy"] for name, path in files.items()}
    say("5/5  timing the files side by side")
    timings = deployed.time_files(files.values(), runs=200)
    report = {
        "teacher_accuracy": teacher_result["accuracy"],
        "student_accuracy": student_result["accuracy"],
        "parity": parity.to_dict(),
        "models": {
            name: {
                "file": str(files[name]),
                "accuracy": accuracy[name],
                "file_bytes": conversions[name].bytes,
                **timing,
            }
            for name, timing in zip(files, timings)
        },
        "pictures": [str(folder / "predictions.png"), str(folder / "distributions.png")],
        "digit": str(folder / "digit.png"),
    }
    images, labels = (np.concatenate(parts) for parts in zip(*data.pipeline(DATASET, "test").as_numpy_iterator()))
    _draw_predictions(folder / "predictions.png", images, labels, Interpreter(files["bits"]))
    _draw_distributions(folder / "distributions.png", student, images)
    _write_digit(report["digit"], data.arrays(DATASET, "test")[0][0])
    report["seconds"] = time.perf_counter() - start
    write_json(folder / "demo.json", report)
    return report


def table(report):
    """The report as text."""
    names = {"float32": "teacher, float32", "int8": "teacher, int8", "bits": "student, 1 bit"}
    header = ["", "engine", "accuracy", "file kB", "arena kB", "median ms", "p90 ms"]
    rows = [
        [
            names[name], row["engine"], f"{row['accuracy']:.4f}", f"{row['file_bytes'] / 1e3:.1f}",
            f"{row['arena_bytes'] / 1e3:.1f}", f"{row['median_ms']:.3f}", f"{row['p90_ms']:.3f}",
        ]
        for name, row in report["models"].items()
    ]  # fmt: skip
    parity = report["parity"]
    # `make demo` runs the command of an environment that is not switched on.
    acdbit = "acdbit" if shutil.which("acdbit") else sys.argv[0]
    lines = [
        text.table(header, rows, text_columns=2),
        f"Keras against the 1-bit file, {parity['samples']} images: argmax equal on {parity['equal_argmax']:.2%}, "
        f"largest logit difference {parity['largest_difference']:.1e}",
        f"pictures: {', '.join(report['pictures'])}",
        f"whole demo: {report['seconds']:.0f} s",
        "",
        "next:",
    ]
    following = {
        f"{acdbit} predict {report['models']['bits']['file']} {report['digit']}": "classify one of the test images",
        f"{acdbit} train digits_acd_bit --data FOLDER": "train on pictures of your own, a folder for each class",
        f"{acdbit} zoo": "the models that are trained already",
    }
    width = max(map(len, following))
    return "\n".join([*lines, *(f"  {command:{width}}  {what}" for command, what in following.items())])


def _write_digit(path, image):
    """A test image to try `acdbit predict` with, as small as it is: enlarged it would be another to the model."""
    from PIL import Image

    write_beside(path, lambda temporary: Image.fromarray(image[..., 0]).save(temporary, format="png"))


def _draw_predictions(path, images, labels, interpreter, count=24):
    predicted = interpreter.predict(images[:count]).argmax(axis=1)
    figure, axes = figures.new(3, count // 3, size=(10, 4.2))
    for axis, image, label, answer in zip(axes.flat, images, labels, predicted):
        axis.imshow(image[..., 0], cmap="gray_r")
        axis.set_title(str(answer), color="black" if answer == label else "red", fontsize=11)
        axis.axis("off")
    figure.suptitle("1-bit student on test images (wrong answers in red)")
    figures.save(figure, path)


def _draw_distributions(path, student, images):
    """Query inputs of the first and last block: real values, their threshold, and the code that replaces them."""
    taps = student(images, training=False, return_taps=True)["taps"]
    figure, axes = figures.new(1, 2, size=(10, 3.6))
    for axis, index in zip(axes.flat, (0, student.depth - 1)):
        query = np.asarray(taps[index]["query"])
        code = student.blocks[index].attention.query_quantizer(taps[index]["query"], training=False)
        decoded, signs = np.asarray(code.decode()), np.asarray(code.signs)
        limit = np.percentile(np.abs(query), 99)
        axis.hist(query.ravel(), bins=80, range=(-limit, limit), density=True, alpha=0.5, label="query, real")
        axis.hist(decoded.ravel(), bins=80, range=(-limit, limit), density=True, alpha=0.5, label="query, aligned bits")
        axis.axvline(query.mean(), color="C0", linestyle="--", linewidth=1, label=f"mean {query.mean():+.3f}")
        axis.axvline(decoded.mean(), color="C1", linestyle=":", linewidth=1.5, label=f"mean {decoded.mean():+.3f}")
        axis.set_title(f"block {index}: P(+1) = {(signs > 0).mean():.3f}")
        axis.legend(fontsize=8)
    figures.save(figure, path)
