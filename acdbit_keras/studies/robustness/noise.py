"""Noise that a sensor adds to an image, in units of its pixel values."""

from typing import NamedTuple

import numpy as np

from acdbit_keras import checks


class Noise(NamedTuple):
    """One kind of noise.

    Attributes:
        title: how figures print it.
        unit: what a strength is.
        largest: of its strengths; the smallest is 0, no noise.
        strengths: measured by default.
        add: function (pixels float32, strength, rng) -> pixels, not clipped.
    """

    title: str
    unit: str
    largest: float
    strengths: tuple
    add: object


def _gaussian(pixels, strength, rng):
    return pixels + strength * rng.standard_normal(pixels.shape, np.float32)


def _uniform(pixels, strength, rng):
    return pixels + strength * (2 * rng.random(pixels.shape, np.float32) - 1)


def _salt_and_pepper(pixels, strength, rng):
    drawn = rng.random(pixels.shape[:-1], np.float32)[..., None]
    return np.where(drawn < strength / 2, np.float32(0), np.where(drawn < strength, np.float32(255), pixels))


KINDS = {
    "gaussian": Noise(
        "Gaussian noise", "standard deviation, pixel values of 0 to 255", 255.0, (4.0, 8.0, 16.0, 32.0, 64.0), _gaussian
    ),
    "uniform": Noise("Uniform noise", "half width, pixel values of 0 to 255", 255.0, (8.0, 16.0, 32.0, 64.0, 128.0), _uniform),
    "salt_and_pepper": Noise("Salt and pepper", "share of pixels", 1.0, (0.01, 0.02, 0.05, 0.1, 0.2), _salt_and_pepper),
}


def add(kind, pixels, strength, rng):
    """Adds noise.

    Args:
        kind: `"gaussian"`: N(0, strength^2) on every value. `"uniform"`: U(-strength, strength) on every value.
            `"salt_and_pepper"`: a share `strength` of the pixels, all channels at once, becomes 0 or 255, half each.
        pixels: `(n, height, width, channels)`, 0 to 255.
        strength: in the kind's unit.
        rng: `numpy.random.Generator`.

    Returns:
        float32 pixels, clipped to 0 to 255 and not rounded.

    Raises:
        ValueError: an unknown kind or a strength out of its range.
    """
    checks.choice("noise", kind, KINDS)
    check_strength(kind, strength)
    return np.clip(KINDS[kind].add(np.asarray(pixels, np.float32), np.float32(strength), rng), 0, 255)


def check_strength(kind, strength):
    """Raises ValueError unless a strength is in its kind's range."""
    noise = KINDS[kind]
    if not 0 <= strength <= noise.largest:
        raise ValueError(f"the strength of {kind} noise ({noise.unit}) must be from 0 to {noise.largest:g}, not {strength:g}")
