"""Which examples are held out for testing where nobody says so."""

import hashlib
import math

import numpy as np


def held_out(keys, labels, share, seed):
    """Holds out a share of each class, drawn from a seed.

    What decides about an example is its own key, so that examples that are added later move few of the others.

    Args:
        keys: one text per example, no two the same.
        labels: one integer or text per example.
        share: of each class that is held out, above 0 and below 1; of a class of several examples at least one, and never all.
        seed: integer; another one draws others.

    Returns:
        (N,) bools, whether each example is for testing.
    """
    drawn = np.array([hashlib.sha256(f"{seed}:{key}".encode()).hexdigest() for key in keys])
    labels, testing = np.asarray(labels), np.zeros(len(keys), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(math.floor(share * len(members) + 0.5), 1), len(members) - 1)
        testing[members[np.argsort(drawn[members])[:count]]] = True
    return testing


def in_order(names):
    """Class names in the order of their labels: numbers by their value, all else as texts."""
    names = sorted(set(names))
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)
