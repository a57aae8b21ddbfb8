"""Training on compiled kernels: a whole binary block, forward and backward, in `libacdbit_training.so`.

`executor.KernelExecutor` uses them, `library` loads and calls them, `src/` is what they are compiled from.
"""

from acdbit_keras.training.executor import KernelExecutor, executor_for, why_not
from acdbit_keras.training.library import available

__all__ = ["KernelExecutor", "available", "executor_for", "why_not"]
