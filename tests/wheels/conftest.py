"""Wheels that are built once, and what is run with them; ACDBIT_WHEELS=full builds those of all machines."""

import os
import pathlib
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1] / "tools")]

import wheels

MACHINES = list(wheels.MACHINES) if os.environ.get("ACDBIT_WHEELS") == "full" else ["armv7l"]
COUNT = 5


@pytest.fixture(params=MACHINES)
def machine(request):
    return request.param


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Dict from machine to its wheel."""
    folder = tmp_path_factory.mktemp("wheels")
    wheels.install_compilers(MACHINES)
    source, engine = wheels.source_distribution(folder), wheels.browser_engine(folder)
    return {machine: wheels.build(source, engine, machine, folder / "dist") for machine in MACHINES}


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """Folder with a file of the zoo, `.tflite` and flat, and pictures; and the classes that they get here."""
    # Not above: every backend reads this file, and not all have Pillow.
    from PIL import Image

    from acdbit_keras.convert import Interpreter, flat
    from acdbit_keras.models import data
    from acdbit_keras.studies import zoo

    folder = tmp_path_factory.mktemp("work")
    file = zoo.converted("digits_vit_nano_acd_bit", folder)
    file.rename(folder / "model.tflite")
    flat.write(folder / "model.tflite", folder / "model.acdm", input="uint8")
    (folder / "pictures").mkdir()
    for number, image in enumerate(data.arrays("digits", "test")[0][:COUNT]):
        Image.fromarray(image[..., 0]).save(folder / "pictures" / f"{number}.png")
    interpreter = Interpreter(folder / "model.tflite")
    pictures = sorted((folder / "pictures").iterdir())
    return folder, [interpreter.classify(np.asarray(Image.open(path)), 1)[0].name for path in pictures]
