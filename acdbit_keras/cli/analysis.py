"""Commands that look closely at trained models: `robustness`, `visualize` and `curves`."""

import pathlib
import shlex
import sys

from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command


def add_robustness(subparsers):
    parser = command(
        subparsers,
        "robustness",
        robustness,
        "Accuracy of several models under noise, attacks, corruptions and bit flips; results.json, results.csv, curves.png.",
        data=True,
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="run folders, .keras or .tflite files, or names of `acdbit zoo`"
    )
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument(
        "--tests",
        nargs="+",
        metavar="TEST",
        help="some of noise, attack, corruption, bitflip (default: all; attack needs Keras models)",
    )
    parser.add_argument("--samples", type=int, help="number of test images (default: 1000, or all where there are fewer)")
    parser.add_argument("--dataset", "--data", help="default: the one the models were trained on")
    parser.add_argument("--seed", type=int, help="of all random numbers (default: 0)")
    parser.add_argument("--repetitions", type=int, help="of noise and bit flips, each drawn anew (default: 3)")
    parser.add_argument(
        "--gaussian", type=float, nargs="+", metavar="SIGMA", help="standard deviations, in pixel values of 0 to 255"
    )
    parser.add_argument("--uniform", type=float, nargs="+", metavar="WIDTH", help="half widths, in pixel values of 0 to 255")
    parser.add_argument("--salt-and-pepper", type=float, nargs="+", metavar="SHARE", help="shares of the pixels, 0 to 1")
    parser.add_argument(
        "--epsilons", type=float, nargs="+", metavar="EPSILON", help="of FGSM and PGD, in pixel values of 0 to 255: 8 is 8/255"
    )
    parser.add_argument("--steps", type=int, help="of PGD (default: 10)")
    parser.add_argument("--severities", type=int, nargs="+", metavar="SEVERITY", help="of the corruptions, 1 to 5 (default: all)")
    parser.add_argument("--rates", type=float, nargs="+", metavar="RATE", help="of bit flips, probability per bit")


def robustness(options):
    import dataclasses

    from acdbit_keras.models import data
    from acdbit_keras.studies import subjects
    from acdbit_keras.studies.progress import Bar
    from acdbit_keras.studies.robustness import Settings, report, run

    names = [field.name for field in dataclasses.fields(Settings)]
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})
    dataset = subjects.shared_dataset(options.models, options.dataset, options.data_dir)
    if options.samples is None:
        settings = dataclasses.replace(
            settings, samples=min(settings.samples, data.info(dataset, options.data_dir).test_examples)
        )
    results = run(
        options.models, options.out, settings, dataset, options.data_dir, None if options.json else Bar("evaluations", sys.stderr)
    )
    emit(options, f"{report.table(results)}\nin {options.out}: results.json, results.csv, curves.png", results)


def add_visualize(subparsers):
    parser = command(
        subparsers,
        "visualize",
        visualize,
        "Five views of trained models on test images: distributions, features, Eigen-CAM, attention and its error; "
        "PNGs and one HTML page.",
        data=True,
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="run folders, .keras files, or names of `acdbit zoo`; a float teacher among them is compared with",
    )
    parser.add_argument("--out", required=True, help="folder of the pictures, index.html and results.json")
    parser.add_argument("--samples", type=int, help="number of test images (default: 500, or all where there are fewer)")
    parser.add_argument("--pictures", type=int, default=8, help="number of images shown with their maps (default: %(default)s)")
    parser.add_argument("--dataset", "--data", help="default: the one the models were trained on")
    parser.add_argument("--seed", type=int, default=0, help="of the embedding of the features (default: %(default)s)")


def visualize(options):
    from acdbit_keras.models import data
    from acdbit_keras.studies import subjects
    from acdbit_keras.studies.progress import Bar
    from acdbit_keras.studies.visualize import run, table

    dataset = subjects.shared_dataset(options.models, options.dataset, options.data_dir)
    samples = min(500, data.info(dataset, options.data_dir).test_examples) if options.samples is None else options.samples
    results = run(
        options.models,
        options.out,
        samples=samples,
        pictures=options.pictures,
        dataset=dataset,
        seed=options.seed,
        data_dir=options.data_dir,
        progress=None if options.json else Bar("steps", sys.stderr),
    )
    emit(options, f"{table(results)}\nopen {pathlib.Path(options.out) / 'index.html'}", results)


def add_curves(subparsers):
    parser = command(
        subparsers,
        "curves",
        curves,
        "Accuracy against hours of training, and what each model cost; figure.png, costs.md, results.json.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="run folders or names of the zoo; RUN+RUN where the second began with what the first had trained",
    )
    parser.add_argument("--out", required=True, help="folder of the results")


def curves(options):
    from acdbit_keras.machine import processor
    from acdbit_keras.studies import curves as study

    made_by = {
        "command": shlex.join(["acdbit", "curves", *options.models, "--out", options.out]),
        "processor": processor(),
    }
    results = study.run(options.models, pathlib.Path(options.out), made_by)
    emit(options, f"{study.markdown(results)}\nin {pathlib.Path(options.out)}", results)


COMMANDS = (add_robustness, add_visualize, add_curves)
