"""TinyImageNet as a TensorFlow Datasets builder: 200 classes, 64 x 64 pixels, 100,000 training images.

Source: the `tiny-imagenet-200.zip` of the Stanford course CS231n. Its test images carry no labels, so only training and
validation are built. Import this module only where tensorflow_datasets is installed.
"""

import pathlib

import tensorflow_datasets as tfds

ARCHIVE = "tiny-imagenet-200.zip"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """TinyImageNet with the splits "train" and "validation".

    Args:
        archive: path of the zip file, or None to download it.
        **kwargs: those of `tfds.core.GeneratorBasedBuilder`, among them `data_dir`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Training and validation images; labels in the order of wnids.txt."}

    def __init__(self, *, archive=None, **kwargs):
        self._archive = archive
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="200 ImageNet classes at 64 x 64 pixels.",
            homepage="http://cs231n.stanford.edu/",
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=200),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        extracted = dl_manager.download_and_extract(URL) if self._archive is None else dl_manager.extract(self._archive)
        root = pathlib.Path(extracted) / "tiny-imagenet-200"
        if not (root / "wnids.txt").is_file():
            raise ValueError(f"{self._archive or URL} does not hold tiny-imagenet-200/wnids.txt; get the archive anew.")
        # The order of this file is the usual numbering of the classes.
        self.info.features["label"].names = (root / "wnids.txt").read_text().split()
        return {
            "train": self._generate_examples(self._training(root / "train")),
            "validation": self._generate_examples(self._validation(root / "val")),
        }

    def _training(self, folder):
        for wnid in self.info.features["label"].names:
            for path in sorted((folder / wnid / "images").glob("*.JPEG")):
                yield path, wnid

    def _validation(self, folder):
        for line in (folder / "val_annotations.txt").read_text().splitlines():
            file, wnid = line.split()[:2]
            yield folder / "images" / file, wnid

    def _generate_examples(self, files):
        # The images stay the JPEG bytes of the archive; a few of them are grey and become RGB when decoded.
        for path, wnid in files:
            yield path.name, {"image": str(path), "label": wnid}
