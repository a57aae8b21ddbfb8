"""From a trained model to a file that runs: conversion, verification, execution and measurement of `.tflite` files."""

from acdbit_keras.convert.benchmark import benchmark
from acdbit_keras.convert.export import Conversion, ConversionError, to_tflite
from acdbit_keras.convert.interpreter import Interpreter
from acdbit_keras.convert.verify import Parity, verify
from acdbit_keras.models.loading import load_model

__all__ = ["Conversion", "ConversionError", "Interpreter", "Parity", "benchmark", "load_model", "to_tflite", "verify"]
