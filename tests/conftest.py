"""Which tests run under which backend.

The suite's home is TensorFlow. What is marked `any_backend` runs under JAX too:
`KERAS_BACKEND=jax python -m pytest -m any_backend tests`.
"""

import gc
import os

# Nothing here runs long enough to repay its optimisation; JAX compiles every eager operation.
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import hypothesis
import keras
import pytest

JAX_PYTHON = "ACDBIT_JAX_PYTHON"

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    from acdbit_keras.quick_start import untuned

    # Nor does anything repay the optimisation of its graph.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    _iterate = tf.data.Dataset.__iter__

    # Arrays given to Keras come through tf.data with its tuner, for which every short `fit` waits.
    tf.data.Dataset.__iter__ = lambda dataset: _iterate(untuned(dataset))

# Eager JAX compiles every operation for every new shape, so an example costs it ten times as much.
hypothesis.settings.register_profile("acdbit", deadline=None, max_examples=100 if keras.config.backend() == "tensorflow" else 20)
hypothesis.settings.load_profile("acdbit")


def pytest_configure(config):
    config.addinivalue_line("markers", "any_backend: uses nothing of TensorFlow and runs under every Keras backend")


# Where processes take file after file, a long one begun last leaves the others idle.
_LONGEST_FIRST = (
    "test_notebooks.py",
    "test_end_to_end.py",
    "test_experiments_run.py",
    "test_bundle.py",
    "test_packaging.py",
    "test_ops.py",
    "test_arm64.py",
    "test_classifier.py",
    "test_screen.py",
    "test_on_arm64.py",
    "test_parity.py",
    "test_export.py",
    "test_saving.py",
    "test_cost.py",
    "test_distillation.py",
    "test_zoo.py",
    "test_train.py",
    "test_benchmarking.py",
    "test_runtime_cpp.py",
    "test_distribution.py",
    "test_vit.py",
    "test_docs.py",
    "test_site.py",
    "test_readme.py",
)


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_ignore_collect(collection_path):
    """Under another backend leaves the other modules unimported: they may import tensorflow at the top."""
    if keras.config.backend() == "tensorflow" or collection_path.suffix != ".py":
        return None
    return "pytest.mark.any_backend" not in collection_path.read_text() or None


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random numbers, whichever ran before."""
    keras.utils.set_random_seed(7)


@pytest.fixture(scope="module", autouse=True)
def released():
    """Models are held by circles of references, which Python looks for the more rarely the more there is."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def jax_python():
    """The Python of the JAX environment, in which neither tensorflow nor larq is installed."""
    path = os.environ.get(JAX_PYTHON)
    if not path:
        pytest.fail(f"{JAX_PYTHON} must name the Python of an environment with the package's jax extra; `make test` sets it up")
    return path
