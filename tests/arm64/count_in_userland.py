"""Runs inside the arm64 userland under the instruction counter: one inference of each model is a marked region.

    count_in_userland.py LIBRARY PATH...

The region of the n-th model, from 1, has the tag n. Custom ops go to the delegate LIBRARY.
"""

import ctypes
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate

MARK = 5000  # the system call that the counter listens to
syscall = ctypes.CDLL(None).syscall


def main(library, *paths):
    for number, path in enumerate(paths, 1):
        content = pathlib.Path(path).read_bytes()
        ours = b"AcdBinary" in content or b"LceBconv2d" in content or b"LceQuantize" in content
        delegates = [load_delegate(library, {"num_threads": 1})] if ours else []
        interpreter = Interpreter(model_content=content, num_threads=1, experimental_delegates=delegates)
        interpreter.allocate_tensors()
        random = np.random.default_rng(0)
        for detail in interpreter.get_input_details():
            values = random.standard_normal(detail["shape"])
            interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        interpreter.invoke()
        syscall(MARK, 0)
        interpreter.invoke()
        syscall(MARK, number)


if __name__ == "__main__":
    main(*sys.argv[1:])
