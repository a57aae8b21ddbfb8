"""What figures were measured on, and records of figures."""

import pathlib
import platform

from acdbit_keras.files import write_json


def write_measurement(path, value):
    """Writes a dict of figures to a JSON file, with what they were measured on."""
    import importlib.metadata  # takes longer to load than a sensor has

    packages = ("acdbit-keras", "ai-edge-litert", "larq-compute-engine", "onnxruntime")
    known = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    value = {"processor": processor(), "versions": {name: known[name] for name in packages if name in known}, **value}
    write_json(path, value)


def processor():
    """Name of this machine's processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
