"""Images of any size as the square that a model takes."""

from __future__ import annotations

from acdbit_keras.typing import Tensor


def resize(images: Tensor, image_size: int, central_share: float = 1.0) -> Tensor:
    """Scales the central square of images, as evaluation does.

    Args:
        images: tensor (height, width, channels) or (batch, height, width, channels).
        image_size: side of the result in pixels.
        central_share: side of the square over the shorter side of the image, in (0, 1]; default 1.

    Returns:
        float32 tensor with both sides `image_size`, bilinear with antialiasing.
    """
    import tensorflow as tf

    height, width = tf.shape(images)[-3], tf.shape(images)[-2]
    side = tf.cast(tf.round(tf.cast(tf.minimum(height, width), "float32") * central_share), "int32")
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side, :]
    return tf.image.resize(square, (image_size, image_size), antialias=True)
