"""What people bring from outside: pictures of their own, and packages with entry points."""

import numpy as np

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 40, 60)}


def draw(path, colour, seed=0, size=(12, 9), mode="RGB", **options):
    """Writes a picture of nearly one colour."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.clip(np.array(colour) + rng.normal(0, 20, (size[1], size[0], 3)), 0, 255).astype("uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return pixels


def fill(folder, count=5, names=tuple(COLOURS), suffix=".png", first=0, **options):
    """A folder of class folders with so many pictures each."""
    for name in names:
        for index in range(first, first + count):
            draw(folder / name / f"{index}{suffix}", COLOURS[name], seed=index, **options)
    return folder


def write_tfds(folder, name, features, splits):
    """Writes examples as a prepared dataset of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    builder_class = type(
        name.title(),
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
            "_split_generators": lambda self, manager: {split: enumerate(examples) for split, examples in splits.items()},
            "_generate_examples": lambda self: iter(()),
            "__module__": __name__,
        },
        skip_registration=True,
    )
    builder_class(data_dir=str(folder)).download_and_prepare()


def installed(folder, group, points, modules):
    """Writes a distribution `strangers` with these entry points and modules, as an installer would, into a folder."""
    (folder / "strangers-1.0.dist-info").mkdir(parents=True)
    (folder / "strangers-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (folder / "strangers-1.0.dist-info" / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
