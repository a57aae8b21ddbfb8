"""Augmentation of training batches: Keras' own image layers, each made a pure function of (images, key).

A Keras layer draws from a counter of its own, so what it does depends on how many batches came before and a resumed run
would see other images. Here every draw comes from a key that the pipeline derives from (seed, epoch, step).
"""

from __future__ import annotations

import dataclasses
import math
import typing

import keras

from acdbit_keras import checks
from acdbit_keras.models.data import catalog
from acdbit_keras.registry import unknown

# Keras' names of them.
_FILL_MODES = {"black": "constant", "mirror": "reflect"}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images; the defaults do nothing.

    Attributes:
        shift: largest shift to each side as a fraction of the image side, 0 to 0.5. The same distribution as padding and
            cropping at random.
        fill: what a shift leaves empty: "black", or "mirror", the image reflected at its border.
        flip: whether images are mirrored left to right with probability 1/2; default False.
        crop_area: smallest share of the image area that a random resized crop keeps, or None for no such crop; aspect ratios
            are 3/4 to 4/3. Of pictures of varying size it is taken as they are decoded, of others from the batch.
        rand_augment: strength of RandAugment, 0 (off) to 10: two operations per image, each with a random strength up
            to this one.
        mixup: alpha of MixUp's Beta(alpha, alpha) law, up to 100, or 0 for none.
        cutmix: alpha of CutMix's Beta(alpha, alpha) law in [0, 1], or 0 for none. Where both are on, a coin chooses
            per batch.
        erasing: probability, 0 to 1, that a rectangle of an image is replaced by the mean colour.

    Raises:
        ValueError: if a value is outside its range.
    """

    shift: float = 0.0
    fill: str = "black"
    flip: bool = False
    crop_area: float | None = None
    rand_augment: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0

    def __post_init__(self):
        for field, highest in (("shift", 0.5), ("rand_augment", 10), ("mixup", 100), ("cutmix", 1), ("erasing", 1)):
            value = getattr(self, field)
            if not 0 <= value <= highest:
                raise ValueError(f"{field}={value} of an Augmentation must be from 0 to {highest}.")
        checks.choice("fill of an Augmentation", self.fill, _FILL_MODES)
        if self.crop_area is not None and not 0 < self.crop_area <= 1:
            raise ValueError(f"crop_area={self.crop_area} of an Augmentation must be above 0 and at most 1, or None.")

    @classmethod
    def changed(cls, augmentation: Augmentation, text: str) -> Augmentation:
        """An augmentation with the changes that `"field=value,..."` says.

        Raises:
            ValueError: an unknown field, listing the known ones, or a value of the wrong type or out of its range.
        """
        kinds, changes = typing.get_type_hints(cls), {}
        for part in text.split(","):
            key, _, value = (piece.strip() for piece in part.partition("="))
            if key not in kinds:
                raise unknown("field of an augmentation", key, list(kinds))
            changes[key] = _parsed(key, value, kinds[key])
        return dataclasses.replace(augmentation, **changes)

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become float rows with one column per class."""
        return self.mixup > 0 or self.cutmix > 0


PRESETS = ("none", "light", "mirror", "strong")


def resolve(augment, facts):
    """The `Augmentation` for a preset's name, or the given one.

    "light" is a shift of an eighth of the side (4 pixels of 32) and a flip where the dataset allows it; for ImageNet and
    imagenette, of which evaluation sees the middle, a random resized crop and a flip; for sequences nothing. "mirror" is
    "light" whose shifts are filled with the mirrored image in place of black. "strong" adds to "light" the recipe of DeiT (https://arxiv.org/abs/2012.12877):
    RandAugment of strength 9, MixUp 0.8, CutMix 1, random erasing 0.25. In brackets behind a name any field may be changed:
    `"mirror[cutmix=1,erasing=0.25]"`.

    Args:
        augment: one of `PRESETS`, with or without changes in brackets, or an `Augmentation`.
        facts: the `DatasetInfo` of the dataset.

    Raises:
        ValueError: if the name or a field in brackets is not known, or a value is of the wrong type or out of its range.
    """
    if isinstance(augment, Augmentation):
        if facts.sequence and augment != Augmentation():
            raise ValueError(f"the recordings of {facts.name} are not augmented: augment must be 'none', not {augment!r}")
        return augment
    if isinstance(augment, str) and augment.endswith("]") and "[" in augment:
        name, _, changes = augment[:-1].partition("[")
        return Augmentation.changed(resolve(name, facts), changes)
    if augment not in PRESETS:
        raise unknown("augmentation", augment, PRESETS)
    if augment == "none":
        return Augmentation()
    if facts.sequence:
        if augment == "light":
            return Augmentation()
        raise ValueError(f"the recordings of {facts.name} are not augmented: augment must be 'none' or 'light', not {augment!r}")
    if facts.central_share < 1:
        light = Augmentation(crop_area=0.08, flip=facts.flip)
    else:
        light = Augmentation(shift=1 / 8, flip=facts.flip)
    if augment == "light":
        return light
    if augment == "mirror":
        return dataclasses.replace(light, fill="mirror")
    return dataclasses.replace(light, rand_augment=9, mixup=0.8, cutmix=1.0, erasing=0.25)


def _parsed(key, text, hint):
    if text.lower() == "none" and type(None) in typing.get_args(hint):
        return None
    if hint is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError(f"{key} of an augmentation must be true or false, not {text!r}")
    if hint is str:
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} of an augmentation must be a number, not {text!r}") from None


def fold_in(key, *numbers):
    """Derives a key from a key and integers. Keys are int32 tensors of shape (2,)."""
    import tensorflow as tf

    for number in numbers:
        key = tf.random.fold_in(key, tf.cast(number, "int64"))
    return key


class KeySequence(keras.random.SeedGenerator):
    """A seed generator without state: its n-th seed is a function of the key it starts from."""

    def __init__(self, key):
        # The parent's constructor would create the variable that this class does without.
        self._key = key
        self._count = 0

    def next(self, ordered=True):
        self._count += 1
        return fold_in(self._key, self._count)


class BatchAugmenter:
    """Applies an `Augmentation` to whole batches inside a tf.data pipeline.

    Args:
        augmentation: what to do; the `crop_area` of images of varying size is applied when they are decoded, not here.
        facts: the `DatasetInfo` of the dataset.
        image_size: side of the images in pixels.
    """

    def __init__(self, augmentation, facts, image_size):
        self.augmentation = augmentation
        self.facts = facts
        layers = keras.layers
        # float32 in spite of a global mixed-precision policy, which would round pixel values.
        common = {"dtype": "float32", "data_format": "channels_last"}
        self._geometry = []
        self._crop_area = None if facts.varying_size else augmentation.crop_area
        pixels = round(augmentation.shift * image_size)
        if pixels:
            # RandomCrop would crop a whole batch at one place. Half a pixel more makes the rounded shifts equally
            # likely.
            reach = (pixels + 0.5) / image_size
            fill_mode = _FILL_MODES[augmentation.fill]
            self._geometry.append(layers.RandomTranslation(reach, reach, fill_mode=fill_mode, interpolation="nearest", **common))
        if augmentation.flip:
            self._geometry.append(layers.RandomFlip("horizontal", **common))
        self._operations = _rand_augment_layers(augmentation.rand_augment, facts.channels, common)
        self._mixup = layers.MixUp(augmentation.mixup, **common) if augmentation.mixup else None
        # These two draw their parameter from an interval; one of no length holds it.
        self._cutmix = layers.CutMix((augmentation.cutmix,) * 2, **common) if augmentation.cutmix else None
        self._erasing = None
        if augmentation.erasing:
            self._erasing = layers.RandomErasing((augmentation.erasing,) * 2, fill_value=0.0, **common)

    def __call__(self, images, labels, key):
        """Augments and normalises one batch.

        Args:
            images: (B, image_size, image_size, channels) float32, 0 to 255.
            labels: (B,) int32, or (B, classes) float32 where labels are mixed.
            key: the batch's random key.

        Returns:
            Normalised images and labels, of the same shapes and types.
        """
        import tensorflow as tf

        keys = KeySequence(key)
        if self._crop_area is not None:
            images = _random_resized_crops(images, self._crop_area, keys)
        for layer in self._geometry:
            images = _transform(layer, images, keys)
        if self._operations:
            for _ in range(2):
                images = self._one_operation_per_image(images, keys)
        images = catalog.standardize(images, self.facts)
        if self._mixup and self._cutmix:
            coin = tf.random.stateless_uniform((), keys.next()) < 0.5
            mixed = KeySequence(keys.next())
            images, labels = tf.cond(
                coin,
                lambda: _mix(self._mixup, images, labels, mixed),
                lambda: _mix(self._cutmix, images, labels, mixed),
            )
        elif self._mixup or self._cutmix:
            images, labels = _mix(self._mixup or self._cutmix, images, labels, keys)
        if self._erasing:
            images = _transform(self._erasing, images, keys)
        return images, labels

    def _one_operation_per_image(self, images, keys):
        import tensorflow as tf

        size = tf.shape(images)[0]
        chosen = tf.random.stateless_uniform((size,), keys.next(), 0, len(self._operations), "int32")
        groups = tf.dynamic_partition(images, chosen, len(self._operations))
        places = tf.dynamic_partition(tf.range(size), chosen, len(self._operations))
        changed = [_transform(layer, group, keys) for layer, group in zip(self._operations, groups, strict=True)]
        return tf.ensure_shape(tf.dynamic_stitch(places, changed), images.shape)


def _random_resized_crops(images, smallest, keys):
    """A part of every image, scaled to the whole: areas evenly from `smallest` to 1, aspect ratios from 3/4 to 4/3.

    The law of `records.crop`, which draws again where a window does not fit; here it is cut to the image.
    """
    import tensorflow as tf

    count, side = tf.shape(images)[0], images.shape[1]
    area = tf.random.stateless_uniform((count,), keys.next(), smallest, 1.0)
    aspect = tf.exp(tf.random.stateless_uniform((count,), keys.next(), math.log(3 / 4), math.log(4 / 3)))
    height = tf.minimum(tf.sqrt(area / aspect), 1.0)
    width = tf.minimum(tf.sqrt(area * aspect), 1.0)
    top = tf.random.stateless_uniform((count,), keys.next()) * (1.0 - height)
    left = tf.random.stateless_uniform((count,), keys.next()) * (1.0 - width)
    # Centres of the first and the last pixel of the result; one of its steps is `height` (`width`) pixels of the image.
    first_y, first_x = top * side + (height - 1) / 2, left * side + (width - 1) / 2
    last_y, last_x = first_y + (side - 1) * height, first_x + (side - 1) * width
    boxes = tf.stack([first_y, first_x, last_y, last_x], axis=1) / (side - 1)
    # Beyond the border lies its own pixel, not black, which a rounding error of the last one would be, too.
    boxes = tf.clip_by_value(boxes, 0.0, 1.0 - 1e-6)
    crops = tf.image.crop_and_resize(images, boxes, tf.range(count), (side, side))
    return tf.ensure_shape(crops, images.shape)


def _rand_augment_layers(strength, channels, common):
    """The operations of RandAugment (https://arxiv.org/abs/1909.13719) at a strength from 0 to 10.

    Keras' RandAugment draws one pair of operations for the whole batch, computes all of them and knows no strength
    comparable with the paper's (0.9 of it turns by 324 degrees), so its parts are taken one by one. Equalisation is
    left out: Keras pools its histogram over the batch.
    """
    if not strength:
        return []
    layers = keras.layers
    share = strength / 10
    # Shears, shifts and angles at full strength: 0.3, 0.45 of the side and 30 degrees; colours within 1 +- 0.9.
    operations = [
        layers.RandomShear(0.3 * share, 0.0, fill_mode="constant", **common),
        layers.RandomShear(0.0, 0.3 * share, fill_mode="constant", **common),
        layers.RandomTranslation(0.0, 0.45 * share, fill_mode="constant", **common),
        layers.RandomTranslation(0.45 * share, 0.0, fill_mode="constant", **common),
        layers.RandomRotation(30 / 360 * share, fill_mode="constant", **common),
        layers.RandomBrightness(0.3 * share, **common),
        layers.RandomContrast((0.9 * share,) * 2, **common),
        # 0.5 leaves an image as it is, below it is blurred, above it is sharpened.
        layers.RandomSharpness((0.5 - 0.45 * share, 0.5 + 0.45 * share), **common),
        layers.RandomPosterization((8 - round(4 * share), 8), **common),
        layers.Solarization(threshold_factor=1.0, **common),
        layers.AutoContrast(**common),
    ]
    if channels == 3:
        operations.append(layers.RandomColorDegeneration(0.9 * share, **common))
    return operations


def _on_tensorflow(method, layer):
    # tf.data runs TensorFlow whatever the backend of the model; layers called as functions switch by themselves.
    layer.backend.set_backend("tensorflow")
    try:
        return method()
    finally:
        layer.backend.reset()


def _transform(layer, images, keys):
    def method():
        return layer.transform_images(images, layer.get_random_transformation(images, training=True, seed=keys))

    return _on_tensorflow(method, layer)


def _mix(layer, images, labels, keys):
    def method():
        drawn = layer.get_random_transformation(images, training=True, seed=keys)
        return layer.transform_images(images, drawn), layer.transform_labels(labels, drawn)

    return _on_tensorflow(method, layer)
