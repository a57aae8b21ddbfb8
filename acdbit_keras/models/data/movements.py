"""Recordings of six movements, made up: what an accelerometer with gyroscope on a wrist gives, in place of a download.

A movement has a rhythm and a direction; how fast, how strong and from where in its course it goes on differ from recording to
recording, and noise lies over all of it. Readings are as an 8-bit converter gives them.
"""

import numpy as np

CLASSES = ("walk", "run", "stairs", "wave", "turn", "rest")
LENGTH, READINGS = 128, 9  # acceleration, rotation and gravity in three directions
TRAIN, TEST = 2400, 600
_RHYTHM = np.array([1.0, 2.3, 1.4, 3.0, 0.5, 0.2])  # times a second
_RATE = 32  # steps a second
_NOISE = 1.2
_RANGE = 5.0  # what the converter can say, to both sides of 0


def read(split):
    """A split: recordings (N, 128, 9) uint8, labels (N,) int32; the same ones every time."""
    # The streams of RandomState never change, those of a Generator may with numpy.
    directions = np.random.RandomState(0).standard_normal((len(CLASSES), 3, READINGS))
    random, count = (np.random.RandomState(2), TEST) if split == "test" else (np.random.RandomState(1), TRAIN)
    labels = np.arange(count) % len(CLASSES)
    time = np.arange(LENGTH) / _RATE
    pace = _RHYTHM[labels, None] * random.uniform(0.8, 1.2, (count, 1))
    phase = 2 * np.pi * (pace * time + random.uniform(0, 1, (count, 1)))
    waves = np.stack([np.sin(phase), np.sin(2 * phase), np.sign(np.sin(phase))], axis=-1)
    strength = random.uniform(0.2, 1.0, (count, 1, 1))
    readings = strength * np.einsum("ntk,nkc->ntc", waves, directions[labels])
    readings += random.normal(0, _NOISE, readings.shape)
    scaled = np.rint((readings / _RANGE + 1) * 127.5)
    return np.clip(scaled, 0, 255).astype("uint8"), labels.astype("int32")
