"""Training on compiled kernels; see `executor.KernelExecutor`."""

from acdbit_keras.training.executor import KernelExecutor, why_not
from acdbit_keras.training.library import available

__all__ = ["KernelExecutor", "available", "why_not"]
