"""The entries of a zoo: trained 1-bit backbones, each a folder with its weights and what was measured about them.

`models/zoo/<name>/` holds `weights.acdbit` (`acdbit_keras.models.zoo.compact`), `card.json` and the same as text,
`card.md`. `acdbit zoo add` makes an entry from a finished run.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from acdbit_keras.files import read_json
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.zoo.compact import SUFFIX, load_compact
from acdbit_keras.registry import unknown
from acdbit_keras.typing import Path

if TYPE_CHECKING:
    from acdbit_keras.models.backbone import Backbone

FOLDER = pathlib.Path(__file__).parent
WEIGHTS, CARD, CARD_TEXT = f"weights{SUFFIX}", "card.json", "card.md"


def zoo_names(zoo: Path = FOLDER) -> list[str]:
    """Names of the trained backbones in a zoo, sorted.

    Args:
        zoo: folder of the entries; by default those that come with the package.
    """
    return sorted(path.parent.name for path in pathlib.Path(zoo).glob(f"*/{WEIGHTS}"))


def entry(name: str, zoo: Path = FOLDER) -> pathlib.Path:
    """The folder of an entry.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest.
    """
    if name not in zoo_names(zoo):
        raise unknown("model of the zoo", name, zoo_names(zoo))
    return pathlib.Path(zoo) / name


def from_zoo(name: str, zoo: Path = FOLDER) -> Backbone:
    """A trained 1-bit backbone, for inference, evaluation and conversion; it cannot be trained further.

    Args:
        name: one of `zoo_names()`.
        zoo: folder of the entries; by default those that come with the package.

    Raises:
        ValueError: for an unknown name (listing the known ones and the nearest) or a damaged file.

    Example:
        >>> import acdbit_keras as acd
        >>> student = acd.models.from_zoo("digits_vit_nano_acd_bit")
        >>> acd.convert.to_tflite(student, "digits.tflite").packed_layers
        18
    """
    return load_compact(entry(name, zoo) / WEIGHTS)


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
