"""The documentation site in headless Chromium: pages fit narrow and wide windows, formulas are set, search finds."""

import functools
import http.server
import pathlib
import subprocess
import sys
import threading

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path += [str(HERE), str(HERE.parent)]

import browser
from debian import install_packages

PAGES = (
    "index",
    "tutorial",
    "results",
    "situations",
    "schemes/acd_bit",
    "devices/x86",
    "api/models",
    "notebooks/3_what_alignment_does",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    made = subprocess.run(["make", "--silent", "docs", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    handler = functools.partial(Quiet, directory=ROOT / "build" / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    install_packages({"chromium": "chromium", "chromedriver": "chromium-driver"})
    with browser.started() as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_all_its_pictures_are_there(address, chromium, name, width):
    chromium.resize(width, 900)
    chromium.open(f"{address}/{name}.html")
    chromium.wait("document.readyState == 'complete'")
    # A phone's window would say that it is as wide as what is in it.
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    assert chromium.run("return [...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []


def test_formulas_are_set_in_the_font_that_comes_along(address, chromium):
    chromium.open(f"{address}/schemes/acd_bit.html")
    chromium.wait("document.fonts.check('16px \"STIX Two Math\"')")
    # A fraction is higher than a letter, an index lower than what it belongs to.
    heights = "return [...document.querySelectorAll('mfrac, msub')].map(part => part.getBoundingClientRect().height)"
    assert min(chromium.run(heights)) > 8
    low = "const [base, index] = document.querySelector('msub').children; "
    low += "return index.getBoundingClientRect().bottom - base.getBoundingClientRect().bottom"
    assert chromium.run(low) > 1


def test_the_search_finds_a_scheme(address, chromium):
    chromium.resize(1440, 900)
    chromium.open(f"{address}/index.html")
    chromium.run(
        "const field = document.querySelector('.md-search__input'); field.focus(); field.value = 'BinaryViT';"
        "for (const kind of ['input', 'keyup']) field.dispatchEvent(new Event(kind, {bubbles: true}))"
    )
    chromium.wait("document.querySelector('.md-search-result__link[href*=\"schemes/binary_vit\"]')")
