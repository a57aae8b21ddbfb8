"""The page in headless Chromium: pictures get the classes that the same file gives here, and errors are sentences."""

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
DOCS = HERE.parents[1] / "docs"
WEB = HERE.parents[1] / "acdbit_keras" / "convert" / "runtime" / "web"
sys.path += [str(HERE), str(HERE.parent)]

import browser
from debian import install_packages

from acdbit_keras.convert import Interpreter, flat
from acdbit_keras.models import data
from acdbit_keras.models.zoo import entries
from acdbit_keras.studies import page as pages
from acdbit_keras.studies import zoo

PACKAGES = {
    "clang-19": "clang-19",
    "wasm-ld-19": "lld-19",
    "/usr/lib/wasm32-wasi/libc.a": "wasi-libc",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}
COUNT = 20
ZOO = ["cifar10_vit_micro_acd_bit", "cifar10_vit_micro_float32", "digits_vit_nano_acd_bit"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder with the page, the digits' model and pictures of digits; and its address."""
    install_packages(PACKAGES)
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        web = tmp_path_factory.mktemp("web") / "web"
        shutil.copytree(WEB, web)
        subprocess.run([WEB / "build.sh", web], check=True)
        patch.setattr(pages, "WEB", web)
        patch.setattr(entries, "zoo_names", lambda *_: ZOO)
        pages.write_zoo(folder)
    flat.write(zoo.converted("digits_vit_nano_acd_bit", folder), folder / "model.acdm", compact=True, input="uint8")
    for number, image in enumerate(data.arrays("digits", "test")[0][:COUNT]):
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    (folder / "no.png").write_text("no picture")
    (folder / "short.acdm").write_bytes((folder / "model.acdm").read_bytes()[:-100])
    server = pages.server(folder, port=0)
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


def test_the_zoo_s_page_shows_every_model_s_card_and_curves_and_where_to_try_it(site, chromium):
    _, address = site
    chromium.open(f"{address}zoo.html")
    chromium.wait("document.body.dataset.ready || document.querySelector('#state.error')")
    assert chromium.run("return [...document.querySelectorAll('h2')].map((title) => title.textContent)") == [ZOO[0], ZOO[2]]
    told = chromium.run("return document.body.innerText")
    for name in (ZOO[0], ZOO[2]):
        card = entries.card(name)
        assert f"top-1 {card['accuracy']['top1']:.2%}".replace("%", " %") in told
        assert all(limit in told for limit in card["limits"])
    lines = chromium.run("return [...document.querySelectorAll('polyline')].map((line) => line.getAttribute('points'))")
    assert lines and all(re.fullmatch(r"([\d.]+,[\d.]+ ?)+", line) for line in lines)


def test_a_model_and_its_float_twin_classify_the_same_picture_beside_each_other(site, chromium, tmp_path):
    folder, address = site
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"colour{number}.png")
    chromium.open(f"{address}zoo.html")
    chromium.wait("document.body.dataset.ready")
    query = chromium.run("return document.querySelector('article a').search").removeprefix("?")
    text = page(chromium, address, "&".join([query, *(f"picture=colour{number}.png" for number in range(len(images)))]))
    files = {"best": folder / f"{ZOO[0]}.acdm", "twin": zoo.converted(ZOO[1], tmp_path, precision="float32")}
    for key, file in files.items():
        interpreter = Interpreter(file)
        theirs = [interpreter.classify(np.asarray(Image.open(folder / f"colour{n}.png")), 1)[0].name for n in range(len(images))]
        assert re.findall(rf'data-{key}="(.+?)"', text) == theirs
    assert len(re.findall(r"[\d.]+ ms", text)) == 2 * len(images)


def test_the_page_of_one_s_own_in_the_documentation_classifies_and_what_is_no_file_is_refused(site, chromium):
    folder, address = site
    [code] = re.findall(r"```js\n(.*?)```", (DOCS / "how-to" / "web.md").read_text(), re.DOTALL)
    shutil.copy(folder / "model.acdm", folder / "mine.acdm")
    told = "<script>console.log = ([best]) => (document.body.dataset.best = best.name);</script>"
    refused = "load('acdbit.wasm', 'mine.acdm').catch((error) => (document.body.dataset.error = error.message));"
    script = f'<script type="module">{code}{refused}</script>'
    (folder / "mine.html").write_text(f'<!doctype html><body><img src="0.png">{told}{script}')
    chromium.open(f"{address}mine.html")
    chromium.wait("document.body.dataset.best && document.body.dataset.error")
    best = Interpreter(folder / "mine.acdm").classify(np.asarray(Image.open(folder / "0.png")))[0].name
    assert chromium.run("return document.body.dataset.best") == best
    error = chromium.run("return document.body.dataset.error")
    assert error.startswith("a model and the engine are a Response, an ArrayBuffer or a Uint8Array each, not acdbit.wasm")


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
    assert sum(len(gzip.compress((folder / name).read_bytes())) for name in (*pages.PAGE, pages.ZOO_PAGE)) < 150_000
