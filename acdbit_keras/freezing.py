"""What `trainable=False` means here: a frozen layer computes as at inference, whatever calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def mode(layer: keras.layers.Layer, training: bool | None) -> bool | None:
    """`training` as a layer is to take it: False where it is frozen.

    Nothing that it tracks or measures then moves, nothing is drawn, and its answers stay the same while what stands before or
    behind it is trained. Keras' `BatchNormalization` does so, too. A layer hands on what it is given, so that this holds for its
    parts as well, where it was made with `trainable=False` and they were not.

    Args:
        layer: that is called.
        training: what it is called with.
    """
    return training if layer.trainable else False
