"""How minutes are shared between training runs."""

from __future__ import annotations

import dataclasses
import math
import statistics


@dataclasses.dataclass
class Part:
    """A run that is still to be trained.

    Attributes:
        name: of its recipe.
        epochs: that are left of those that its recipe asks for.
        seconds: per epoch, measured or estimated.
    """

    name: str
    epochs: int
    seconds: float


def share(parts, seconds):
    """The seconds of each run, in proportion to what its epochs take, so that all come to the same share of their epochs.

    Args:
        parts: list of `Part`.
        seconds: that there are for all of them.

    Returns:
        Dict from name to seconds.
    """
    wanted = {part.name: part.epochs * part.seconds for part in parts}
    total = sum(wanted.values())
    return {name: each * seconds / total for name, each in wanted.items()}


def check(parts, seconds):
    """Whether every run has an epoch.

    Args:
        parts: list of `Part`.
        seconds: that there are for all of them.

    Raises:
        ValueError: naming the minutes that are needed.
    """
    given = share(parts, seconds) if seconds > 0 else dict.fromkeys((part.name for part in parts), 0.0)
    short = [part for part in parts if given[part.name] < part.seconds]
    if not short:
        return
    wanted = sum(part.epochs * part.seconds for part in parts)
    needed = max(wanted / part.epochs for part in parts)
    raise ValueError(
        f"{max(seconds, 0) / 60:.1f} minutes are left for training, too short for one epoch of {short[0].name} and its share of "
        f"the others'; it takes {math.ceil(needed / 6) / 10:.1f} minutes beyond those spent on starting, or fewer recipes"
    )


def pace(planned, times):
    """Seconds of an epoch to reckon with: the lower median of what was planned and the last four epochs took.

    The first epoch may be slow, while the other runs are compiled beside it; alone it changes nothing.

    Args:
        planned: seconds, as measured before.
        times: list of the seconds of finished epochs.
    """
    return statistics.median_low([planned, *times][-5:])


def epochs_within(seconds, per_epoch):
    """How many epochs fit, at least one."""
    return max(math.floor(seconds / per_epoch + 1e-6), 1)
