"""The facts about a dataset, and the datasets whose facts are known: their sizes, classes and normalisation constants.

Nothing here touches a disk or imports TensorFlow, so that prediction on a device can normalise an image as training
did.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from acdbit_keras.models.data import movements

# A square of 224 from the shorter side scaled to 256, the usual evaluation on ImageNet.
_IMAGENET_SHARE = 224 / 256


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The facts about a dataset that models and pipelines need.

    Attributes:
        name: the name that `load` takes.
        classes: number of classes; labels are the integers 0 to classes - 1.
        image_size: side of the square images in pixels: the native one, or the usual one where native sizes vary.
        channels: 1 (grey) or 3 (RGB).
        mean: mean of pixel values divided by 255, one number per channel.
        std: standard deviation of pixel values divided by 255, one number per channel.
        train_examples: number of training images.
        test_examples: number of test images.
        class_names: one name per class, or None, the default, where the list comes with the prepared data (`class_names`
            reads it).
        tfds_name: name in TensorFlow Datasets, or None, the default, for a dataset that is embedded in a library.
        test_split: the TensorFlow Datasets split that is used for testing; default "test".
        flip: whether a mirrored image keeps its class; default True.
        varying_size: whether native image sizes vary; such images are cropped to a square. Default False.
        central_share: side of that square over the shorter side of the image, in evaluation. Below 1, training takes random
            crops instead, and images are streamed from disk. Default 1.
        sequence: whether an example is no image but a recording (image_size, channels): as many time steps, each of so many
            readings. Default False.
    """

    name: str
    classes: int
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_examples: int
    test_examples: int
    class_names: tuple[str, ...] | None = None
    tfds_name: str | None = None
    test_split: str = "test"
    flip: bool = True
    varying_size: bool = False
    central_share: float = 1.0
    sequence: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example: (image_size, image_size, channels), of a sequence (image_size, channels)."""
        return (self.image_size, self.channels) if self.sequence else (self.image_size, self.image_size, self.channels)

    def side(self, image_size: int | tuple[int, int] | None) -> int:
        """What an asked image size is for the pipelines: the native one for None; of a sequence no other is possible.

        Raises:
            ValueError: another length of a sequence.
        """
        if image_size is None:
            return self.image_size
        if self.sequence:
            if image_size not in (self.image_size, (self.image_size, 1)):
                raise ValueError(f"{self.name} has recordings of {self.image_size} time steps, not of {image_size}")
            return self.image_size
        return image_size

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of full training batches in an epoch; the incomplete last one is dropped."""
        return self.train_examples // batch_size


_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
_FASHION_CLASSES = "t-shirt/top trouser pullover dress coat sandal shirt sneaker bag ankle_boot"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Means and deviations are those of all training pixels; imagenette is a part of ImageNet and takes its constants.
DATASETS = (
    DatasetInfo("digits", 10, 8, 1, (0.3052,), (0.3760,), 1442, 355, tuple("0123456789"), flip=False),
    DatasetInfo("cifar10", 10, 32, 3, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 50_000, 10_000,
                tuple(_CIFAR10_CLASSES.split()), "cifar10"),
    DatasetInfo("cifar100", 100, 32, 3, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 50_000, 10_000,
                tuple(_CIFAR100_CLASSES.split()), "cifar100"),
    DatasetInfo("fashion_mnist", 10, 28, 1, (0.2860,), (0.3530,), 60_000, 10_000,
                tuple(_FASHION_CLASSES.split()), "fashion_mnist"),
    DatasetInfo("tiny_imagenet", 200, 64, 3, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821), 100_000, 10_000,
                None, "tiny_imagenet", "validation"),
    DatasetInfo("imagenette", 10, 224, 3, _IMAGENET_MEAN, _IMAGENET_STD, 9_469, 3_925,
                None, "imagenette/320px-v2", "validation", varying_size=True, central_share=_IMAGENET_SHARE),
    DatasetInfo("movements", 6, movements.LENGTH, movements.READINGS, (0.5,) * 9, (0.156,) * 9, movements.TRAIN, movements.TEST,
                movements.CLASSES, flip=False, sequence=True),
    DatasetInfo("imagenet2012", 1000, 224, 3, _IMAGENET_MEAN, _IMAGENET_STD, 1_281_167, 50_000,
                None, "imagenet2012", "validation", varying_size=True, central_share=_IMAGENET_SHARE),
)  # fmt: skip


def standardize(images, facts):
    """(images - 255 mean) / (255 std) per channel, for float32 images of any array library."""
    mean = np.asarray(facts.mean, "float32") * np.float32(255)
    scale = np.float32(1) / (np.asarray(facts.std, "float32") * np.float32(255))
    return (images - mean) * scale
