"""A trained model on its way to the device: what every study does with it."""


def card(model, dataset, data_dir=None):
    """What a device must know to use the file: dataset, class names and the normalisation of its images."""
    from acdbit_keras.models import data

    found = data.source(dataset, data_dir)
    facts = found.info()
    return {
        "dataset": found.name,
        "scheme": model.scheme.name,
        "mean": list(facts.mean),
        "std": list(facts.std),
        "classes": list(found.class_names()),
    }
