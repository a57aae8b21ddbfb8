"""Commands that make and run files: `summary`, `convert`, `verify`, `predict`."""

import pathlib

from acdbit_keras import checks
from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command, dataset_of, model_of
from acdbit_keras.studies import deployed


def add_summary(subparsers):
    parser = command(subparsers, "summary", summary, "Per layer: bits, packed bytes, bit-MACs, float MACs; totals and file size.")
    parser.add_argument("model", help="run folder, .keras file, or PRESET:SCHEME[:CLASSES] for an untrained model")


def summary(options):
    from acdbit_keras import cost

    analysis = cost.analyse(model_of(options.model))
    emit(options, analysis.table(), analysis.to_dict())


def add_convert(subparsers):
    parser = command(
        subparsers,
        "convert",
        convert,
        "Convert a run or a .keras file to .tflite; binary layers are packed into bits.",
        data=True,
    )
    parser.add_argument("model", help="run folder, .keras file, or PRESET:SCHEME[:CLASSES] for an untrained model")
    parser.add_argument("out", help="the .tflite file")
    parser.add_argument("--precision", help="bits, float32, float16, dynamic or int8 (default: what the scheme says)")
    parser.add_argument(
        "--attention",
        help="binary, for this project's runtime, or float, which Larq Compute Engine executes too (default: binary if the runtime is there)",
    )
    parser.add_argument("--half", action="store_true", help="round the patch embedding to half precision, which halves its space")
    parser.add_argument("--layers", action="store_true", help="keep every layer an op of its own instead of one op per block")
    parser.add_argument("--dataset", help="dataset whose images calibrate int8 (default: the one the model was trained on)")


def convert(options):
    model = model_of(options.model)
    precision = options.precision or getattr(getattr(model, "scheme", None), "precision", None)
    dataset = dataset_of(options, options.model, required=precision == "int8")
    report = deployed.convert(
        model,
        options.out,
        dataset,
        options.data_dir,
        precision,
        attention=options.attention,
        fuse_blocks=not options.layers,
        half=options.half,
    )
    emit(options, str(report), report.to_dict())


def add_verify(subparsers):
    parser = command(
        subparsers,
        "verify",
        verify,
        "Compare a .tflite file with the Keras model on real samples; exit 1 beyond tolerance.",
        data=True,
    )
    parser.add_argument("model", help="run folder or .keras file")
    parser.add_argument("file", help="the .tflite file")
    parser.add_argument("--dataset", help="default: the one the model was trained on")
    parser.add_argument("--samples", type=int, help="number of test images (default: all)")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of a logit (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)


def verify(options):
    from acdbit_keras.models.loading import load_model

    model = load_model(options.model)
    if options.samples is not None:
        checks.integer("--samples", options.samples, 1)
    parity = deployed.compare(
        model,
        options.file,
        dataset_of(options, options.model),
        options.data_dir,
        options.samples,
        tolerance=options.tolerance,
        num_threads=options.threads,
    )
    emit(options, str(parity), parity.to_dict())
    return 0 if parity.ok else 1


def add_predict(subparsers):
    parser = command(subparsers, "predict", predict, "Classify image files with a .tflite file or a trained model of the zoo.")
    parser.add_argument("file", help="the .tflite file, converted from a run, or a name of `acdbit zoo`")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG files; resized to the model's input")
    parser.add_argument("--top", type=int, default=3, help="classes to print per image (default: %(default)s)")


def predict(options):
    import tempfile

    import numpy as np

    from acdbit_keras.convert import Interpreter

    checks.integer("--top", options.top, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = options.file
        if not pathlib.Path(file).suffix and not pathlib.Path(file).exists():
            from acdbit_keras.studies import zoo

            file = zoo.converted(file, folder)
        interpreter = Interpreter(file)
        facts = deployed.card_of(file)
        if not facts:
            raise ValueError(f"{file} does not hold its classes and normalisation; convert it from a run's folder")
        images = np.stack([_read_image(path, interpreter.input_shape, facts) for path in options.images])
        logits = interpreter.predict(images)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    answers = []
    for path, row in zip(options.images, probabilities):
        best = np.argsort(-row)[: options.top]
        answers.append({"image": path, "classes": [{"name": facts["classes"][i], "probability": float(row[i])} for i in best]})
    lines = [
        "  ".join([answer["image"], *(f"{c['name']} {c['probability']:.3f}" for c in answer["classes"])]) for answer in answers
    ]
    emit(options, "\n".join(lines), answers)


def _read_image(path, shape, facts):
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
        if image.mode.startswith("I;16"):
            # Pillow would cut the 16 bits off at 255 instead of scaling them.
            image = Image.fromarray((np.asarray(image) // 257).astype("uint8"))
        image = image.convert("L" if shape[-1] == 1 else "RGB").resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    pixels = np.asarray(image, "float32").reshape(shape) / 255.0
    return (pixels - np.asarray(facts["mean"], "float32")) / np.asarray(facts["std"], "float32")


COMMANDS = (
    add_summary,
    add_convert,
    add_verify,
    add_predict,
)
