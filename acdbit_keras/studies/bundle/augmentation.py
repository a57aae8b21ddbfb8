"""Augmentation of batches on the device, in JAX: the same laws as in `acdbit_keras.models.data.augmentation`.

MixUp, CutMix and erasing are Keras' own layers, as there. Shifts and flips are one gather of whole pixels.
"""

import math

import jax
import keras
import numpy as np
from jax import numpy as jnp

from acdbit_keras.models.data import catalog


class Keys(keras.random.SeedGenerator):
    """A seed generator without state: its n-th seed is a function of the JAX key it starts from."""

    def __init__(self, key):
        # The parent's constructor would create the variable that this class does without.
        self._key = key
        self._count = 0

    def next(self, ordered=True):
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


class BatchAugmentation:
    """Applies an `Augmentation` to whole batches.

    Args:
        augmentation: what to do.
        facts: the `DatasetInfo` of the images.
        image_size: side of the images in pixels.
    """

    def __init__(self, augmentation, facts, image_size):
        self.augmentation = augmentation
        self.facts = facts
        self.reach = round(augmentation.shift * image_size)
        common = {"dtype": "float32", "data_format": "channels_last"}
        layers = keras.layers
        self._mixup = layers.MixUp(augmentation.mixup, **common) if augmentation.mixup else None
        self._cutmix = layers.CutMix((augmentation.cutmix,) * 2, **common) if augmentation.cutmix else None
        self._erasing = None
        if augmentation.erasing:
            self._erasing = layers.RandomErasing((augmentation.erasing,) * 2, fill_value=0.0, **common)

    def __call__(self, images, labels, key):
        """Augments and normalises a batch.

        Args:
            images: (B, side, side, channels), 0 to 255, of any type.
            labels: (B,) integers, or (B, classes) float32 where labels are mixed.
            key: JAX key of the batch.

        Returns:
            Images, float32 and normalised, and labels.
        """
        keys = Keys(key)
        count = len(images)
        if self.augmentation.crop_area is not None:
            images = _cropped(images.astype("float32"), self.augmentation.crop_area, keys)
        if self.reach or self.augmentation.flip:
            offsets = jax.random.randint(keys.next(), (2, count), -self.reach, self.reach + 1)
            flips = jax.random.bernoulli(keys.next(), 0.5 if self.augmentation.flip else 0.0, (count,))
            images = moved(images, *offsets, flips, self.augmentation.fill)
        images = catalog.standardize(images.astype("float32"), self.facts)
        if self._mixup and self._cutmix:
            coin, mixed = jax.random.bernoulli(keys.next()), keys.next()
            images, labels = jax.lax.cond(
                coin,
                lambda: _mixed(self._mixup, images, labels, Keys(mixed)),
                lambda: _mixed(self._cutmix, images, labels, Keys(mixed)),
            )
        elif self._mixup or self._cutmix:
            images, labels = _mixed(self._mixup or self._cutmix, images, labels, keys)
        if self._erasing:
            drawn = self._erasing.get_random_transformation(images, training=True, seed=keys)
            images = self._erasing.transform_images(images, drawn)
        return images, labels


def moved(images, down, right, flips, fill):
    """Images shifted by whole pixels, then mirrored.

    Args:
        images: (B, side, side, channels).
        down, right: (B,) integers from -side to side.
        flips: (B,) bools.
        fill: "black" or "mirror", as of an `Augmentation`.
    """
    count, side = images.shape[:2]
    place = jnp.arange(side)
    rows = place[None] - down[:, None]
    columns = jnp.where(flips[:, None], side - 1 - place[None], place[None]) - right[:, None]
    batch = jnp.arange(count)[:, None, None]
    result = images[batch, _reflected(rows, side)[:, :, None], _reflected(columns, side)[:, None, :]]
    if fill == "mirror":
        return result
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return jnp.where(inside[..., None], result, jnp.zeros((), result.dtype))


def _reflected(places, side):
    """Places up to a side beyond the border, at the border mirrored, whose pixel counts twice."""
    places = jnp.where(places < 0, -1 - places, places)
    return jnp.where(places >= side, 2 * side - 1 - places, places)


def _mixed(layer, images, labels, keys):
    drawn = layer.get_random_transformation(images, training=True, seed=keys)
    return layer.transform_images(images, drawn), layer.transform_labels(labels, drawn).astype(labels.dtype)


def _cropped(images, smallest, keys):
    """A part of every image, scaled to the whole; areas, aspect ratios and places as on the host."""
    count, side = images.shape[:2]
    area = jax.random.uniform(keys.next(), (count,), minval=smallest, maxval=1.0)
    aspect = jnp.exp(jax.random.uniform(keys.next(), (count,), minval=math.log(3 / 4), maxval=math.log(4 / 3)))
    height, width = jnp.minimum(jnp.sqrt(area / aspect), 1.0), jnp.minimum(jnp.sqrt(area * aspect), 1.0)
    top = jax.random.uniform(keys.next(), (count,)) * (1.0 - height)
    left = jax.random.uniform(keys.next(), (count,)) * (1.0 - width)
    return scaled(images, *_samples(top, height, side), *_samples(left, width, side))


def _samples(start, share, side):
    """Where the first and the last pixel of the result lie in the image, (B,) each; beyond the border lies its own pixel."""
    first = start * side + (share - 1) / 2
    return jnp.clip(first, 0, side - 1), jnp.clip(first + (side - 1) * share, 0, side - 1)


def scaled(images, top, bottom, left, right):
    """Bilinear samples on a grid between two rows and two columns of each image, as many as it has pixels.

    Args:
        images: (B, side, side, channels) float32.
        top, bottom, left, right: (B,) places of the outermost samples in pixels.
    """
    side = images.shape[1]
    weights = [_interpolation(first, last, side) for first, last in ((top, bottom), (left, right))]
    return jnp.einsum("brh,bhwc,bsw->brsc", weights[0], images, weights[1], precision="highest")


def _interpolation(first, last, side):
    """The matrices (B, side, side) from pixels to samples."""
    steps = np.arange(side, dtype="float32") / max(side - 1, 1)
    places = first[:, None] + (last - first)[:, None] * steps
    return jnp.maximum(1.0 - jnp.abs(places[:, :, None] - jnp.arange(side)), 0.0)
