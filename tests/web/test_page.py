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
sys.path += [str(HERE), str(HERE.parent)]

import browser
from debian import install_packages

from acdbit_keras.convert import Interpreter, flat
from acdbit_keras.models import data
from acdbit_keras.studies import zoo

PACKAGES = {
    "clang-19": "clang-19",
    "wasm-ld-19": "lld-19",
    "/usr/lib/wasm32-wasi/libc.a": "wasi-libc",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
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


@pytest.fixture(scope="module")
def chromium(site):
    with browser.started() as opened:
        yield opened


def page(opened, address, query):
    """What stands in the page when it is done."""
    opened.open(f"{address}?{query}")
    return opened.wait("document.body.dataset.ready || document.querySelector('#state.error')")


def test_pictures_get_the_classes_that_the_file_gives_here(site, chromium):
    folder, address = site
    text = page(chromium, address, "&".join(f"picture={number}.png" for number in range(COUNT)))
    interpreter = Interpreter(folder / "model.acdm")
    theirs = [interpreter.classify(np.asarray(Image.open(folder / f"{number}.png")))[0].name for number in range(COUNT)]
    assert re.findall(r'data-best="(.+?)"', text) == theirs
    assert text.count("<meter") == 5 * COUNT


def test_what_is_wrong_is_said_in_the_page(site, chromium):
    _, address = site
    assert "no.png is no picture that this browser can read" in page(chromium, address, "picture=no.png")
    assert "the file is truncated" in page(chromium, address, "model=short.acdm")
    assert "answered 404" in page(chromium, address, "model=none.acdm")
    assert "there is no camera that this page may use" in page(chromium, address, "camera")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_a_camera_shows_is_classified(site, tmp_path, number):
    folder, address = site
    digit = np.array(Image.open(folder / f"{number}.png").resize((240, 240), Image.Resampling.BICUBIC))
    frame = np.full((240, 320), digit[0, 0], np.uint8)
    frame[:, 40:280] = digit
    grey = np.full(2 * 120 * 160, 128, np.uint8).tobytes()
    video = tmp_path / "camera.y4m"
    video.write_bytes(b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + frame.tobytes() + grey) * 10)
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", f"--use-file-for-fake-video-capture={video}"]
    with browser.started(*flags) as opened:
        opened.open(f"{address}?camera")
        opened.wait("document.querySelector('#live [data-best]')")
        told = opened.run("return document.querySelector('#live [data-best]').dataset.best")
    assert told == Interpreter(folder / "model.acdm").classify(frame[..., None])[0].name


def test_the_page_without_a_model_is_small(site):
    import gzip

    folder, _ = site
    assert sum(len(gzip.compress((folder / name).read_bytes())) for name in ("index.html", "acdbit.mjs", "acdbit.wasm")) < 150_000
