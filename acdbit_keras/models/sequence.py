"""The vision transformer over sequences: patches of time steps for tokens."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from acdbit_keras.models.backbone import Backbone, Stage, check_positive
from acdbit_keras.typing import SchemeLike, Tensor


@keras.saving.register_keras_serializable(package="acdbit")
class SequenceTransformer(Backbone):
    """Vision transformer of recordings, such as those of an accelerometer or of audio features: an image of one column.

    Args:
        scheme, classes, drop_path, mixing: as for `Backbone`; defaults `"acd_bit"`, 10, 0 and `"pooling"`.
        length: time steps of a recording; divisible by `patch_size`; default 128.
        patch_size: time steps of a token; default 8.
        channels: readings of a time step; default 9.
        width: channels of a token; divisible by `num_heads`; default 64.
        depth: number of blocks; default 4.
        num_heads: attention heads; for a binary scheme width / num_heads is a multiple of 32; default 2.
        mlp_ratio: hidden width of the feed-forward part over `width`; default 2.

    Call arguments:
        images: recordings `(batch, length, channels)`, normalised; integers are taken as numbers.
        return_taps: as for `Backbone`.

    Raises:
        ValueError: on sizes that do not fit.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> model = acd.models.SequenceTransformer("acd_bit", classes=6, length=64, channels=3, depth=1)
        >>> print(model(np.zeros((5, 64, 3), "float32")).shape, model.grid)
        (5, 6) (8, 1)
    """

    # === Config ===
    def __init__(
        self,
        scheme: SchemeLike = "acd_bit",
        classes: int = 10,
        length: int = 128,
        patch_size: int = 8,
        channels: int = 9,
        width: int = 64,
        depth: int = 4,
        num_heads: int = 2,
        mlp_ratio: int = 2,
        drop_path: float = 0.0,
        mixing: Literal["pooling", "depthwise"] = "pooling",
        **kwargs: Any,
    ) -> None:
        check_positive(
            length=length, patch_size=patch_size, channels=channels, width=width, depth=depth, num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )  # fmt: skip
        stages = [Stage(width, depth, num_heads, mlp_ratio)]
        options = dict(mixing=mixing, **kwargs)
        super().__init__(stages, scheme, classes, (length, 1), (patch_size, 1), channels, "patch", drop_path, **options)
        self.length = length
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio

    @property
    def input_shape_of_images(self) -> tuple[int, ...]:
        """Shape of one recording, `(length, channels)`."""
        return (self.image_size[0] if isinstance(self.image_size, tuple) else self.image_size, self.channels)

    def on_grid(self, images: Tensor) -> Tensor:
        return ops.expand_dims(images, 2)

    def get_config(self) -> dict[str, Any]:
        config = {key: value for key, value in super().get_config().items() if key not in ("image_size", "patch_size", "stem")}
        names = ("length", "width", "depth", "num_heads", "mlp_ratio")
        step = self.patch_size[0] if isinstance(self.patch_size, tuple) else self.patch_size
        return {**config, "patch_size": step, **{name: getattr(self, name) for name in names}}
