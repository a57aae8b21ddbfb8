"""Runs inside the arm64 userland: a model on many images.

predict_in_userland.py LIBRARY MODEL.tflite IMAGES.npy OUTPUTS.npy
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate


def main(library, model, images, outputs):
    interpreter = Interpreter(
        model_path=model, num_threads=1, experimental_delegates=[load_delegate(library, {"num_threads": 1})]
    )
    interpreter.allocate_tensors()
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in np.load(images):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"])[0])
    np.save(outputs, np.stack(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
