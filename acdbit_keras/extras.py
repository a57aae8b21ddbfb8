"""Which extra of the package brings what is missing."""

_TRAINING = "acdbit-keras[tensorflow], or acdbit-keras[jax] in an environment of its own"
_EXTRAS = {
    "ai_edge_litert": "acdbit-keras[device]",
    "flatbuffers": "acdbit-keras[device]",
    "PIL": "acdbit-keras[device]",
    "keras": _TRAINING,
    "tensorflow": _TRAINING,
    "jax": _TRAINING,
    "tensorflow_datasets": "acdbit-keras[tensorflow]",
    "sklearn": _TRAINING,
    "matplotlib": "acdbit-keras[tensorflow]",
    "onnx": "acdbit-keras[bench]",
    "onnxruntime": "acdbit-keras[bench]",
}


class MissingPackageError(ImportError):
    """A package that is not installed, and the extra that brings it."""


def missing(error, what):
    """A `MissingPackageError` in one sentence for a package that is not installed, or the error itself where no extra has it.

    Args:
        error: `ImportError`.
        what: what was asked for.
    """
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, (ModuleNotFoundError, MissingPackageError)) or package not in _EXTRAS:
        return error
    sentence = f"{what} needs the package {package}, which is not installed: pip install {_EXTRAS[package]}"
    return MissingPackageError(sentence, name=package)
