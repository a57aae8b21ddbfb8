"""Backbones, presets, data and training recipes: `acdbit_keras.models`."""

from acdbit_keras.models import data
from acdbit_keras.models.blocks import BinaryBlock, FloatBlock
from acdbit_keras.models.presets import build
from acdbit_keras.models.presets import names as presets
from acdbit_keras.models.vit import VisionTransformer

__all__ = ["BinaryBlock", "FloatBlock", "VisionTransformer", "build", "data", "presets"]
