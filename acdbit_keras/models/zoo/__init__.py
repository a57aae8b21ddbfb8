"""Trained 1-bit backbones that come with the package, and the compact files they are kept in."""

from acdbit_keras.models.zoo.compact import load_compact, save_compact
from acdbit_keras.models.zoo.entries import card, from_zoo, zoo_names
from acdbit_keras.models.zoo.transfer import transfer

__all__ = ["card", "from_zoo", "load_compact", "save_compact", "transfer", "zoo_names"]
