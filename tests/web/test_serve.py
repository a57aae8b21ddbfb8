"""`acdbit serve`: what it writes, and how it answers."""

import pathlib
import socket
import threading
import urllib.error
import urllib.request

import pytest

from acdbit_keras.cli import main
from acdbit_keras.convert import flat, float_graph
from acdbit_keras.studies import page, zoo


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    zoo.converted("digits_vit_nano_acd_bit", folder)
    flat.write(folder / "digits_vit_nano_acd_bit.tflite", folder / "digits.acdm", input="uint8")
    return folder / "digits.acdm"


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The page's files with something in place of the engine, which nobody runs here."""
    folder = tmp_path / "web"
    folder.mkdir()
    for path in page.WEB.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "acdbit.wasm").write_bytes(b"engine")
    monkeypatch.setattr(page, "WEB", folder)
    return folder


def error(capsys, *arguments):
    assert main(["serve", *map(str, arguments)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_every_file_of_the_page_comes_with_its_type(web, model, tmp_path):
    page.write_model(tmp_path / "page", model)
    with page.server(tmp_path / "page", port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        types = {
            "": "text/html",
            "acdbit.mjs": "text/javascript",
            "acdbit.wasm": "application/wasm",
            "model.acdm": "application/octet-stream",
        }
        for name, kind in types.items():
            with urllib.request.urlopen(address + name) as answer:
                assert answer.headers["Content-Type"] == kind
                content = answer.read()
        assert content == model.read_bytes()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + "none.acdm")
        server.shutdown()


def test_a_page_is_written_for_any_static_server(web, model, tmp_path, capsys):
    assert main(["serve", str(model), "--out", str(tmp_path / "page")]) == 0
    assert {path.name for path in (tmp_path / "page").iterdir()} == {*page.PAGE, page.MODEL}
    assert str(tmp_path / "page") in capsys.readouterr().out


def test_the_server_listens_to_this_machine_alone_unless_told_otherwise(web, model, tmp_path):
    page.write_model(tmp_path / "page", model)
    with page.server(tmp_path / "page", port=0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_what_cannot_be_served_is_said_in_one_sentence(web, model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken; --port names another" in error(capsys, model, "--port", port)
    assert "--port must be an integer from 0 to 65535, not 70000" in error(capsys, model, "--port", 70000)
    assert "is no page: it holds no index.html" in error(capsys, tmp_path / "empty")
    assert "--out writes a page of the zoo or of a flat file" in error(capsys, tmp_path / "empty", "--out", tmp_path / "page")
    file = model.with_name("digits_vit_nano_acd_bit.tflite")
    assert "is not a flat file, which browsers run" in error(capsys, file, "--out", tmp_path / "page")
    assert "there is nothing to listen at on 192.0.2.1" in error(capsys, model, "--host", "192.0.2.1")
    pathlib.Path(web / "acdbit.wasm").unlink()
    assert "the engine for browsers is not built" in error(capsys, model)


def test_a_twin_with_ops_that_the_page_does_not_know_is_refused_by_name(model):
    with pytest.raises(ValueError, match="the page knows no AcdBinaryBlock of node"):
        float_graph.pack(model.with_name("digits_vit_nano_acd_bit.tflite"))
