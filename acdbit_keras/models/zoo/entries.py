"""The entries of a zoo: trained 1-bit backbones, each a folder with its weights and what was measured about them.

`models/zoo/<name>/` holds `weights.acdbit` (`acdbit_keras.models.zoo.compact`), `card.json` and the same as text,
`card.md`, and the curves that were measured, `history.csv` and `robustness.csv`. `acdbit zoo add` makes an entry from a
finished run.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from acdbit_keras.files import read_json
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.zoo.compact import SUFFIX, load_compact
from acdbit_keras.models.zoo.transfer import transfer
from acdbit_keras.registry import unknown
from acdbit_keras.typing import Path

if TYPE_CHECKING:
    from acdbit_keras.models.backbone import Backbone

FOLDER = pathlib.Path(__file__).parent
WEIGHTS, CARD, CARD_TEXT = f"weights{SUFFIX}", "card.json", "card.md"
HISTORY, ROBUSTNESS = "history.csv", "robustness.csv"  # where there are curves: a run's epochs, `acdbit robustness --tests noise`


def zoo_names(zoo: Path = FOLDER) -> list[str]:
    """Names of the trained backbones in a zoo, sorted.

    Args:
        zoo: folder of the entries; by default those that come with the package.
    """
    # What is being made beside an entry begins with a point.
    return sorted(path.parent.name for path in pathlib.Path(zoo).glob(f"[!.]*/{WEIGHTS}"))


def entry(name: str, zoo: Path = FOLDER) -> pathlib.Path:
    """The folder of an entry.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest.
    """
    if name not in zoo_names(zoo):
        raise unknown("model of the zoo", name, zoo_names(zoo))
    return pathlib.Path(zoo) / name


def from_zoo(name: str, zoo: Path = FOLDER, classes: int | None = None, trainable: bool = False) -> Backbone:
    """A trained 1-bit backbone: as it is, for inference and conversion, or as the start of a training.

    Args:
        name: one of `zoo_names()`.
        zoo: folder of the entries; by default those that come with the package.
        classes: number of classes of a new, untrained head; `None`, the default, keeps the one that it has.
        trainable: whether all of it can be trained, from real weights made of the stored signs; see `transfer`. Default False:
            nothing, or with `classes` the new head alone.

    Raises:
        ValueError: for an unknown name (listing the known ones and the nearest), a damaged file, or `classes` below 1.

    Example:
        >>> import acdbit_keras as acd
        >>> student = acd.models.from_zoo("digits_vit_nano_acd_bit")
        >>> acd.convert.to_tflite(student, "digits.tflite").packed_layers
        18
        >>> three_classes = acd.models.from_zoo("digits_vit_nano_acd_bit", classes=3)
        >>> [variable.name for variable in three_classes.trainable_variables]
        ['kernel', 'bias']
    """
    model = load_compact(entry(name, zoo) / WEIGHTS)
    return model if classes is None and not trainable else transfer(model, classes, trainable)


def card(name: str, zoo: Path = FOLDER) -> dict[str, Any]:
    """What was measured about an entry, a dict; `card.md` beside the weights says the same as text.

    Raises:
        ValueError: as `from_zoo`.
    """
    path = entry(name, zoo) / CARD
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"the entry {name!r} has no readable {CARD}: {error}") from error
