"""The compiled training kernels, `libacdbit_training.so`, as functions of tensors on either backend.

TensorFlow loads them as ops, JAX calls them through XLA. Both work on processors alone. On TensorFlow an op is nothing that XLA
can compile: inside a function that is compiled with it there are no kernels.
"""

import ctypes
import functools
import os
import pathlib
import warnings

import keras
import numpy as np

from acdbit_keras import tracing

LIBRARY = "libacdbit_training.so"


def library_path():
    """Path of the library: what ACDBIT_TRAINING names, or the one that was compiled with the package."""
    return os.environ.get("ACDBIT_TRAINING") or str(pathlib.Path(__file__).with_name(LIBRARY))


def threads():
    """How many threads a kernel runs on; its results do not depend on it."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        if set_by_user := tf.config.threading.get_intra_op_parallelism_threads():
            return set_by_user
    return len(os.sched_getaffinity(0))


def available():
    """Whether kernels can be called where this is asked: the library is there, and what is traced runs on a processor."""
    if _backend() is None:
        return False
    if keras.config.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    import tensorflow as tf

    return not tracing.compiled_by_xla() and not tf.config.list_physical_devices("GPU")


def block(x, keep, kernels, vectors, statistics, options):
    """Forward pass of a block; differentiable with respect to `x`, `kernels` and `vectors`.

    Args:
        x: `(batch, height, width, channels)` float32.
        keep: `(2, batch)`, what stochastic depth multiplies the two branches of an image by.
        kernels: signs of the six kernels, flat.
        vectors: the other parameters, flat.
        statistics: running statistics of norms and quantizers, flat.
        options: numpy array; the order of all these is that of `src/layout.cc`.

    Returns:
        Output, query, key and value, of the shape of `x`, and the moved statistics.
    """
    return _backend().block(x, keep, kernels, vectors, statistics, options)


def column_medians(matrix):
    """Averaging medians `(1, columns)` of a matrix `(rows, columns)`, float32; not differentiable."""
    return _backend().column_medians(matrix)


def _backend():
    """The kernels under the backend in use, `None` where there are none."""
    return _loaded(keras.config.backend(), library_path())


@functools.cache
def _loaded(backend, path):
    if backend not in _BACKENDS or not os.path.isfile(path):
        return None
    try:
        return _BACKENDS[backend](path)
    except Exception as error:
        # One for another processor, or with a newer libc than here: all works without it, but slowly.
        warnings.warn(f"training runs without compiled kernels, for {path} cannot be loaded: {error}", stacklevel=2)
        return None


class _TensorFlow:
    """The kernels as ops of TensorFlow."""

    def __init__(self, path):
        import tensorflow as tf

        ops = self.ops = tf.load_op_library(path)

        @tf.RegisterGradient("AcdbitBlock")
        def gradient(op, *gradients):
            x, keep, kernels, vectors, _, options = op.inputs
            _, query, key, value, _, saved = op.outputs
            back = ops.acdbit_block_back(*gradients[:4], x, keep, kernels, vectors, query, key, value, saved, options)
            return back.grad_x, None, back.grad_kernels, back.grad_vectors, None, None

        tf.no_gradient("AcdbitColumnMedians")

    def block(self, x, keep, kernels, vectors, statistics, options):
        *outputs, moved, _ = self.ops.acdbit_block(x, keep, kernels, vectors, statistics, options)
        for output in outputs:
            output.set_shape(x.shape)
        moved.set_shape(statistics.shape)
        return *outputs, moved

    def column_medians(self, matrix):
        medians = self.ops.acdbit_column_medians(matrix)
        medians.set_shape((1, matrix.shape[1]))
        return medians


class _Jax:
    """The kernels as custom calls under JAX."""

    def __init__(self, path):
        import jax

        library = ctypes.CDLL(path)
        self._saved_floats = library.acdbit_saved_floats
        self._saved_floats.restype = ctypes.c_int64
        for name in ("block", "block_back", "column_medians"):
            handler = jax.ffi.pycapsule(getattr(library, f"acdbit_xla_{name}"))
            jax.ffi.register_ffi_target(f"acdbit_{name}", handler, platform="cpu")

        def run(*inputs):
            x, *_, statistics, options = inputs
            shapes = [x.shape] * 4 + [statistics.shape, (self._saved(x.shape, options),)]
            return self._call("acdbit_block", shapes, *inputs[:-1], np.asarray(options, "float32"))

        @functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
        def block(x, keep, kernels, vectors, statistics, options):
            return tuple(run(x, keep, kernels, vectors, statistics, options)[:-1])

        def forward(x, keep, kernels, vectors, statistics, options):
            *outputs, saved = run(x, keep, kernels, vectors, statistics, options)
            query, key, value = outputs[1:4]
            return tuple(outputs), (x, keep, kernels, vectors, query, key, value, saved, statistics)

        def backward(options, kept, gradients):
            *kept, statistics = kept
            x, keep, kernels, vectors = kept[:4]
            shapes = [x.shape, kernels.shape, vectors.shape]
            call = self._call("acdbit_block_back", shapes, *gradients[:4], *kept, np.asarray(options, "float32"))
            grad_x, grad_kernels, grad_vectors = call
            return grad_x, jax.numpy.zeros_like(keep), grad_kernels, grad_vectors, jax.numpy.zeros_like(statistics)

        block.defvjp(forward, backward)
        self._block = block

    def block(self, x, keep, kernels, vectors, statistics, options):
        return self._block(x, keep, kernels, vectors, statistics, tuple(map(float, options)))

    def column_medians(self, matrix):
        [medians] = self._call("acdbit_column_medians", [(1, matrix.shape[1])], matrix)
        return medians

    def _call(self, name, shapes, *inputs):
        import jax

        return jax.ffi.ffi_call(name, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes])(*inputs)

    def _saved(self, shape, options):
        numbers = np.asarray(options, "float32")
        pointers = np.asarray(shape, "int64").ctypes.data_as(ctypes.c_void_p), numbers.ctypes.data_as(ctypes.c_void_p)
        return self._saved_floats(*pointers)


_BACKENDS = {"tensorflow": _TensorFlow, "jax": _Jax}
