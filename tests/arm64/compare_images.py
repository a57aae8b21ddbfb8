"""A file on real test images under emulation of a Cortex-A72, against Keras and against the same file on this machine.

    python tests/arm64/compare_images.py [--samples 200] [--data-dir DIR] [--out FILE.json] LIBRARY MODEL FILE.tflite

LIBRARY is the runtime compiled for arm64, MODEL the run folder or .keras file that the file was converted from. Images
that part from Keras by more than 1e-3 in a logit are held against what x86_64 gives: there `acdbit verify` explains them.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE))

from userland import Userland

from acdbit_keras.convert import Interpreter
from acdbit_keras.files import write_beside
from acdbit_keras.models import data
from acdbit_keras.models.loading import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("library", "model", "file"):
        parser.add_argument(name)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", help="also write the figures to this JSON file")
    options = parser.parse_args()
    model = load_model(options.model)
    pipeline = data.pipeline(
        options.dataset, "test", image_size=model.image_size, batch_size=100, data_dir=options.data_dir, augment="none"
    )
    images = np.concatenate([batch[0].numpy() for batch in pipeline.take(-(-options.samples // 100))])[: options.samples]
    userland = Userland()
    userland.setup()
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "images.npy", pathlib.Path(folder) / "outputs.npy"
        np.save(source, images.astype(np.float32))
        process = userland.run(
            "python",
            HERE / "predict_in_userland.py",
            options.library,
            options.file,
            source,
            target,
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise RuntimeError(process.stderr.strip().splitlines()[-1])
        theirs = np.load(target)
    here = Interpreter(options.file).predict(images)
    keras_logits = np.concatenate([model(images[i : i + 50], training=False).numpy() for i in range(0, len(images), 50)])
    value = {"file": pathlib.Path(options.file).name, "samples": len(images), "cpu": "cortex-a72, emulated"}
    for name, other in (("keras", keras_logits), ("x86_64", here)):
        difference = np.abs(theirs - other).max(1)
        value[name] = {
            "equal_argmax": float((theirs.argmax(1) == other.argmax(1)).mean()),
            "median_difference": float(np.median(difference)),
            "largest_difference": float(difference.max()),
            "beyond_1e-3": int((difference > 1e-3).sum()),
        }
    print(json.dumps(value, indent=1))
    if options.out:
        write_beside(options.out, lambda temporary: temporary.write_text(json.dumps(value, indent=1) + "\n"))


if __name__ == "__main__":
    main()
