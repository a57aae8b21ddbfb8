"""What a device installs, and what its first answer costs: processor time and memory, beside LiteRT alone.

`make device` runs this with the Python of an environment that holds `acdbit-keras[device]` and nothing else:

    .venv-device/bin/python tests/device_start.py FOLDER RESULT

FOLDER holds `bits.tflite` and `float32.tflite`; RESULT is the JSON file to write.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import numpy as np
from PIL import Image

RUNS = 9
ALONE = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter("float32.tflite", num_threads=1)
interpreter.allocate_tensors()
[taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.set_tensor(taken["index"], np.zeros(taken["shape"], np.float32))
interpreter.invoke()
print(interpreter.get_tensor(given["index"]).argmax())
"""


def main(folder, result):
    folder = pathlib.Path(folder).resolve()
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    python = pathlib.Path(sys.executable)
    contenders = {
        "acdbit predict bits.tflite picture.png": [str(python.with_name("acdbit")), "predict", "bits.tflite", "picture.png"],
        "LiteRT alone, float32.tflite": [str(python), "-c", ALONE],
    }
    costs = {name: [] for name in contenders}
    for _ in range(RUNS):
        for name, command in contenders.items():
            costs[name].append(_cost(command, folder))
    installed = _installed()
    value = {
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": {name: version for name, version, _ in installed},
        "installed_mb": round(sum(size for _, _, size in installed) / 1e6, 1),
        "package_mb": round(sum(size for name, _, size in installed if name == "acdbit-keras") / 1e6, 1),
        "runs": RUNS,
        "first_answer": {
            name: {
                "processor_seconds": round(statistics.median(seconds for seconds, _ in pairs), 3),
                "resident_mb": round(statistics.median(memory for _, memory in pairs), 1),
            }
            for name, pairs in costs.items()
        },
    }
    pathlib.Path(result).write_text(json.dumps(value, indent=1) + "\n")
    print(json.dumps(value, indent=1))


def _processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cost(command, folder):
    """Seconds of processor time and megabytes of memory of a process."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def _installed():
    """`(name, version, bytes)` of every installed distribution but those that install others."""
    found = []
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name not in ("pip", "setuptools"):
            files = [distribution.locate_file(file) for file in distribution.files or ()]
            found.append((name, distribution.version, sum(os.path.getsize(file) for file in files if os.path.isfile(file))))
    return sorted(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
