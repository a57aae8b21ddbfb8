"""What compiles the function that is being traced; and tracing one alone."""

import keras


def compiled_by_xla():
    """Whether what is traced here is compiled with XLA, as JAX's functions always are."""
    if keras.config.backend() != "tensorflow":
        return keras.config.backend() == "jax"
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def run_once(call, shape):
    """What a function makes of zeros of a shape; on JAX the shapes of that alone, for every operation would be compiled first.

    Args:
        call: function of one float tensor.
        shape: of the tensor.
    """
    if keras.config.backend() != "jax":
        return call(keras.ops.zeros(shape))
    import jax

    return jax.eval_shape(call, jax.ShapeDtypeStruct(shape, keras.config.floatx()))
