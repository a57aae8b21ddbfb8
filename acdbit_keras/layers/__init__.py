"""Layers. Each stands alone in any Keras model."""

from acdbit_keras.layers.affine import LayerScale, RPReLU
from acdbit_keras.layers.attention import BinaryAttention
from acdbit_keras.layers.dense import BinaryDense
from acdbit_keras.layers.pooling import DepthwiseMixing, PoolingBranches

__all__ = ["BinaryAttention", "BinaryDense", "DepthwiseMixing", "LayerScale", "PoolingBranches", "RPReLU"]
