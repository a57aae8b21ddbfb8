"""What several commands share: their parser, the model and dataset they are given."""

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


MODEL = "run folder, .keras file, name of `acdbit zoo`, or PRESET:SCHEME[:CLASSES] for an untrained model"


def model_of(text):
    """The model that a run folder, a `.keras` file, a name of the zoo or PRESET:SCHEME[:CLASSES] names."""
    if ":" in text and not pathlib.Path(text).exists():
        from acdbit_keras.models import build

        preset, scheme, *classes = text.split(":")
        if len(classes) > 1 or not all(c.isdigit() for c in classes):
            raise ValueError(f"an untrained model is named PRESET:SCHEME or PRESET:SCHEME:CLASSES, not {text!r}")
        return build(preset, scheme, *map(int, classes))
    from acdbit_keras.models import from_zoo, load_model

    return from_zoo(text) if in_zoo(text) else load_model(text)


def in_zoo(text):
    """Whether a model is named by an entry of the zoo, and not by a file or folder of that name."""
    from acdbit_keras.models import zoo_names

    return not pathlib.Path(text).exists() and text in zoo_names()


def dataset_of(options, model, required=True):
    """The dataset that `--dataset` names, or else that a model's folder or card says it was trained on.

    Of images that no name stands for it is the file in the run's folder that says what was found: `data.source` takes it.
    """
    if options.dataset:
        return options.dataset
    from acdbit_keras.studies import subjects

    return subjects.needed_dataset_of(model, options.data_dir) if required else subjects.dataset_of(model)
