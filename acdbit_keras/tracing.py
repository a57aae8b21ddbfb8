"""What compiles the function that is being traced."""

import keras


def compiled_by_xla():
    """Whether what is traced here is compiled with XLA, as JAX's functions always are."""
    if keras.config.backend() != "tensorflow":
        return keras.config.backend() == "jax"
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
