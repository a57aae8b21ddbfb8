"""What several commands share: their parser, the model and dataset they are given, the card of a file."""

import json
import pathlib


def command(subparsers, name, run, summary, *, data=False):
    """The parser of a new command; `run` is called with its options, `data` adds the folder of the datasets."""
    parser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    if data:
        parser.add_argument(
            "--data-dir", help="folder of the prepared datasets (default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets)"
        )
    parser.set_defaults(run=run)
    return parser


def add_settings(parser):
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one choice of the recipe; repeatable"
    )


def model_of(text):
    """The model that a run folder, a `.keras` file or PRESET:SCHEME[:CLASSES] names."""
    if ":" in text and not pathlib.Path(text).exists():
        from acdbit_keras.models import build

        preset, scheme, *classes = text.split(":")
        if len(classes) > 1 or not all(c.isdigit() for c in classes):
            raise ValueError(f"an untrained model is named PRESET:SCHEME or PRESET:SCHEME:CLASSES, not {text!r}")
        return build(preset, scheme, *map(int, classes))
    from acdbit_keras.models.loading import load_model

    return load_model(text)


def dataset_of(options, model, required=True):
    """The dataset that `--dataset` names, or else that a model's folder says it was trained on.

    Of images that no name stands for it is the file in the run's folder that says what was found: `data.source` takes it.
    """
    if options.dataset:
        return options.dataset
    folder = pathlib.Path(model)
    folder = folder if folder.is_dir() else folder.parent
    if (folder / "recipe.json").exists():
        from acdbit_keras.models import train

        return train.dataset_of(folder)
    if (folder / "card.json").exists():
        # An entry of the zoo.
        return json.loads((folder / "card.json").read_text())["data"]["dataset"]
    if required:
        raise ValueError(f"there is no recipe.json beside {model} that says which dataset it was trained on; pass --dataset")
    return None


def card_of(path):
    """The `card` that a `.tflite` file holds, `{}` if none."""
    from acdbit_keras.convert import flatbuffer, rewrite

    return rewrite.metadata(flatbuffer.read(path)).get("card", {})
