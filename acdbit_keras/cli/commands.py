"""The commands. Each function adds one to the parser; rooms are imported when a command runs, not before."""

import pathlib
import sys

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import add_settings, card, card_of, command, dataset_of, model_of

# --- demo -----------------------------------------------------------------------------------------------------------


def add_demo(subparsers):
    parser = command(subparsers, "demo", demo, "Train, distil, convert, verify and time on the digits, in a few minutes.")
    parser.add_argument("--out", default="runs/demo", help="folder of everything it makes (default: %(default)s)")
    add_settings(parser)


def demo(options):
    from acdbit_keras.cli import demo as room

    report = room.run(pathlib.Path(options.out), options.set, verbose=0 if options.json else 1)
    emit(options, room.table(report), report)


# --- train ----------------------------------------------------------------------------------------------------------


def add_train(subparsers):
    parser = command(subparsers, "train", train, "Train a recipe into a folder; an unfinished run there is resumed.", data=True)
    parser.add_argument("recipe", nargs="?", help="name of a recipe; see --list")
    parser.add_argument("--list", action="store_true", help="list the recipes")
    parser.add_argument("--out", help="the run's folder (default: RUNS/RECIPE)")
    parser.add_argument(
        "--runs", default="runs", help="folder of runs, where the recipe's teacher is found or made (default: %(default)s)"
    )
    parser.add_argument("--teacher", help="run folder or .keras file of another teacher")
    parser.add_argument(
        "--devices", type=int, default=1, help="devices that share every batch, on the JAX backend (default: %(default)s)"
    )
    add_settings(parser)


def train(options):
    from acdbit_keras.models import recipes

    if options.list:
        listed = {name: _recipe_line(recipes.get(name)) for name in recipes.names()}
        emit(options, "\n".join(f"{name:28}{line}" for name, line in listed.items()), listed)
        return
    if not options.recipe:
        raise ValueError(f"train needs a recipe; known: {', '.join(recipes.names())}")
    from acdbit_keras.models.train import train as run_recipe

    recipe = recipes.get(options.recipe).with_settings(options.set)
    folder = options.out or pathlib.Path(options.runs) / recipe.name
    verbose = 0 if options.json else 1 if sys.stdout.isatty() else 2
    result = run_recipe(recipe, folder, options.data_dir, options.teacher, options.runs, verbose, options.devices)
    emit(options, f"{recipe.name}: accuracy {result['accuracy']:.4f} (best {result['best_accuracy']:.4f}), in {folder}", result)


def _recipe_line(recipe):
    teacher = f", teacher {recipe.teacher}" if recipe.teacher else ""
    return f"{recipe.scheme} {recipe.preset} on {recipe.dataset}, {recipe.epochs} epochs{teacher}"


# --- evaluate -------------------------------------------------------------------------------------------------------


def add_evaluate(subparsers):
    parser = command(
        subparsers, "evaluate", evaluate, "Accuracy of a run, a .keras or a .tflite file on the test images.", data=True
    )
    parser.add_argument("model", help="run folder, .keras or .tflite file")
    parser.add_argument("--dataset", help="default: the one the model was trained on")


def evaluate(options):
    if str(options.model).endswith(".tflite"):
        result = _evaluate_file(options)
    else:
        from acdbit_keras.models import train as room
        from acdbit_keras.models.loading import load_model

        result = room.evaluate(load_model(options.model), dataset_of(options, options.model), options.data_dir)
    emit(
        options,
        "  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()),
        result,
    )


def _evaluate_file(options):
    import numpy as np

    from acdbit_keras.convert import Interpreter
    from acdbit_keras.models import data

    interpreter = Interpreter(options.model)
    dataset = options.dataset or card_of(options.model).get("dataset")
    if not dataset:
        raise ValueError(f"{options.model} does not say which dataset it was trained on; pass --dataset")
    test = data.pipeline(dataset, "test", image_size=interpreter.input_shape[0], data_dir=options.data_dir)
    ranks = []
    for images, labels in test.as_numpy_iterator():
        logits = interpreter.predict(images)
        ranks.append((logits > np.take_along_axis(logits, labels[:, None], axis=1)).sum(axis=1))
    ranks = np.concatenate(ranks)
    return {"images": len(ranks), "accuracy": float((ranks < 1).mean()), "top5": float((ranks < 5).mean())}


# --- summary --------------------------------------------------------------------------------------------------------


def add_summary(subparsers):
    parser = command(subparsers, "summary", summary, "Per layer: bits, packed bytes, bit-MACs, float MACs; totals and file size.")
    parser.add_argument("model", help="run folder, .keras file, or PRESET:SCHEME[:CLASSES] for an untrained model")


def summary(options):
    from acdbit_keras import cost

    analysis = cost.analyse(model_of(options.model))
    emit(options, analysis.table(), analysis.to_dict())


# --- convert --------------------------------------------------------------------------------------------------------


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
    from acdbit_keras.convert import to_tflite

    model = model_of(options.model)
    calibration = None
    precision = options.precision or getattr(getattr(model, "scheme", None), "precision", None)
    dataset = dataset_of(options, options.model, required=precision == "int8")
    if precision == "int8":
        from acdbit_keras.models import data

        calibration = data.pipeline(
            dataset, "train", image_size=model.image_size, batch_size=128, data_dir=options.data_dir, augment="none"
        ).take(2)
    report = to_tflite(
        model,
        options.out,
        precision=precision,
        attention=options.attention,
        fuse_blocks=not options.layers,
        half=options.half,
        calibration=calibration,
        card=card(model, dataset, options.data_dir) if dataset else None,
    )
    emit(options, str(report), report.to_dict())


# --- verify ---------------------------------------------------------------------------------------------------------


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
    from acdbit_keras.convert import verify as compare
    from acdbit_keras.models import data
    from acdbit_keras.models.loading import load_model

    model = load_model(options.model)
    if options.samples is not None and options.samples < 1:
        raise ValueError(f"--samples must be at least 1, not {options.samples}")
    test = data.pipeline(
        dataset_of(options, options.model), "test", image_size=model.image_size, batch_size=64, data_dir=options.data_dir
    )
    if options.samples is not None:
        test = test.unbatch().take(options.samples).batch(64)
    parity = compare(model, options.file, test, tolerance=options.tolerance, num_threads=options.threads)
    emit(options, str(parity), parity.to_dict())
    return 0 if parity.ok else 1


# --- predict --------------------------------------------------------------------------------------------------------


def add_predict(subparsers):
    parser = command(subparsers, "predict", predict, "Classify image files with a .tflite file or a trained model of the zoo.")
    parser.add_argument("file", help="the .tflite file, converted from a run, or a name of `acdbit zoo`")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG files; resized to the model's input")
    parser.add_argument("--top", type=int, default=3, help="classes to print per image (default: %(default)s)")


def predict(options):
    import tempfile

    import numpy as np

    from acdbit_keras.convert import Interpreter

    if options.top < 1:
        raise ValueError(f"--top must be at least 1, not {options.top}")
    with tempfile.TemporaryDirectory() as folder:
        file = options.file
        if not pathlib.Path(file).suffix and not pathlib.Path(file).exists():
            from acdbit_keras.cli import zoo

            file = zoo.converted(file, folder)
        interpreter = Interpreter(file)
        facts = card_of(file)
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


# --- data -----------------------------------------------------------------------------------------------------------


def add_data(subparsers):
    parser = command(subparsers, "data", data, "List the datasets, or prepare one.", data=True)
    parser.add_argument("action", choices=("list", "prepare"))
    parser.add_argument("name", nargs="?", help="dataset to prepare")


def data(options):
    from acdbit_keras.models import data as room

    if options.action == "prepare":
        if not options.name:
            raise ValueError(f"data prepare needs a dataset; known: {', '.join(room.names())}")
        folder = room.prepare(options.name, options.data_dir)
        emit(
            options,
            f"{options.name} is ready" + (f" in {folder}" if folder else ""),
            {"name": options.name, "folder": folder and str(folder)},
        )
        return
    rows = {}
    for name in room.names():
        facts = room.info(name)
        rows[name] = {
            "classes": facts.classes,
            "image_size": facts.image_size,
            "train": facts.train_examples,
            "test": facts.test_examples,
        }
    text = "\n".join(f"{name:15}" + "  ".join(f"{key} {value}" for key, value in row.items()) for name, row in rows.items())
    emit(options, text, rows)


# --- report ---------------------------------------------------------------------------------------------------------


def add_report(subparsers):
    parser = command(subparsers, "report", report, "Evaluate, convert, verify and time finished runs into one folder.", data=True)
    parser.add_argument("out", help="folder for results.json, results.md, curves.png and the histories")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--samples", type=int, help="test images for parity (default: all)")


def report(options):
    from acdbit_keras.cli import report as room

    say = (lambda text: None) if options.json else (lambda text: print(text, flush=True))
    results = room.run(
        pathlib.Path(options.out), [pathlib.Path(run) for run in options.runs], options.data_dir, options.samples, say
    )
    emit(options, room.markdown(results), results)


# --- speed ----------------------------------------------------------------------------------------------------------


def add_speed(subparsers):
    parser = command(subparsers, "speed", speed, "Training speed of float, baseline and aligned models, in turns in one run.")
    parser.add_argument("--preset", default="vit_micro_patch4_32", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps per turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns after the first, which compiles (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", help="a contender to measure besides binary_vit; may be repeated (default: all)"
    )
    parser.add_argument("--out", help="also write the JSON value to this file")


def speed(options):
    import json

    from acdbit_keras.files import write_beside
    from acdbit_keras.studies.speed import measure

    for name in ("batch_size", "steps", "rounds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    rows = measure(options.preset, options.batch_size, options.steps, options.rounds, only=options.only)
    value = {"preset": options.preset, "batch_size": options.batch_size, "contenders": rows}
    if options.out:
        write_beside(options.out, lambda path: path.write_text(json.dumps(value, indent=1) + "\n"))
    text = "\n".join(
        f"{name:46}{row['images_per_second']:9.0f} images/s{row['relative_time']:7.2f} x binary_vit's time"
        f"{row['relative_cpu_time']:7.2f} x its processor time"
        for name, row in rows.items()
    )
    emit(options, text, value)


COMMANDS = (add_demo, add_train, add_evaluate, add_summary, add_convert, add_verify, add_predict, add_report, add_speed, add_data)
