"""The models of the app: what the zoo has for a camera, with their float twins, and an untrained pair of DeiT-S.

Of every dataset of colour pictures the entry of the highest accuracy is taken that has a float twin; its card's `float_twin`
names the file that the app's switch goes to. The untrained pair is there for its speed at the size of the paper's network. Its
large kernels repeat 4096 random numbers, which changes no latency, and lets an APK hold 92 MB in less than one.
"""

import hashlib
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "acdbit_keras"
UNTRAINED = "untrained_vit_small_patch16_224"
_PERIOD = 4096


def make(folder, untrained=True):
    """Makes those files of the app's models that are not there, or are of another version of the package.

    Args:
        folder: for the files, `NAME.bits.tflite` and `NAME.float32.tflite`.
        untrained: whether the untrained pair is among them, which takes a minute.

    Returns:
        List of their paths.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, twin in chosen():
        made.append(_made(folder / f"{name}.bits.tflite", name, _from_zoo))
        made.append(_made(folder / f"{name}.float32.tflite", twin, _from_zoo))
    if untrained:
        made += [_made(folder / f"{UNTRAINED}.{kind}.tflite", kind, _untrained) for kind in ("bits", "float32")]
    for path in folder.glob("*.tflite"):
        # Of a zoo of yesterday. The untrained pair stays for a build that wants it.
        if path not in made and not path.name.startswith(UNTRAINED):
            path.unlink()
    return made


def chosen():
    """Pairs of an entry's name and that of its float twin, without which the app's switch would lead nowhere."""
    from acdbit_keras.models.zoo import entries

    best = {}
    for name in entries.zoo_names():
        card = entries.card(name)
        colour = len(card["data"]["mean"]) == 3
        if not colour or not card.get("float_twin"):
            continue
        known = best.get(card["data"]["dataset"])
        if known is None or card["accuracy"]["top1"] > known["accuracy"]["top1"]:
            best[card["data"]["dataset"]] = card
    return [(card["name"], card["float_twin"]) for card in best.values()]


def _made(path, what, maker):
    stamp = path.with_suffix(".made_from")
    source = hashlib.sha256(what.encode())
    for file in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.glob("models/zoo/*/weights.acdbit"), pathlib.Path(__file__)]):
        source.update(file.read_bytes())
    if not (path.is_file() and stamp.is_file() and stamp.read_text() == source.hexdigest()):
        maker(what, path)
        stamp.write_text(source.hexdigest())
    return path


def _from_zoo(name, path):
    from acdbit_keras.convert import to_tflite
    from acdbit_keras.models.zoo import entries
    from acdbit_keras.studies import deployed

    facts = entries.card(name)["data"]
    to_tflite(entries.from_zoo(name), path, card={key: facts[key] for key in deployed.CARD if key in facts})


def _untrained(kind, path):
    import numpy as np

    from acdbit_keras import models
    from acdbit_keras.convert import to_tflite
    from acdbit_keras.studies import contenders

    model = models.build("vit_small_patch16_224", "acd_bit", 10)
    # One batch: then no statistic is 0 or 1, which a converter would leave out.
    noise = np.random.default_rng(1).standard_normal((2, *model.input_shape_of_images)).astype(np.float32)
    model = contenders.perturbed(model)
    model(noise, training=True)
    if kind == "float32":
        model = contenders.float_twin(model)
    for number, variable in enumerate(model.trainable_variables):
        if len(variable.shape) > 1:
            value = np.asarray(variable.value)
            # Others in every kernel: a converter stores equal ones once. In the order of the file, where outputs come first.
            repeated = np.random.default_rng([2, number]).normal(0, value.std(), _PERIOD)
            variable.assign(np.resize(repeated, value.T.shape).T.reshape(value.shape))
    classes = [f"class {i}" for i in range(10)]
    card = {"classes": classes, "mean": [0.5] * 3, "std": [0.5] * 3, "scheme": model.scheme.name, "untrained": True}
    to_tflite(model, path, kind, card=card)
