"""What a file, `.tflite` or flat, tells whoever runs it: its card, a dict in plain types.

Its keys that are known here, each optional:

    classes         list of str, the labels in the order of the logits
    mean, std       per channel, of pixel values from 0 to 1: the model's input is (pixel / 255 - mean) / std
    central_share   side of the central square that is looked at, over the shorter side of the picture; default 1.0
    dataset         what the model was trained on
    scheme          how it was quantized
    sequence        in a flat file, true where a sample is a sequence (steps, channels): its header has an image of width 1
"""

import math

import numpy as np


def check(card):
    """Checks the keys of a card that are known here.

    Raises:
        ValueError: naming the key and what it must be.
    """
    if not isinstance(card, dict):
        raise ValueError(f"a card must be a dict, not {type(card).__name__}")
    classes = card.get("classes", [])
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) and "\n" not in name for name in classes):
        raise ValueError(f"the card's classes must be a list of one-line strings, not {classes!r}")
    for key in ("mean", "std"):
        values = card.get(key, [1.0])
        if not isinstance(values, (list, tuple)) or not values or not all(_is_number(value) for value in values):
            raise ValueError(f"the card's {key} must be a list of finite numbers, one per channel, not {values!r}")
    if ("mean" in card) != ("std" in card) or len(card.get("mean", [])) != len(card.get("std", [])):
        raise ValueError("the card must have both mean and std, of one length, or neither")
    if any(value <= 0 for value in card.get("std", [])):
        raise ValueError(f"the card's std must be positive, not {card['std']!r}")
    share = card.get("central_share", 1.0)
    if not _is_number(share) or not 0 < share <= 1:
        raise ValueError(f"the card's central_share must be a number above 0 and at most 1, not {share!r}")


def normalisation(card):
    """`(offset, factor)`, float32 per channel, of a card with mean and std: (pixel - offset) * factor, pixels from 0 to 255.

    In the order and precision in which `acdbit_keras.models.data` normalises, so that a file's images are those of training.
    """
    mean, std = (np.asarray(card[key], np.float32) * np.float32(255) for key in ("mean", "std"))
    return mean, np.float32(1) / std


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
