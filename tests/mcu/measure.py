"""What the models of the zoo take on microcontrollers: `make mcu`, results/mcu.json.

    python tests/mcu/measure.py --out results/mcu.json [--images N]

Per board and model: instructions per image, flash, arena, stack, on how many of the images the class is that of Keras and on
how many the logits are those of the same engine on this machine, bit for bit. The images are those of the test set of CIFAR-10
where it is prepared (`acdbit data prepare cifar10`), else numbers without a picture in them; the digits come with the package's
dependencies.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile

import numpy as np

sys.path += [str(pathlib.Path(__file__).resolve().parent)]

from boards import KINDS, MCU, Boards

from acdbit_keras.convert import Interpreter, cards, flat
from acdbit_keras.files import write_json
from acdbit_keras.models import data, zoo
from acdbit_keras.studies import zoo as zoo_files

MODELS = ("digits_vit_nano_acd_bit", "cifar10_vit_micro_acd_bit")
# The float twin of the zoo's CIFAR-10 model: vit_micro_patch8_32.
TWIN = dict(SIZE=32, FIRST=24, CHANNELS=96, HEADS=3, RATIO=2, DEPTH=4, GRID=4, LARGEST=16 * 16 * 24)


def pictures(dataset, shape, count, data_dir=None):
    """uint8 images `(count, *shape)` of the test set, and whether they are pictures."""
    try:
        return np.asarray(data.arrays(dataset, "test", data_dir=data_dir)[0][:count]), True
    except (OSError, ValueError):
        return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8), False


def forms(name, folder):
    """The exact and the compact flat file of a model of the zoo, both of pixels, and the exact .tflite of floats."""
    file = zoo_files.converted(name, folder)
    return {form: flat.build(file, compact=form == "compact", input="uint8") for form in ("exact", "compact")}, file


def measured(board, content, images, keras_classes):
    found, here = board.classify(content, images), Interpreter(content).predict(images)
    return {
        "instructions": found.instructions,
        **{name: getattr(found, name) for name in ("flash_bytes", "ram_bytes", "arena_bytes", "stack_bytes")},
        "images": len(images),
        "classes_of_keras": int((found.logits.argmax(1) == keras_classes).sum()),
        "same_bits_as_here": int((found.logits == here).all(1).sum()),
    }


def twin_instructions(board):
    """Instructions per image of the int8 twin."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, 96 * 9 * 96)
    constants = [*rng.integers(-1000, 1000, 256), *rng.integers(2**30, 2**31 - 1, 256)]
    lines = [f"#define TWIN_{name} {value}" for name, value in TWIN.items()]
    (board.folder / "twin.h").write_text("\n".join([*lines, ""]))
    (board.folder / "twin_weights.c").write_text(
        f"#include <stdint.h>\nconst int8_t twin_weights[] __attribute__((aligned(4))) = {{{', '.join(map(str, weights))}}};\n"
        f"const int32_t twin_constants[] = {{{', '.join(map(str, constants))}}};\n"
    )
    return board.run([board.folder / "twin_weights.c"], MCU / "int8_twin.cc", np.zeros((0, 1), np.uint8)).instructions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--boards", nargs="+", default=list(KINDS))
    parser.add_argument("--data-dir", default=os.environ.get("ACDBIT_DATA_DIR"))
    options = parser.parse_args()
    results = {"command": "make mcu", "compiler": "GCC 12, -O2", "boards": {}}
    with tempfile.TemporaryDirectory() as folder:
        boards = Boards(folder)
        for board_name in options.boards:
            board = boards[board_name]
            row = results["boards"][board_name] = {}
            for name in MODELS:
                files, exact = forms(name, folder)
                card = zoo.card(name)["data"]
                interpreter = Interpreter(exact)
                images, real = pictures(card["dataset"], interpreter.input_shape, options.images, options.data_dir)
                offset, factor = cards.normalisation(card)
                normalised = ((images.astype(np.float32) - offset) * factor).astype(np.float32)
                classes = zoo.from_zoo(name).predict(normalised, verbose=0).argmax(1)
                for form, content in files.items():
                    row[f"{name}, {form}"] = {**measured(board, content, images, classes), "pictures": real}
                    print(board_name, name, form, json.dumps(row[f"{name}, {form}"]), flush=True)
            row["int8 twin of cifar10_vit_micro"] = {"instructions": twin_instructions(board)}
            print(board_name, "int8 twin", row["int8 twin of cifar10_vit_micro"], flush=True)
    write_json(options.out, results)


if __name__ == "__main__":
    main()
