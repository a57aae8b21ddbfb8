"""A trained model on its way to the device, as every study takes it there: calibrated, converted, described, compared, timed.

conversion = deployed.convert(model, "student.tflite", "digits")
parity = deployed.compare(model, "student.tflite", "digits")
[timing] = deployed.time_files(["student.tflite"])
"""

import numpy as np

# What only works on files needs no Keras; what needs it is imported where it is used.

CARD = ("dataset", "scheme", "mean", "std", "central_share", "classes")  # what a file holds for whoever runs it


def card(model, dataset, data_dir=None):
    """What a device must know to use the file, by the names of `CARD`: what it was trained on, how images are normalised."""
    from acdbit_keras.models import data

    found = data.source(dataset, data_dir)
    facts = found.info()
    return {
        "dataset": found.name,
        "scheme": model.scheme.name,
        "mean": list(facts.mean),
        "std": list(facts.std),
        "central_share": facts.central_share,
        "classes": list(found.class_names()),
    }


def card_of(path):
    """The `card` that a `.tflite` or flat file holds, `{}` if none."""
    from acdbit_keras.convert import Interpreter, flatbuffer, metadata

    return Interpreter(path).card if str(path).endswith(".acdm") else metadata.card(flatbuffer.read(path))


def test_images(dataset, image_size, data_dir=None, samples=None, batch_size=64):
    """The test images of a dataset, or the first `samples` of them, with their labels: a `tf.data.Dataset` of batches."""
    from acdbit_keras.models import data

    test = data.pipeline(dataset, "test", image_size=image_size, batch_size=batch_size, data_dir=data_dir)
    return test if samples is None else test.unbatch().take(samples).batch(batch_size)


def convert(model, path, dataset=None, data_dir=None, precision=None, described=True, **options):
    """Converts a trained backbone, calibrated on images of the dataset where it is to compute in, or to give, integers.

    Args:
        model: `Backbone`, or another model that `to_tflite` takes.
        path: of the `.tflite` file.
        dataset: that the model was trained on; without one the file is not described, and cannot be of integers.
        data_dir: where the datasets are prepared.
        precision: as for `to_tflite`; `None` is what the model's scheme says.
        described: whether the file holds its `card`, or that card, where the dataset need not be here.
        **options: further ones of `to_tflite`.

    Returns:
        `Conversion`.

    Raises:
        ValueError: integers without a dataset; and what `to_tflite` raises.
    """
    from acdbit_keras.convert import to_tflite
    from acdbit_keras.models import data

    calibration = None
    precise = precision or getattr(getattr(model, "scheme", None), "precision", None)
    output = options.get("output", "float32")
    if precise == "int8" or output != "float32":
        if dataset is None:
            what = "precision 'int8' is" if precise == "int8" else f"an output of {output} is"
            raise ValueError(f"{what} calibrated on training images: name the dataset that they are of")
        calibration = data.calibration(dataset, model.image_size, data_dir)
    description = _description(model, dataset, data_dir, described)
    return to_tflite(model, path, precision=precision, calibration=calibration, card=description, **options)


def _description(model, dataset, data_dir, described):
    if isinstance(described, dict):
        return described
    return card(model, dataset, data_dir) if described and dataset else None


def convert_flat(model, path, dataset=None, data_dir=None, described=True, **options):
    """Converts a trained backbone to a flat file, described as `convert` does.

    Args:
        model, path, dataset, data_dir, described: as for `convert`.
        **options: further ones of `to_flat`.

    Returns:
        `FlatConversion`.
    """
    from acdbit_keras.convert import to_flat

    return to_flat(model, path, card=_description(model, dataset, data_dir, described), **options)


def compare(model, path, dataset, data_dir=None, samples=None, **options):
    """Holds a file against the model that it was made from, on test images.

    Args:
        model, path, dataset, data_dir: as for `convert`.
        samples: number of test images, the first ones; `None` for all.
        **options: further ones of `verify`.

    Returns:
        `Parity`.
    """
    from acdbit_keras.convert import verify

    return verify(model, path, test_images(dataset, model.image_size, data_dir, samples), **options)


def parity_facts(parity):
    """A `Parity` in plain types without its partings.

    One entry per suspicious image is for the eyes of `acdbit verify --json`; in a record the layers' counts suffice.
    """
    return {key: value for key, value in parity.to_dict().items() if key not in ("path", "partings")}


def evaluate_file(path, dataset, data_dir=None, model=None, compared=None):
    """Accuracy of a file on all test images of a dataset.

    Args:
        path: of the `.tflite` or flat file.
        dataset, data_dir: as for `convert`.
        model: the Keras model to compare classes with, if any.
        compared: number of images, in whole batches of 100, on which the classes are compared; `None` for all.

    Returns:
        Dict of `images`, `accuracy` (top-1) and `top5`; with a model also `compared` and `equal_argmax`, the number of
        images compared and the share of them that both put into the same class.
    """
    from acdbit_keras.convert import Interpreter, pictures

    interpreter = Interpreter(path)
    pixels = pictures.pixels_for(interpreter)
    images = right = among_five = seen = equal = 0
    for batch, labels in test_images(dataset, interpreter.input_shape[0], data_dir, batch_size=100).as_numpy_iterator():
        logits = interpreter.predict(pixels.of(batch) if pixels else batch)
        answers = logits.argmax(axis=1)
        ahead = (logits > np.take_along_axis(logits, labels[:, None], axis=1)).sum(axis=1)
        images, right, among_five = images + len(batch), right + (answers == labels).sum(), among_five + (ahead < 5).sum()
        if model is not None and (compared is None or seen < compared):
            seen += len(batch)
            equal += (answers == np.argmax(model.predict(batch, verbose=0), axis=1)).sum()
    found = {"images": images, "accuracy": float(right / images), "top5": float(among_five / images)}
    return found if model is None else {**found, "compared": seen, "equal_argmax": float(equal / seen)}


def time_files(paths, runs=100):
    """Times files side by side, one inference each in turns, on one thread.

    Args:
        paths: of the files, at least one.
        runs: timed inferences of each.

    Returns:
        List of a dict per file: `engine`, `median_ms`, `p90_ms`, and `arena_bytes`, the memory of its activations.
    """
    from acdbit_keras.convert import benchmark

    names = ("engine", "median_ms", "p90_ms", "arena_bytes")
    timings = benchmark([str(path) for path in paths], runs=runs, profile=False)
    return [{name: getattr(timing, name) for name in names} for timing in timings]
