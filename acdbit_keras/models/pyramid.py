"""The pyramid vision transformer, built for any scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from acdbit_keras import checks
from acdbit_keras.models.backbone import Backbone, Stage, check_positive
from acdbit_keras.typing import SchemeLike

MERGINGS = ("binary", "float")


@keras.saving.register_keras_serializable(package="acdbit")
class PyramidVisionTransformer(Backbone):
    """Vision transformer whose tokens become fewer and wider from stage to stage.

    Keys and values of the early stages are taken from tokens averaged over square windows, so that attention stays cheap
    where tokens are many. The defaults are the published BinaryViT.

    Args:
        scheme, classes, image_size, patch_size, channels, stem, drop_path, mixing: as for `Backbone`; defaults `"acd_bit"`,
            10, 224 pixels, 4 pixels, 3, `"patch"`, 0 and `"pooling"`.
        widths: channels of a token, one number per stage; each divisible by its heads. In a binary scheme with binary
            merging each is a multiple of the one before. Default (64, 128, 256, 512).
        depths: number of blocks per stage; default (3, 4, 8, 4).
        num_heads: attention heads per stage; for a binary scheme a head's width is a multiple of 32; default (1, 2, 4, 8).
        mlp_ratios: hidden width of the feed-forward part over the width, per stage; default (8, 8, 4, 4).
        reductions: side of the window of tokens that share a key and a value, per stage; divides the tokens per side,
            image_size / patch_size in the first stage and half as many in each further one; default (8, 4, 1, 1).
        merging: `"binary"`, the default: the product that merges 2x2 tokens is of bits where the scheme's are; or
            `"float"`.

    Raises:
        ValueError: on sizes that do not fit.

    Source: BinaryViT (CVPR Workshops 2023), after PVT (arXiv:2102.12122); `merging="float"` is its variant with some
        products in full precision. Their reduction in the float twin is that of PVTv2 (arXiv:2106.13797).

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> sizes = dict(widths=(32, 64), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1))
        >>> model = acd.models.PyramidVisionTransformer("acd_bit", 3, image_size=16, **sizes)
        >>> outputs = model(np.zeros((1, 16, 16, 3), "float32"), return_taps=True)
        >>> print(outputs["logits"].shape)
        (1, 3)
        >>> for tap in outputs["taps"]:
        ...     print(tap["query"].shape, tap["key"].shape)
        (1, 16, 1, 32) (1, 4, 1, 32)
        (1, 4, 2, 32) (1, 4, 2, 32)
    """

    # === Config ===
    def __init__(
        self,
        scheme: SchemeLike = "acd_bit",
        classes: int = 10,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 4,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 4, 8, 4),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 1, 1),
        merging: Literal["binary", "float"] = "binary",
        stem: Literal["patch", "convolutional", "pooled", "wide_pooled"] = "patch",
        drop_path: float = 0.0,
        mixing: Literal["pooling", "depthwise"] = "pooling",
        **kwargs: Any,
    ) -> None:
        sizes = dict(widths=widths, depths=depths, num_heads=num_heads, mlp_ratios=mlp_ratios, reductions=reductions)
        for name, values in sizes.items():
            if not isinstance(values, (tuple, list)) or not values or len(values) != len(widths):
                raise ValueError(f"{name} must have one number per stage, as many as widths={widths!r}, not {values!r}")
        check_positive(**sizes)
        checks.choice("merging", merging, MERGINGS)
        stages = [Stage(*values) for values in zip(*sizes.values())]
        options = dict(float_merging=merging == "float", mixing=mixing, **kwargs)
        super().__init__(stages, scheme, classes, image_size, patch_size, channels, stem, drop_path, **options)
        self.merging = merging
        for name, values in sizes.items():
            setattr(self, name, tuple(values))

    def get_config(self) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("widths", "depths", "num_heads", "mlp_ratios", "reductions")}
        return {**super().get_config(), **sizes, "merging": self.merging}
