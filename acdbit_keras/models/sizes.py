"""Named sizes. `build` makes a backbone from one of them and a scheme."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.cnn import ConvolutionalNetwork
from acdbit_keras.models.pyramid import PyramidVisionTransformer
from acdbit_keras.models.sequence import SequenceTransformer
from acdbit_keras.models.vit import VisionTransformer
from acdbit_keras.registry import Registry, unknown
from acdbit_keras.typing import SchemeLike

_NOT_OF_A_PRESET = ("scheme", "classes", "kwargs")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Named arguments of a backbone.

    Attributes:
        name: how it is asked for.
        backbone: class of the backbone.
        sizes: dict of its arguments, all but `scheme` and `classes`.

    Raises:
        ValueError: a backbone that is none, or arguments that it does not have.
    """

    name: str
    backbone: type[Backbone]
    sizes: dict[str, Any]

    def __post_init__(self):
        if not (isinstance(self.backbone, type) and issubclass(self.backbone, Backbone)):
            raise ValueError(f"the backbone of the preset {self.name!r} must be a subclass of Backbone, not {self.backbone!r}")
        known = [name for name in inspect.signature(self.backbone).parameters if name not in _NOT_OF_A_PRESET]
        for name in self.sizes:
            if name not in known:
                raise unknown(f"size of the preset {self.name!r}", name, known)


_ISOTROPIC = {
    # 8-pixel gray digits, tests: 16 tokens.
    "vit_nano_patch2_8": dict(image_size=8, patch_size=2, channels=1, width=64, depth=3, num_heads=2),
    # 32-pixel images on a CPU: 64 tokens; the size of the committed CPU experiments.
    "vit_micro_patch4_32": dict(image_size=32, patch_size=4, width=96, depth=4, num_heads=3, mlp_ratio=2, stem="convolutional"),
    # 16 tokens: a quarter of its cost, for tables of many runs.
    "vit_micro_patch8_32": dict(image_size=32, patch_size=8, width=96, depth=4, num_heads=3, mlp_ratio=2, stem="convolutional"),
    # What few processor hours train to an accuracy worth deploying: 64 tokens behind a pooled stem, in three sizes.
    "vit_nano_pooled4_32": dict(image_size=32, patch_size=4, width=64, depth=6, num_heads=2, mlp_ratio=2, stem="pooled"),
    "vit_mini_pooled4_32": dict(image_size=32, patch_size=4, width=128, depth=4, num_heads=4, mlp_ratio=2, stem="pooled"),
    "vit_midi_pooled4_32": dict(image_size=32, patch_size=4, width=192, depth=6, num_heads=6, mlp_ratio=2, stem="pooled"),
    # The same with a learned 3x3 convolution of the tokens in each block, instead of means over lines of them.
    "vit_nano_depthwise4_32": dict(
        image_size=32, patch_size=4, width=64, depth=6, num_heads=2, mlp_ratio=2, stem="pooled", mixing="depthwise"
    ),
    "vit_mini_depthwise4_32": dict(
        image_size=32, patch_size=4, width=128, depth=4, num_heads=4, mlp_ratio=2, stem="pooled", mixing="depthwise"
    ),
    "vit_midi_depthwise4_32": dict(
        image_size=32, patch_size=4, width=192, depth=6, num_heads=6, mlp_ratio=2, stem="pooled", mixing="depthwise"
    ),
    # 16 tokens: a third of its cost, for tables of many runs.
    "vit_mini_pooled8_32": dict(image_size=32, patch_size=8, width=128, depth=4, num_heads=4, mlp_ratio=2, stem="pooled"),
    # Mini behind the tokenizer of CCT: three times the float arithmetic.
    "vit_mini_wide_pooled4_32": dict(
        image_size=32, patch_size=4, width=128, depth=4, num_heads=4, mlp_ratio=2, stem="wide_pooled"
    ),
    # The same on larger images: 64 and 144 tokens.
    "vit_mini_pooled8_64": dict(image_size=64, patch_size=8, width=128, depth=4, num_heads=4, mlp_ratio=2, stem="pooled"),
    "vit_mini_pooled8_96": dict(image_size=96, patch_size=8, width=128, depth=4, num_heads=4, mlp_ratio=2, stem="pooled"),
    # DeiT-Ti and DeiT-S on 32- and 64-pixel images: 64 tokens.
    "vit_tiny_patch4_32": dict(image_size=32, patch_size=4, width=192, depth=12, num_heads=3),
    "vit_tiny_patch8_64": dict(image_size=64, patch_size=8, width=192, depth=12, num_heads=3),
    "vit_small_patch4_32": dict(image_size=32, patch_size=4, width=384, depth=12, num_heads=6),
    "vit_small_patch8_64": dict(image_size=64, patch_size=8, width=384, depth=12, num_heads=6),
    # DeiT-S: 196 tokens; the network of the paper's table.
    "vit_small_patch16_224": dict(image_size=224, patch_size=16, width=384, depth=12, num_heads=6),
}
_PYRAMIDS = {
    # 8-pixel gray digits, tests: 64 and 16 tokens, 16 keys in both.
    "pyramid_nano_patch1_8": dict(
        image_size=8, patch_size=1, channels=1, widths=(32, 64), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(4, 2),
        reductions=(2, 1),
    ),
    # 32-pixel images on a CPU: 256, 64 and 16 tokens, 16 keys in all.
    "pyramid_micro_patch2_32": dict(
        image_size=32, patch_size=2, widths=(32, 64, 128), depths=(1, 2, 2), num_heads=(1, 2, 4), mlp_ratios=(4, 4, 2),
        reductions=(4, 2, 1), stem="convolutional",
    ),
    # Behind one pooled convolution: 256, 64 and 16 tokens, 16 keys in all, for the fewest float products per accuracy.
    "pyramid_mini_pooled2_32": dict(
        image_size=32, patch_size=2, widths=(64, 128, 256), depths=(1, 2, 2), num_heads=(2, 4, 8), mlp_ratios=(2, 2, 2),
        reductions=(4, 2, 1), stem="pooled",
    ),
    # BinaryViT's pyramid. With its patch of 4, 32 pixels would end in a single token and 64 in 4; with 2 the stages
    # have 256, 64, 16 and 4 tokens (16 keys, 4 in the last) and 1024, 256, 64 and 16 (16 keys, 64 in the third).
    "pyramid_small_patch2_32": dict(image_size=32, patch_size=2, reductions=(4, 2, 1, 1)),
    "pyramid_small_patch2_64": dict(image_size=64, patch_size=2),
    # As published: 3136, 784, 196 and 49 tokens; 49 keys, 196 in the third stage.
    "pyramid_small_patch4_224": dict(),
}  # fmt: skip
_SEQUENCES = {
    # 128 readings of 9 channels, 2.56 s of accelerometer and gyroscope at 50 Hz: 16 tokens.
    "vit1d_micro_patch8_128": dict(length=128, patch_size=8, channels=9, width=64, depth=4, num_heads=2, mlp_ratio=2),
}
_CONVOLUTIONAL = {
    # Teachers of labels: 15, 7 and 3 pixels a side behind the poolings, half a million parameters and one million.
    "cnn_mini_32": dict(image_size=32, widths=(64, 128, 128)),
    "cnn_midi_32": dict(image_size=32, widths=(64, 128, 256)),
    # Begins at every second pixel: 23, 11, 5 and 2 a side behind the poolings, 1.7 million parameters.
    "cnn_mini_96": dict(image_size=96, widths=(48, 96, 192, 256), start_stride=2),
}
registry = Registry(
    "preset",
    Preset,
    own=(
        *(Preset(name, VisionTransformer, sizes) for name, sizes in _ISOTROPIC.items()),
        *(Preset(name, PyramidVisionTransformer, sizes) for name, sizes in _PYRAMIDS.items()),
        *(Preset(name, SequenceTransformer, sizes) for name, sizes in _SEQUENCES.items()),
        *(Preset(name, ConvolutionalNetwork, sizes) for name, sizes in _CONVOLUTIONAL.items()),
    ),
    attribute="PRESET",
    group="acdbit.presets",
    without=":",
)
presets = registry.names


def register_preset(name: str, backbone: type[Backbone] = VisionTransformer, **sizes: Any) -> Preset:
    """Makes sizes known under a name, wherever a preset is named, until the process ends; returns the `Preset`.

    To have them in every process, the command line's too, name a `Preset` in the entry points of a package of your own:

        [project.entry-points."acdbit.presets"]
        mine = "my_package.my_module:PRESET"

    Args:
        name: how the preset is asked for; without ":".
        backbone: class of the backbone, `VisionTransformer`, the default, `PyramidVisionTransformer` or a subclass of
            `Backbone`.
        **sizes: arguments of the backbone, all but `scheme` and `classes`.

    Raises:
        ValueError: another preset has that name, or the backbone no such argument.

    Example:
        >>> import acdbit_keras as acd
        >>> sizes = dict(image_size=16, patch_size=4, width=64, depth=2, num_heads=2)
        >>> preset = acd.models.register_preset("vit_pico_patch4_16", **sizes)
        >>> acd.models.build("vit_pico_patch4_16", classes=3).grid
        4
    """
    return registry.register(Preset(name, backbone, sizes))


def build(preset: str, scheme: SchemeLike = "acd_bit", classes: int = 10, **changes: Any) -> Backbone:
    """A backbone, built and randomly initialised.

    Args:
        preset: one of `presets()`.
        scheme: scheme, its name, one of `acdbit_keras.schemes.names()`, or config; default `"acd_bit"`.
        classes: number of classes; default 10.
        **changes: any argument of the backbone, e.g. `image_size=64` or `depth=6`.

    Raises:
        ValueError: for an unknown preset (listing the known ones and the nearest) or sizes that do not fit.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> student = acd.models.build("vit_nano_patch2_8", scheme="acd_bit", classes=3, depth=1)
        >>> print(student(np.zeros((2, 8, 8, 1), "float32")).shape, student.count_params())
        (2, 3) 58829
    """
    found = registry.get(preset)
    return found.backbone(scheme=scheme, classes=classes, **{**found.sizes, **changes})
