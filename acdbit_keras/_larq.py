"""Larq's quantizers under Keras 3.

`import larq` fails there: its layers and optimizers subclass classes that Keras 3 removed. Its quantizers and
constraints do not, and they are submodules that need nothing from the package's `__init__`. So an unexecuted
package module stands in for `larq` while they are imported.
"""

import importlib
import importlib.util
import sys


def load(submodule):
    """Imports `larq.<submodule>`, leaving `sys.modules["larq"]` as it was found.

    Raises:
        ImportError: naming what is missing.
    """
    name = f"larq.{submodule}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec("larq")
    if spec is None:
        raise ImportError("the package larq is not installed; on the TensorFlow backend the signs are Larq's: pip install larq")
    stand_in = "larq" not in sys.modules
    if stand_in:
        sys.modules["larq"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"larq is installed, but {name} cannot be imported: {error}") from error
    finally:
        if stand_in:
            # A half-made package must not be what the user's own `import larq` finds.
            del sys.modules["larq"]
