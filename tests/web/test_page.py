"""The page in headless Chromium: pictures get the classes that the same file gives here, and errors are sentences."""

import functools
import http.server
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
WEB = HERE.parents[1] / "acdbit_keras" / "convert" / "runtime" / "web"
sys.path += [str(HERE.parent)]

from debian import install_packages

from acdbit_keras.convert import Interpreter, flat
from acdbit_keras.models import data
from acdbit_keras.studies import zoo

PACKAGES = {
    "clang-19": "clang-19",
    "wasm-ld-19": "lld-19",
    "/usr/lib/wasm32-wasi/libc.a": "wasi-libc",
    "chromium": "chromium",
}
COUNT = 20


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder with the page, the digits' model and pictures of digits; and its address."""
    install_packages(PACKAGES)
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([WEB / "build.sh", folder], check=True)
    for name in ("index.html", "acdbit.mjs"):
        shutil.copy(WEB / name, folder)
    flat.write(zoo.converted("digits_vit_nano_acd_bit", folder), folder / "model.acdm", compact=True, input="uint8")
    for number, image in enumerate(data.arrays("digits", "test")[0][:COUNT]):
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    (folder / "no.png").write_text("no picture")
    (folder / "short.acdm").write_bytes((folder / "model.acdm").read_bytes()[:-100])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def page(address, query, *flags):
    """What stands in the page after some seconds of its own time."""
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]
    command = ["chromium", *common, *flags, "--virtual-time-budget=200000", "--dump-dom", f"{address}?{query}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout


def test_pictures_get_the_classes_that_the_file_gives_here(site):
    folder, address = site
    text = page(address, "&".join(f"picture={number}.png" for number in range(COUNT)))
    interpreter = Interpreter(folder / "model.acdm")
    theirs = [interpreter.classify(np.asarray(Image.open(folder / f"{number}.png")))[0].name for number in range(COUNT)]
    assert re.findall(r'data-best="(.+?)"', text) == theirs
    assert text.count("<meter") == 5 * COUNT


def test_what_is_wrong_is_said_in_the_page(site):
    _, address = site
    assert "no.png is no picture that this browser can read" in page(address, "picture=no.png")
    assert "the file is truncated" in page(address, "model=short.acdm")
    assert "answered 404" in page(address, "model=none.acdm")


def test_the_page_without_a_model_is_small(site):
    import gzip

    folder, _ = site
    assert sum(len(gzip.compress((folder / name).read_bytes())) for name in ("index.html", "acdbit.mjs", "acdbit.wasm")) < 150_000
