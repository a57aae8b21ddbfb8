"""What every dataset is behind its name: a source of images in two splits, and the facts about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from acdbit_keras import checks
from acdbit_keras.registry import unknown

if TYPE_CHECKING:
    import numpy as np

    from acdbit_keras.models.data.catalog import DatasetInfo

SPLITS = ("train", "test")

# Images of both splits together, as a model takes them. What is larger is streamed.
IN_MEMORY_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Options:
    """What a name may say in brackets behind a dataset of one's own: `"./my_images[holdout=0.1,flip=false]"`.

    Attributes:
        holdout: share of each class that is held out for testing, where the data do not say which images are for testing.
        seed: that this share is drawn from.
        flip: whether a mirrored image keeps its class, so that training may mirror it. Not so for letters, digits, signs.

    Raises:
        ValueError: if a value is outside its range.
    """

    holdout: float = 0.2
    seed: int = 0
    flip: bool = True

    def __post_init__(self):
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout must be above 0 and below 1, not {self.holdout!r}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to {2**31 - 1}, not {self.seed!r}")

    def how_held_out(self):
        """How the split comes about, as text."""
        return f"{self.holdout:.0%} of each class held out for testing with seed {self.seed}"

    @classmethod
    def parse(cls, text):
        """The options that `"key=value,..."` says.

        Raises:
            ValueError: an unknown option, or a value of the wrong type.
        """
        kinds, changes = {field.name: type(field.default) for field in dataclasses.fields(cls)}, {}
        for part in text.split(","):
            key, _, value = (piece.strip() for piece in part.partition("="))
            if key not in kinds:
                raise unknown("option of a dataset", key, list(kinds))
            if kinds[key] is bool:
                if value.lower() not in ("true", "false"):
                    raise ValueError(f"{key} must be true or false, not {value!r}")
                changes[key] = value.lower() == "true"
                continue
            try:
                changes[key] = kinds[key](value)
            except ValueError:
                raise ValueError(f"{key} must be of type {kinds[key].__name__}, not {value!r}") from None
        return cls(**changes)


class Source:
    """A dataset. Subclasses set `kind` and `name` and define what raises NotImplementedError here.

    Attributes:
        kind: what it is, e.g. `"folder"`.
        name: how results and run folders call it.
    """

    kind: str = ""
    name: str = ""

    def info(self) -> DatasetInfo:
        """The `DatasetInfo`.

        Raises:
            ValueError: if the data have to be looked at for that and cannot be, or are no images of classes.
        """
        raise NotImplementedError

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in label order."""
        return self.info().class_names

    def key(self) -> tuple[Hashable, ...]:
        """A tuple that is equal for equal images in equal splits."""
        raise NotImplementedError

    def read(self, split: str, image_size: int) -> tuple[np.ndarray, np.ndarray]:
        """A split in memory: images (N, side, side, channels) uint8, labels (N,) int32; the pipeline scales another side."""
        raise NotImplementedError

    def records(self, split: str) -> Any:
        """A split as it is streamed: see `acdbit_keras.models.data.records`."""
        raise NotImplementedError

    def check(self) -> None:
        """Looks whether the data are what the facts say; called before they are read."""

    def is_streamed(self, image_size: int) -> bool:
        """Whether images are read from disk in every epoch instead of being held in memory."""
        facts = self.info()
        count = facts.train_examples + facts.test_examples
        return count * image_size**2 * facts.channels > IN_MEMORY_BYTES

    def report(self) -> dict[str, Any]:
        """What was found, a dict of plain values for people and for JSON."""
        facts = self.info()
        names = ("classes", "image_size", "channels", "train_examples", "test_examples", "flip")
        return {
            "name": self.name,
            "kind": self.kind,
            **{name: getattr(facts, name) for name in names},
            "mean": list(facts.mean),
            "std": list(facts.std),
            "class_names": list(facts.class_names or ()),
        }

    def stored(self) -> dict[str, Any] | None:
        """What a run keeps so that it finds the same data again, a dict of plain values; None for data that a name stands for."""
        return None

    def has_changed(self) -> bool:
        """Whether the data are others than when a run stored what it had found."""
        return False


def check_split(split):
    """
    Raises:
        ValueError: if a split is neither "train" nor "test".
    """
    checks.choice("split", split, SPLITS)


def facts_to_dict(facts):
    """A `DatasetInfo` in plain types."""
    return dataclasses.asdict(facts)


def facts_from_dict(said):
    """The `DatasetInfo` that `facts_to_dict` wrote."""
    from acdbit_keras.models.data.catalog import DatasetInfo

    return DatasetInfo(**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})
