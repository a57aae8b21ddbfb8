"""Commands that make and run files: `summary`, `convert`, `verify`, `predict`."""

import dataclasses
import pathlib

from acdbit_keras import checks
from acdbit_keras.cli import emit
from acdbit_keras.cli.common import MODEL, command, dataset_of, in_zoo, model_of
from acdbit_keras.studies import deployed

FORMATS = ("tflite", "flat", "c", "arduino")
_FORMAT_OF_SUFFIX = {".acdm": "flat", ".c": "c", ".h": "c"}


def add_summary(subparsers):
    parser = command(subparsers, "summary", summary, "Per layer: bits, packed bytes, bit-MACs, float MACs; totals and file size.")
    parser.add_argument("model", help=MODEL)


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
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "out", help="the file: .tflite, .acdm (flat), .c (flat, as a C source), or a new folder for --format arduino"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="tflite; flat, for the engine without LiteRT; c, that as a header and a source; arduino, a library of source and "
        "engine (default: as the suffix of the file says)",
    )
    parser.add_argument(
        "--compact",
        action="store_true",
        help="stem and classifier in int8, vectors in half precision; in flat forms the stem then computes in integers",
    )
    parser.add_argument("--precision", help="bits, float32, float16, dynamic or int8 (default: what the scheme says)")
    parser.add_argument(
        "--attention",
        help="binary, for this project's runtime, or float, which Larq Compute Engine executes too "
        "(default: binary if the runtime is there)",
    )
    parser.add_argument("--half", action="store_true", help="round the patch embedding to half precision, which halves its space")
    parser.add_argument(
        "--stem",
        default="float32",
        help="float32, or int8: the patch embedding in integers, in a quarter of its time and space (default: %(default)s)",
    )
    parser.add_argument(
        "--input",
        default="float32",
        help="float32, normalised images, or uint8, a camera's pixels, which the file normalises, or int8, pixels less 128 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        default="float32",
        help="float32, or int8 or uint8, logits with a scale and a zero point that training images give (default: %(default)s)",
    )
    parser.add_argument("--layers", action="store_true", help="keep every layer an op of its own instead of one op per block")
    parser.add_argument(
        "--dataset", "--data", help="dataset whose images calibrate integers (default: the one the model was trained on)"
    )


def convert(options):
    model = model_of(options.model)
    form = options.format or _FORMAT_OF_SUFFIX.get(pathlib.Path(options.out).suffix, "tflite")
    if form != "tflite":
        _convert_flat(options, model, form)
        return
    precision = options.precision or getattr(getattr(model, "scheme", None), "precision", None)
    dataset = dataset_of(options, options.model, required=precision == "int8" or options.output != "float32")
    described = _described(options)
    report = deployed.convert(
        model,
        options.out,
        dataset,
        options.data_dir,
        precision,
        described,
        attention=options.attention,
        fuse_blocks=not options.layers,
        half=options.half,
        compact=options.compact,
        input=options.input,
        output=options.output,
        stem=options.stem,
    )
    emit(options, str(report), report.to_dict())


def _described(options):
    """The card of the file: that of the zoo's entry, or made of the dataset."""
    if options.dataset or not in_zoo(options.model):
        return True
    from acdbit_keras.studies import zoo

    return zoo.description(options.model)


def _convert_flat(options, model, form):
    import tempfile

    from acdbit_keras.convert import flat_source

    for name, value in (("precision", options.precision), ("attention", options.attention)):
        if value not in (None, {"precision": "bits", "attention": "binary"}[name]):
            raise ValueError(f"--{name} {value} is for .tflite files; flat ones have bits and binary attention")
    for name in ("half", "layers"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for .tflite files" + ("; --compact makes flat ones smaller" if name == "half" else ""))
    if options.output != "float32":
        raise ValueError(f"--output {options.output} is for .tflite files; flat ones give floats")
    if options.stem != "float32":
        raise ValueError(f"--stem {options.stem} is for .tflite files; --compact gives flat ones a stem of integers")
    dataset = dataset_of(options, options.model, required=False)
    settings = dict(data_dir=options.data_dir, described=_described(options), compact=options.compact, input=options.input)
    if form == "flat":
        report = deployed.convert_flat(model, options.out, dataset, **settings)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "model.acdm"
            report = dataclasses.replace(deployed.convert_flat(model, file, dataset, **settings), path=options.out)
            write = flat_source.write_c if form == "c" else flat_source.write_arduino
            write(file.read_bytes(), options.out)
    emit(options, str(report), report.to_dict())


def add_verify(subparsers):
    parser = command(
        subparsers,
        "verify",
        verify,
        "Compare a .tflite or flat file with the Keras model on real samples; exit 1 beyond tolerance.",
        data=True,
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("file", help="the .tflite or flat (.acdm) file")
    parser.add_argument("--dataset", "--data", help="default: the one the model was trained on")
    parser.add_argument("--samples", type=int, help="number of test images (default: all)")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of a logit (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)


def verify(options):
    model = model_of(options.model)
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
    parser.add_argument("file", help="the .tflite or flat (.acdm) file, converted from a run, or a name of `acdbit zoo`")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG or JPEG files; the central square is scaled to the model's input"
    )
    parser.add_argument("--top", type=int, default=3, help="classes to print per image (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)


def predict(options):
    import contextlib
    import tempfile

    from acdbit_keras import picture
    from acdbit_keras.convert import Interpreter

    checks.integer("--top", options.top, 1)
    with contextlib.ExitStack() as stack:
        file = options.file
        if not pathlib.Path(file).suffix and not pathlib.Path(file).exists():
            from acdbit_keras.models.zoo import entries
            from acdbit_keras.studies import zoo

            # Before the model is converted, which takes its time.
            entries.card(file)
            if missing := [path for path in options.images if not pathlib.Path(path).exists()]:
                raise ValueError(f"there is no file {missing[0]}")
            file = zoo.converted(file, stack.enter_context(tempfile.TemporaryDirectory()))
        interpreter = Interpreter(file, options.threads)
    answers = [
        {
            "image": path,
            "classes": [answer._asdict() for answer in interpreter.classify(picture.read_whole(path), options.top)],
        }
        for path in options.images
    ]
    lines = [
        "  ".join([answer["image"], *(f"{c['name']} {c['probability']:.3f}" for c in answer["classes"])]) for answer in answers
    ]
    emit(options, "\n".join(lines), answers)


COMMANDS = (
    add_summary,
    add_convert,
    add_verify,
    add_predict,
)
