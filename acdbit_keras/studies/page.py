"""The page that runs models in a browser: its files in one folder for any static server, and a server for this machine.

`index.html` classifies with one model, `zoo.html` shows the zoo: each model's card, what was measured about it, a link to try it.
"""

import csv
import errno
import functools
import http.server
import pathlib
import shutil
import tempfile

from acdbit_keras.convert import Interpreter, runtime
from acdbit_keras.files import write_json

WEB = pathlib.Path(runtime.__file__).with_name("web")
PAGE = ("index.html", "acdbit.mjs", "float_twin.mjs", "acdbit.wasm")
ZOO_PAGE, ZOO = "zoo.html", "zoo.json"
MODEL = "model.acdm"  # what index.html takes where its address names no other
TWIN_SUFFIX = ".twin"
# What the systems of servers know too seldom; a browser compiles no engine of another type while it comes in.
TYPES = {".wasm": "application/wasm", ".mjs": "text/javascript"}


def write_model(folder, file):
    """The page of one flat file.

    Args:
        folder: for the page; made where it is missing.
        file: path of the flat file (`.acdm`).

    Raises:
        FileNotFoundError: the engine for browsers was not built, or there is no such file.
        ValueError: no flat file.
    """
    interpreter = Interpreter(file)
    if interpreter.engine != "flat":
        raise ValueError(f"{file} is not a flat file, which browsers run: acdbit convert RUN out.acdm makes one")
    _write_page(folder, PAGE)
    shutil.copy(file, pathlib.Path(folder) / MODEL)


def write_zoo(folder):
    """The page of all 1-bit models of the zoo, each with its float twin where there is one.

    Args:
        folder: for the page; made where it is missing.

    Raises:
        FileNotFoundError: the engine for browsers was not built.
        ImportError: what converts is not installed.
    """
    from acdbit_keras.models.zoo import entries
    from acdbit_keras.models.zoo.compact import FLOAT_TWIN

    _write_page(folder, (*PAGE, ZOO_PAGE))
    folder = pathlib.Path(folder)
    cards = {name: entries.card(name) for name in entries.zoo_names()}
    shown = [_entry(folder, card, cards) for card in cards.values() if card["model"]["scheme"] != FLOAT_TWIN]
    write_json(folder / ZOO, {"models": shown})
    shutil.copy(folder / shown[0]["file"], folder / MODEL)


def _entry(folder, card, cards):
    """What `zoo.html` shows of a model, whose files are written into the folder."""
    from acdbit_keras.convert import flat, float_graph
    from acdbit_keras.models.zoo import entries
    from acdbit_keras.studies import zoo

    name, twin = card["name"], card.get("float_twin")
    file = folder / f"{name}.acdm"
    with tempfile.TemporaryDirectory() as scratch:
        flat.write(zoo.converted(name, scratch), file, compact=True, input="uint8")
        entry = {
            "name": name,
            "file": file.name,
            "bytes": file.stat().st_size,
            "card": card,
            "curves": _curves(entries.entry(name)),
        }
        if twin is not None:
            path = folder / f"{twin}{TWIN_SUFFIX}"
            path.write_bytes(float_graph.pack(zoo.converted(twin, scratch, precision="float32")))
            entry["twin"] = {"name": twin, "file": path.name, "bytes": path.stat().st_size, "card": cards[twin]}
    return entry


def _curves(folder):
    """The charts of an entry, as `zoo.html` draws them, from the curves that lie in its folder."""
    from acdbit_keras.models.zoo import entries
    from acdbit_keras.studies.robustness import report

    charts = []
    if (folder / entries.HISTORY).is_file():
        rows = [row for row in _rows(folder / entries.HISTORY) if row.get("val_accuracy")]
        points = [[number, float(row["val_accuracy"])] for number, row in enumerate(rows, 1)]
        charts.append(
            {"title": "While it was trained: test images", "x": "epochs", "lines": [{"name": folder.name, "points": points}]}
        )
    if (folder / entries.ROBUSTNESS).is_file():
        rows = [
            {**row, **{key: float(row[key]) for key in ("strength", "accuracy")}} for row in _rows(folder / entries.ROBUSTNESS)
        ]
        for kind, unit in {row["kind"]: row["unit"] for row in rows if row["test"] == "noise"}.items():
            found = report.curves({"rows": rows}, "noise", kind)
            lines = [{"name": name, "points": [*zip(strengths, means)]} for name, (strengths, means, _) in found.items()]
            charts.append({"title": f"With noise, {kind.replace('_', ' ')}", "x": unit, "lines": lines})
    return charts


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_page(folder, names):
    folder = pathlib.Path(folder)
    if not (WEB / "acdbit.wasm").is_file():
        raise FileNotFoundError(
            f"the engine for browsers is not built ({WEB / 'acdbit.wasm'}); wheels bring it, in a clone `make page` builds it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(WEB / name, folder)


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | TYPES

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")  # a model converted anew has the old one's name
        super().end_headers()

    def log_message(self, *arguments):
        pass


def server(folder, host="127.0.0.1", port=8000):
    """A server of a folder's files, to be called with `serve_forever`, with the right types for engine and scripts.

    Args:
        folder: with an `index.html`.
        host: address to listen at.
        port: 0 is any that is free.

    Returns:
        http.server.ThreadingHTTPServer; its `server_address` says what it got.

    Raises:
        FileNotFoundError: the folder holds no `index.html`.
        OSError: the port is taken, or the address is not one of this machine.
    """
    if not (pathlib.Path(folder) / "index.html").is_file():
        raise FileNotFoundError(f"{folder} is no page: it holds no index.html")
    try:
        return http.server.ThreadingHTTPServer((host, port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is taken; --port names another, --port 0 takes any that is free") from error
        raise OSError(f"there is nothing to listen at on {host}, port {port}: {error.strerror or error}") from error
