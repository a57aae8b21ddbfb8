"""Executes notebooks in a kernel of their own and writes their outputs back, small enough to be committed: `make notebooks`."""

import base64
import hashlib
import io
import pathlib
import re
import sys
import tempfile

import nbclient
import nbformat
from PIL import Image

SECONDS = 600  # of one cell, on the slowest machine
LARGEST_PICTURE = 60_000  # bytes
_WIDTH = 1000  # pixels
_COLORS = (128, 64, 32, 16)


def executed(path):
    """A notebook with the outputs that its code gives in an empty folder, without what libraries say on standard error.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=SECONDS, resources=resources, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            outputs = [_small(output) for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in outputs if output.get("text") != ""]
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec",)} | {"executed": digest(notebook)}
    return notebook


def digest(notebook):
    """Of all code in a notebook: tells whether its outputs are those of another code."""
    return hashlib.sha256("\n\n".join(code(notebook)).encode()).hexdigest()


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def _small(output):
    if "text" in output:
        # TensorFlow's logger takes the standard output for its own where Python is interactive.
        output.text = re.sub(r"^INFO:tensorflow:.*\n", "", output.text, flags=re.MULTILINE)
    if "image/png" in output.get("data", {}):
        output.data = {"image/png": base64.b64encode(_smaller(base64.b64decode(output.data["image/png"]))).decode()}
        output.metadata = {}
    return output


def _smaller(png):
    """The same picture in fewer colours and pixels, for as long as it is too large."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    for colors in _COLORS:
        content = io.BytesIO()
        picture.quantize(colors, dither=Image.Dither.NONE).save(content, "png", optimize=True)
        if content.tell() < LARGEST_PICTURE:
            return content.getvalue()
    raise ValueError(
        f"a picture of {picture.width} x {picture.height} pixels does not become smaller than {LARGEST_PICTURE} bytes"
    )


def main():
    for path in map(pathlib.Path, sys.argv[1:]):
        print(path, flush=True)
        notebook = executed(path)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
