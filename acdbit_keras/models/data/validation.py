"""A part of the training images to validate on, so that the test images are left alone while choices are made."""

import collections
import dataclasses

import numpy as np

from acdbit_keras.models.data.base import Source, check_split
from acdbit_keras.models.data.pictures import Pictures
from acdbit_keras.models.data.sources import held
from acdbit_keras.models.data.split import held_out


class HeldOut(Source):
    """The training images of a source in two parts, in place of its splits for training and testing.

    Args:
        found: `Source` whose images are files, or are held in memory.
        share: of each class that is held out, above 0 and below 1.
        seed: integer that they are drawn from.

    Raises:
        ValueError: images that are read in every epoch from shards, of which none can be left out, here or by `records`; too few
            of a class for both parts.
    """

    kind = "held out"

    def __init__(self, found, share, seed=0):
        facts = found.info()
        self.name = found.name
        self._found = found
        if found.is_streamed(facts.image_size):
            self._check_files()
        self._share = share
        self._seed = seed
        self._testing = None
        testing = self._chosen()
        count = int(testing.sum())
        self._facts = dataclasses.replace(facts, train_examples=len(testing) - count, test_examples=count)

    def info(self):
        return self._facts

    def class_names(self):
        return self._found.class_names()

    def key(self):
        return (self.kind, self._found.key(), self._share, self._seed)

    def check(self):
        self._found.check()

    def is_streamed(self, image_size):
        return self._found.is_streamed(image_size)

    def read(self, split, image_size):
        part = self._part(split)
        images, labels = held(self._found, "train", image_size)
        return images[part], labels[part]

    def records(self, split):
        self._check_files()
        return self._found.records("train").part(self._part(split))

    def _check_files(self):
        if not isinstance(self._found, Pictures):
            raise ValueError(
                f"validation_share needs images that are held in memory, those of {self.name} are read in every epoch"
            )

    def _part(self, split):
        check_split(split)
        return self._chosen() if split == "test" else ~self._chosen()

    def _chosen(self):
        if self._testing is None:
            if isinstance(self._found, Pictures):
                # Known without opening one.
                labels = self._found.records("train").labels
            else:
                _, labels = held(self._found, "train", self._found.info().image_size)
            for label, count in sorted(collections.Counter(labels.tolist()).items()):
                if count < 2:
                    raise ValueError(
                        f"validation_share={self._share:g} leaves no image of the class {self.class_names()[label]!r} of "
                        f"{self.name} to train on: it has {count}, at least 2 are needed"
                    )
            self._testing = held_out(np.arange(len(labels)), labels, self._share, self._seed)
        return self._testing
