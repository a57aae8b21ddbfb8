"""Runs inside the arm64 userland: models through the stock LiteRT interpreter with the runtime as its delegate.

    run_models.py LIBRARY FOLDER

FOLDER holds pairs `NAME.tflite` and `NAME.npz`, the latter with arrays input_0, ... and the expected output_0, ...
Prints a JSON object: the kernels that were tried, which are all that the library has, the number of models, and a
sentence for every output that differs in a bit.
"""

import ctypes
import json
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate


def run(content, library, kernels, inputs):
    delegate = load_delegate(library, {"kernels": kernels, "num_threads": 2})
    interpreter = Interpreter(model_content=content, num_threads=2, experimental_delegates=[delegate])
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def numbered(arrays, name):
    return [arrays[f"{name}_{i}"] for i in range(sum(key.startswith(f"{name}_") for key in arrays))]


def main(library, folder):
    paths = ctypes.CDLL(library).acdbit_kernel_paths
    paths.restype = ctypes.c_char_p
    all_kernels = paths().decode().split(",")
    models = sorted(pathlib.Path(folder).glob("*.tflite"))
    differences = []
    for path in models:
        arrays = dict(np.load(path.with_suffix(".npz")))
        expected = numbered(arrays, "output")
        for kernels in all_kernels:
            results = run(path.read_bytes(), library, kernels, numbered(arrays, "input"))
            for i, (result, other) in enumerate(zip(results, expected, strict=True)):
                if result.dtype != other.dtype or result.shape != other.shape or result.tobytes() != other.tobytes():
                    differences.append(f"{path.stem}: output {i} with the kernels {kernels} is another than on x86_64")
    print(json.dumps({"kernels": all_kernels, "models": len(models), "differences": differences}))


if __name__ == "__main__":
    main(*sys.argv[1:])
