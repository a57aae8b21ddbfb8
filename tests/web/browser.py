"""Chromium without a window, driven through chromedriver's HTTP interface: a page is read when it says that it is ready."""

import contextlib
import json
import re
import subprocess
import time
import urllib.request

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]


class Browser:
    """A session of a started chromedriver.

    Args:
        port: that chromedriver listens to.
        flags: of Chromium, beside `FLAGS`.
    """

    def __init__(self, port, flags=()):
        self._driver = f"http://127.0.0.1:{port}"
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": [*FLAGS, *flags]}}
        self._session = f"/session/{self._ask('/session', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"

    def open(self, address):
        self._ask(f"{self._session}/url", {"url": address})

    def resize(self, width, height):
        """Makes the window's inside so large, in pixels; narrow ones are a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._ask(f"{self._session}/goog/cdp/execute", command)

    def run(self, script):
        """What a script returns in the page."""
        return self._ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait(self, condition, seconds=120):
        """Waits until an expression is true in the page; returns the whole page as text."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} did not come about: {self.run('return document.body.innerText')}"
            time.sleep(0.1)
        return self.run("return document.documentElement.outerHTML")

    def close(self):
        self._ask(self._session, method="DELETE")

    def _ask(self, path, body=None, method="POST"):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._driver + path, content, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.load(answer)["value"]


@contextlib.contextmanager
def started(*flags):
    """A `Browser`, which is closed at the end."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = next(found[1] for line in driver.stdout if (found := re.search(r"on port (\d+)\.$", line.strip())))
        browser = Browser(port, flags)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.communicate()
