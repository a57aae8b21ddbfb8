"""A trained model on its way to the device: what every study does with it."""


def card(model, dataset, data_dir=None):
    """What a device must know to use the file: dataset, class names and the normalisation of its images."""
    from acdbit_keras.models import data

    facts = data.info(dataset)
    return {
        "dataset": dataset,
        "scheme": model.scheme.name,
        "mean": list(facts.mean),
        "std": list(facts.std),
        "classes": list(facts.class_names or data.class_names(dataset, data_dir)),
    }


def card_of(path):
    """The `card` that a `.tflite` file holds, `{}` if none."""
    from acdbit_keras.convert import flatbuffer, rewrite

    return rewrite.metadata(flatbuffer.read(path)).get("card", {})
