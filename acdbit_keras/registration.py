"""Makes Keras know this package's classes as soon as both are there, so that `keras.models.load_model` finds them.

`import acdbit_keras` loads no Keras, because a device has none. Where Keras comes later, or was there before, the classes are
registered then, as they would be if the package had imported Keras itself.
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import sys

_REGISTERING = "acdbit_keras.models.loading"


def with_keras():
    """Registers the classes now if Keras is loaded, else when it is."""
    if "keras" in sys.modules:
        complete()
    else:
        sys.meta_path.insert(0, _AfterKeras())


def complete():
    """Registers what is not registered yet; nothing where Keras is not loaded, or does not have what the classes need."""
    if "keras" not in sys.modules or _REGISTERING in sys.modules or _own_module_is_loading():
        return
    # Where a package of the backend is missing, whoever uses a class is told which.
    with contextlib.suppress(ImportError):
        importlib.import_module(_REGISTERING)


def _own_module_is_loading():
    """Whether a module of this package is on its way, which then imported Keras: its classes are not all there."""
    own = [module for name, module in sys.modules.items() if name.startswith("acdbit_keras.")]
    return any(getattr(module.__spec__, "_initializing", False) for module in own)


class _AfterKeras(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module):
                load(module)
                complete()

            spec.loader.exec_module = load_and_register
        return spec
