"""The isotropic vision transformer, built for any scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from acdbit_keras.models.backbone import Backbone, Stage, check_positive
from acdbit_keras.typing import SchemeLike


@keras.saving.register_keras_serializable(package="acdbit")
class VisionTransformer(Backbone):
    """Vision transformer of one width and resolution.

    Args:
        scheme, classes, image_size, patch_size, channels, stem, drop_path, mixing: as for `Backbone`; defaults `"acd_bit"`,
            10, 32 pixels, 4 pixels, 3, `"patch"`, 0 and `"pooling"`.
        width: channels of a token; divisible by `num_heads`; default 192.
        depth: number of blocks; default 12.
        num_heads: attention heads; for a binary scheme width / num_heads is a multiple of 32; default 3.
        mlp_ratio: hidden width of the feed-forward part over `width`; default 4.

    Raises:
        ValueError: on sizes that do not fit.

    Source: DeiT (arXiv:2012.12877) for the sizes and the float block, BinaryViT for the binary block.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> model = acd.models.VisionTransformer("acd_bit", 3, width=64, depth=2, num_heads=2)
        >>> outputs = model(np.zeros((1, 32, 32, 3), "float32"), return_taps=True)
        >>> print(outputs["logits"].shape, len(outputs["taps"]), outputs["taps"][0]["probabilities"].shape)
        (1, 3) 2 (1, 2, 64, 64)
    """

    # === Config ===
    def __init__(
        self,
        scheme: SchemeLike = "acd_bit",
        classes: int = 10,
        image_size: int | Sequence[int] = 32,
        patch_size: int | Sequence[int] = 4,
        channels: int = 3,
        width: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: int = 4,
        stem: Literal["patch", "convolutional", "pooled", "wide_pooled"] = "patch",
        drop_path: float = 0.0,
        mixing: Literal["pooling", "depthwise"] = "pooling",
        **kwargs: Any,
    ) -> None:
        check_positive(width=width, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        stages = [Stage(width, depth, num_heads, mlp_ratio)]
        super().__init__(stages, scheme, classes, image_size, patch_size, channels, stem, drop_path, mixing=mixing, **kwargs)
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
        }
