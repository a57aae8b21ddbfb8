"""Backbones, presets, data and training recipes: `acdbit_keras.models`."""

from acdbit_keras.models import data
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.blocks import BinaryBlock, FloatBlock
from acdbit_keras.models.presets import build
from acdbit_keras.models.presets import names as presets
from acdbit_keras.models.pyramid import PyramidVisionTransformer
from acdbit_keras.models.vit import VisionTransformer
from acdbit_keras.models.zoo import from_zoo, load_compact, save_compact, zoo_names

__all__ = [
    "Backbone", "BinaryBlock", "FloatBlock", "PyramidVisionTransformer", "VisionTransformer", "build", "data", "from_zoo",
    "load_compact", "presets", "save_compact", "zoo_names",
]  # fmt: skip
