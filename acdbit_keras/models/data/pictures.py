"""Picture files as a source: a folder of class folders, or what a CSV file lists."""

import concurrent.futures
import hashlib
import math
import os
import pathlib
import statistics
import warnings

import numpy as np

from acdbit_keras import picture
from acdbit_keras.models.data import listings
from acdbit_keras.models.data.base import Options, Source, check_split, facts_from_dict, facts_to_dict
from acdbit_keras.models.data.catalog import DatasetInfo
from acdbit_keras.models.data.records import PictureRecords
from acdbit_keras.models.data.split import held_out, in_order

# Beyond this share of pictures that cannot be read something is wrong with the folder, not with a picture.
BROKEN_SHARE = 0.05

# The usual side of a model for photographs, where the pictures themselves have none.
_USUAL_SIZE = 224
_SHOWN = 5

# A picture is looked at once per process: (path, bytes, time of the last change) to `Look`.
_looks = {}


class Pictures(Source):
    """A folder of class folders, or a CSV file.

    Everything is found by looking at every picture once. A run stores what was found, and is given it back as `stored`: then
    no picture is looked at again unless the listing is another.

    Args:
        kind: `"folder"` or `"csv"`.
        where: path of the folder or file.
        options: `Options`.
        stored: what `stored()` of an earlier source returned.

    Raises:
        ValueError: by any method, naming what is wrong: no class folders, one class only, files that are not there, a class for
            testing that training lacks, or more than a few broken pictures.
    """

    def __init__(self, kind, where, options=None, stored=None):
        self.kind = kind
        self.where = pathlib.Path(where).absolute()
        self.name = self.where.stem if kind == "csv" else self.where.resolve().name
        self.options = options or Options()
        self._stored = stored
        self._contents = None
        self._facts = None if stored is None else facts_from_dict(stored["facts"])

    def info(self):
        if self._facts is None:
            self._facts = self._measure()
        return self._facts

    def key(self):
        return (self.kind, str(self.where), self.options, self._listed().digest, self.info().channels)

    def read(self, split, image_size):
        paths, labels = self._split(split)
        channels = self.info().channels
        images = np.empty((len(paths), image_size, image_size, channels), "uint8")

        def fill(place):
            images[place] = picture.read(paths[place], image_size, channels)

        _in_parallel(fill, range(len(paths)))
        return images, labels

    def records(self, split):
        return PictureRecords(*self._split(split), self.info().channels)

    def check(self):
        contents = self._listed()
        if self.has_changed():
            then, now = self._stored["pictures"], len(contents.paths)
            told = f"{then} pictures then, {now} now" if then != now else f"{now} pictures, but not the same"
            warnings.warn(
                f"{self.where} has changed since the run that is named was trained on it: {told}; "
                "test images may be among those that it was trained on",
                stacklevel=3,
            )
            self._facts = self._counted(self._facts)
            self._stored = {**self._stored, "digest": contents.digest, "pictures": now}

    def has_changed(self):
        return self._stored is not None and self._stored["digest"] != self._listed().digest

    def report(self):
        facts, contents = self.info(), self._listed()
        good = contents.is_good
        counts = {
            name: [int((good & (contents.labels == label) & (contents.testing == testing)).sum()) for testing in (False, True)]
            for label, name in enumerate(facts.class_names)
        }
        return {
            **super().report(),
            "where": str(self.where),
            "split": self._how_split(),
            "images_per_class": counts,
            "sizes": contents.sizes,
            "broken": contents.broken,
            "notes": contents.notes,
        }

    def stored(self):
        contents, facts = self._listed(), self.info()
        return {
            "kind": self.kind,
            "where": str(self.where),
            "options": vars(self.options),
            "facts": facts_to_dict(facts),
            "split": self._how_split(),
            "pictures": len(contents.paths),
            "digest": contents.digest,
            "broken": contents.broken,
        }

    def _how_split(self):
        if self._listed().is_given:
            return "as given"
        return self.options.how_held_out()

    def _split(self, split):
        check_split(split)
        contents = self._listed()
        chosen = np.flatnonzero(contents.is_good & (contents.testing == (split == "test")))
        return [contents.root / contents.paths[place] for place in chosen], contents.labels[chosen]

    def _listed(self):
        if self._contents is None:
            self._contents = self._list()
        return self._contents

    def _list(self):
        if not self.where.exists():
            said = " that the run was trained on" if self._stored else ""
            raise ValueError(f"the pictures{said} are not at {self.where}; name the place where they are")
        listing = (listings.of_folder if self.kind == "folder" else listings.of_csv)(self.where)
        names = self._facts.class_names if self._stored else in_order(listing.classes)
        if len(names) < 2:
            raise ValueError(f"{self.where} holds one class, {names[0]!r}; telling apart takes two at least")
        if strangers := sorted(set(listing.classes) - set(names)):
            raise ValueError(f"{self.where} holds a class that the run was not trained on: {', '.join(strangers)}")
        contents = _Contents(listing, names, self.options)
        if self._stored and self._stored["digest"] == contents.digest:
            contents.leave_out(self._stored["broken"])
        else:
            contents.look()
            if broken := contents.broken:
                _check_share(self.where, broken, len(contents.paths))
                warnings.warn(f"of {self.where} {_told(broken, len(contents.paths))}", stacklevel=3)
        if contents.is_given:
            trained = set(contents.labels[~contents.testing])
            if lacking := [name for label, name in enumerate(names) if label not in trained]:
                raise ValueError(f"{self.where} has test images of the class {lacking[0]!r}, of which there is none for training")
        for label, name in enumerate(names):
            if not (contents.is_good & ~contents.testing & (contents.labels == label)).any():
                raise ValueError(f"{self.where} has no training image of the class {name!r} that can be read")
        if not (contents.is_good & contents.testing).any():
            raise ValueError(f"{self.where} has no test image that can be read; every class needs two pictures at least")
        return contents

    def _measure(self):
        contents = self._listed()
        good = [look for look in contents.looks if look.error is None]
        channels = 1 if all(look.grey for look in good) else 3
        training = [contents.looks[place] for place in np.flatnonzero(contents.is_good & ~contents.testing)]
        mean = np.mean([look.mean for look in training], axis=0)[:channels]
        deviation = np.sqrt(np.maximum(np.mean([look.square for look in training], axis=0)[:channels] - mean**2, 0))
        sides = {(look.width, look.height) for look in good}
        of_one_size = len(sides) == 1 and all(width == height for width, height in sides)
        shorter = [min(look.width, look.height) for look in good]
        facts = DatasetInfo(
            name=self.name,
            classes=len(contents.names),
            image_size=shorter[0] if of_one_size else min(_USUAL_SIZE, int(statistics.median(shorter))),
            channels=channels,
            mean=tuple(round(float(value), 4) for value in mean),
            # Pictures of a single colour have none, and are not to be divided by it.
            std=tuple(round(max(float(value), 1 / 255), 4) for value in deviation),
            train_examples=0,
            test_examples=0,
            class_names=contents.names,
            flip=self.options.flip,
            varying_size=not of_one_size,
        )
        return self._counted(facts)

    def _counted(self, facts):
        contents = self._listed()
        test = int((contents.is_good & contents.testing).sum())
        return DatasetInfo(**{**vars(facts), "train_examples": int(contents.is_good.sum()) - test, "test_examples": test})


class _Contents:
    """A listing with labels, splits, and what was found to be broken."""

    def __init__(self, listing, names, options):
        self.root = listing.root
        self.paths = listing.paths
        self.names = names
        self.notes = listing.notes
        self.is_given = listing.testing is not None
        numbers = {name: label for label, name in enumerate(names)}
        self.labels = np.array([numbers[name] for name in listing.classes], "int32")
        self.testing = (
            np.array(listing.testing) if self.is_given else held_out(self.paths, self.labels, options.holdout, options.seed)
        )
        self.is_good = np.ones(len(self.paths), bool)
        self.broken = {}
        self.looks = None
        lines = [
            f"{path}\t{os.path.getsize(self.root / path)}\t{name}\t{bool(testing)}"
            for path, name, testing in zip(self.paths, listing.classes, self.testing)
        ]
        self.digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    @property
    def sizes(self):
        """The smallest and largest `[width, height]` by area, None where no picture was looked at."""
        if self.looks is None:
            return None
        found = sorted(([look.width, look.height] for look in self.looks if look.error is None), key=math.prod)
        return [found[0], found[-1]]

    def look(self):
        """Looks at every picture."""
        self.looks = _in_parallel(_look, [self.root / path for path in self.paths])
        self.leave_out({path: look.error for path, look in zip(self.paths, self.looks) if look.error is not None})

    def leave_out(self, broken):
        """Leaves out pictures, a dict from path to what is wrong with it."""
        self.broken = broken
        self.is_good = np.array([path not in broken for path in self.paths])


def _look(path):
    status = os.stat(path)
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _looks:
        _looks[key] = picture.look(path)
    return _looks[key]


def _check_share(where, broken, count):
    if len(broken) > BROKEN_SHARE * count:
        raise ValueError(f"of {where} {_told(broken, count)}; no more than {BROKEN_SHARE:.0%} may be broken")


def _told(broken, count):
    named = list(broken.values())[:_SHOWN]
    more = f"; and {len(broken) - len(named)} more" if len(broken) > len(named) else ""
    return f"{len(broken)} of {count} pictures are left out: {'; '.join(named)}{more}"


def _in_parallel(function, values):
    # Pillow decodes without holding Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, values))
