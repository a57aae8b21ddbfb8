"""What a model costs on a device: multiply-adds of bits and of floats, bytes of weights, size of the converted file.

The model runs once, on one sample of zeros: a wrapper around `keras.layers.Layer.__call__` notes the shapes of every
layer (`trace`), an executor that only counts stands in for the products of codes (`count`), and what the converter makes
of each layer is added up (`file_size`). `rows` says it all in a table.
"""

from acdbit_keras.cost.analysis import analyse, summary
from acdbit_keras.cost.rows import Cost, LayerCost

__all__ = ["Cost", "LayerCost", "analyse", "summary"]
