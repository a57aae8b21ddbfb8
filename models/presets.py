"""Named sizes. `build` makes a backbone from one of them and a scheme."""

import difflib

from acdbit_keras.models.vit import VisionTransformer

PRESETS = {
    # 8-pixel gray digits, tests: 16 tokens.
    "vit_nano_patch2_8": dict(image_size=8, patch_size=2, channels=1, width=64, depth=3, num_heads=2),
    # 32-pixel images on a CPU: 64 tokens; the size of the committed CPU experiments.
    "vit_micro_patch4_32": dict(
        image_size=32, patch_size=4, width=96, depth=4, num_heads=3, mlp_ratio=2, stem="convolutional"
    ),
    # DeiT-Ti on 32-pixel images: 64 tokens.
    "vit_tiny_patch4_32": dict(image_size=32, patch_size=4, width=192, depth=12, num_heads=3),
    # DeiT-S: 196 tokens; the network of the paper's table.
    "vit_small_patch16_224": dict(image_size=224, patch_size=16, width=384, depth=12, num_heads=6),
}


def names():
    """Names of the known presets."""
    return sorted(PRESETS)


def build(preset, scheme="acd_bit", classes=10, **changes):
    """A backbone, built and randomly initialised.

    Args:
        preset: one of `names()`.
        scheme: scheme or its name; `acdbit_keras.schemes.names()`.
        classes: number of classes.
        **changes: any argument of the backbone, e.g. `image_size=64` or `depth=6`.

    Raises:
        ValueError: for an unknown preset (listing the known ones and the nearest) or sizes that do not fit.
    """
    if preset not in PRESETS:
        near = difflib.get_close_matches(str(preset), names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(names())}{hint}")
    return VisionTransformer(scheme=scheme, classes=classes, **{**PRESETS[preset], **changes})
