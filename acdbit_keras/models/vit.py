"""The isotropic vision transformer, built for any scheme."""

import keras

from acdbit_keras.models.backbone import Backbone, Stage, check_positive


@keras.saving.register_keras_serializable(package="acdbit")
class VisionTransformer(Backbone):
    """Vision transformer of one width and resolution.

    Args:
        scheme, classes, image_size, patch_size, channels, stem, drop_path: as for `Backbone`.
        width: channels of a token; divisible by `num_heads`.
        depth: number of blocks.
        num_heads: attention heads; for a binary scheme width / num_heads is a multiple of 32.
        mlp_ratio: hidden width of the feed-forward part over `width`.

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
        scheme="acd_bit",
        classes=10,
        image_size=32,
        patch_size=4,
        channels=3,
        width=192,
        depth=12,
        num_heads=3,
        mlp_ratio=4,
        stem="patch",
        drop_path=0.0,
        **kwargs,
    ):
        check_positive(width=width, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        stages = [Stage(width, depth, num_heads, mlp_ratio)]
        super().__init__(stages, scheme, classes, image_size, patch_size, channels, stem, drop_path, **kwargs)
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
        }
