"""The files that `count_models.py` counts for the results of this package: DeiT-S, 100 classes, float twin and 1-bit students.

    python tests/arm64/make_models.py FOLDER [--preset NAME]

The weights are untrained and moved a little, and the students have seen one batch of noise: then no shift is 0 and no
scale 1, which a converter would leave out, and the aligned student has a key bias. Instructions depend on the sizes and on
how far the distances of a row's keys lie apart, hardly on the weights.
"""

import argparse
import pathlib

import numpy as np

from acdbit_keras import models
from acdbit_keras.convert import to_tflite
from acdbit_keras.studies import contenders

CLASSES = 100


def student(preset, scheme):
    """A 1-bit backbone after one batch of noise."""
    model = contenders.perturbed(models.build(preset, scheme, CLASSES))
    model(noise(model, 8), training=True)
    return model


def noise(model, images):
    """Standard normal images of a model's size, float32."""
    return np.random.default_rng(1).standard_normal((images, *model.input_shape_of_images)).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--preset", default="vit_small_patch16_224")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    students = {scheme: student(options.preset, scheme) for scheme in ("acd_bit", "binary_vit", "acd_bit[restore=dynamic]")}
    twin = contenders.float_twin(students["acd_bit"])
    for precision in ("float32", "dynamic", "int8"):
        calibration = {"calibration": noise(twin, 8)} if precision == "int8" else {}
        to_tflite(twin, options.folder / f"{precision}.tflite", precision, **calibration)
    for scheme, model in students.items():
        name = scheme.replace("[restore=dynamic]", "_dynamic")
        to_tflite(model, options.folder / f"{name}.tflite", "bits")
    to_tflite(students["acd_bit"], options.folder / "acd_bit_int8_stem.tflite", "bits", stem="int8")


if __name__ == "__main__":
    main()
