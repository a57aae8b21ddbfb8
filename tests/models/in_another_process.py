"""Loads the models of a folder and writes what they compute beside them: run in a process of its own, on any backend.

`python in_another_process.py FOLDER` reads `*.keras` and `inputs.npz` and writes `<backend>.npz`.
"""

import pathlib
import sys

import keras
import numpy as np

import acdbit_keras
import acdbit_keras.models  # noqa: F401


def main(folder):
    folder, backend = pathlib.Path(folder), keras.config.backend()
    inputs = np.load(folder / "inputs.npz")
    results = {"imported": np.array([name for name in ("tensorflow", "larq", "jax") if name in sys.modules])}
    for path in sorted(folder.glob("*.keras")):
        model = keras.saving.load_model(path)
        if backend == "jax":
            # Uncompiled it would run operation by operation.
            model.jit_compile = True
            results[path.stem] = model.predict(inputs[path.stem], verbose=0)
        else:
            results[path.stem] = keras.ops.convert_to_numpy(model(inputs[path.stem], training=False))
        if path.stem == "distiller":
            values = model.evaluate(inputs[path.stem], inputs["labels"], verbose=0, return_dict=True)
            results.update({f"evaluated_{name}": value for name, value in values.items()})
            values = model.train_on_batch(inputs[path.stem], inputs["labels"], return_dict=True)
            results.update({f"trained_{name}": value for name, value in values.items()})
            results["student_after"] = keras.ops.convert_to_numpy(model.student(inputs[path.stem], training=False))
    np.savez(folder / f"{backend}.npz", **results)


if __name__ == "__main__":
    main(sys.argv[1])
