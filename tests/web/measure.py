"""What models take in a browser's engine, beside onnxruntime-web's float32 of the same network: `make web`, results/web.json.

    python tests/web/measure.py --out results/web.json [--rounds N]

DeiT-S (`vit_small_patch16_224`, 100 classes, untrained and moved a little, which hardly matters for time) and the CIFAR-10 model
of the zoo with its trained twin, as exact and compact flat files, in turns on one thread of Node, whose engine is Chromium's.
Needs clang-19, lld-19, wasi-libc, node and npm.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent / "arm64")]

from make_models import CLASSES, student

from acdbit_keras.convert import flat, float_graph, to_tflite
from acdbit_keras.files import write_json
from acdbit_keras.machine import processor
from acdbit_keras.models import from_zoo
from acdbit_keras.studies import contenders, zoo
from acdbit_keras.studies.page import WEB

ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"
DEIT, CIFAR10 = "vit_small_patch16_224", "cifar10_vit_micro_acd_bit"


def write_files(folder):
    """The contenders' files, as `measure.mjs` wants them; returns dict from name to bytes."""
    card = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    model = student(DEIT, "acd_bit")
    to_tflite(model, folder / f"{DEIT}.tflite", "bits", card=card)
    contenders.to_onnx(contenders.float_twin(model), folder / f"{DEIT}.onnx")
    zoo.converted(CIFAR10, folder)
    twin = zoo.entries.card(CIFAR10)["float_twin"]
    contenders.to_onnx(from_zoo(twin), folder / f"{CIFAR10}.onnx")
    (folder / f"{CIFAR10}.twin").write_bytes(float_graph.pack(zoo.converted(twin, folder, precision="float32")))
    for name in (DEIT, CIFAR10):
        for form in ("", "_compact"):
            flat.write(folder / f"{name}.tflite", folder / f"{name}{form}.acdm", compact=bool(form))
    (folder / "names.json").write_text(json.dumps([DEIT, CIFAR10]))
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix in (".acdm", ".onnx", ".twin")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        subprocess.run([WEB / "build.sh", folder], check=True)
        for name in ("acdbit.mjs", "float_twin.mjs"):
            shutil.copy(WEB / name, folder)
        install = ["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", folder, ONNXRUNTIME_WEB]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        sizes = write_files(folder)
        command = ["node", HERE / "measure.mjs", folder, folder / "node_modules" / "onnxruntime-web", str(options.rounds)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    for times in found["milliseconds"].values():
        times["float32 over bits"] = round(times["onnxruntime-web float32"] / times["acdbit"], 2)
    found = {"command": "make web", "processor": processor(), "threads": 1, "classes": CLASSES, **found, "bytes": sizes}
    write_json(options.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
