"""Backbones, presets, data and training recipes: `acdbit_keras.models`."""

from typing import TYPE_CHECKING

from acdbit_keras import lazy

if TYPE_CHECKING:
    from acdbit_keras.models import data, recipes, zoo
    from acdbit_keras.models.backbone import Backbone
    from acdbit_keras.models.blocks import BinaryBlock, FloatBlock
    from acdbit_keras.models.cnn import ConvolutionalNetwork
    from acdbit_keras.models.loading import load_model
    from acdbit_keras.models.pyramid import PyramidVisionTransformer
    from acdbit_keras.models.sequence import SequenceTransformer
    from acdbit_keras.models.sizes import Preset, build, presets, register_preset
    from acdbit_keras.models.vit import VisionTransformer
    from acdbit_keras.models.zoo import from_zoo, load_compact, save_compact, transfer, zoo_names

__all__ = [
    "Backbone",
    "BinaryBlock",
    "ConvolutionalNetwork",
    "FloatBlock",
    "Preset",
    "PyramidVisionTransformer",
    "SequenceTransformer",
    "VisionTransformer",
    "build",
    "data",
    "from_zoo",
    "load_compact",
    "load_model",
    "presets",
    "recipes",
    "register_preset",
    "save_compact",
    "transfer",
    "zoo",
    "zoo_names",
]

_HOMES = {
    "backbone": ("Backbone",),
    "blocks": ("BinaryBlock", "FloatBlock"),
    "cnn": ("ConvolutionalNetwork",),
    "loading": ("load_model",),
    "sequence": ("SequenceTransformer",),
    "sizes": ("Preset", "build", "presets", "register_preset"),
    "pyramid": ("PyramidVisionTransformer",),
    "vit": ("VisionTransformer",),
    "zoo": ("from_zoo", "load_compact", "save_compact", "transfer", "zoo_names"),
}
if not TYPE_CHECKING:  # a type checker would take any name
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            **dict.fromkeys(("data", "recipes", "zoo")),
            **{name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names},
        },
    )
