#!/usr/bin/env python3
"""Takes the parts of a bundle and trains what it holds; stands alone beside `bundle.json` and needs Python, JAX and numpy.

    python run.py --out results

Parts may come one by one: what is there is taken into the folder `state`, and the same command with the last part beside it
begins to train. Every step goes on where it was stopped.
"""

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import time
import zipfile

START = time.monotonic()
HERE = pathlib.Path(__file__).resolve().parent
FORMAT = 1


def main(arguments=None):
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Takes the parts of a bundle, and trains what it holds when all are there.")
    parser.add_argument("--out", default=str(HERE / "results"), help="folder of the results (default: results, beside run.py)")
    parser.add_argument("--minutes", type=float, help="for all of it, from the start of this command (default: the bundle's)")
    parser.add_argument("--state", default=str(HERE / "state"), help="folder that is kept between calls (default: state)")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="auto: bfloat16 where there is an accelerator",
    )
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(HERE)
        state = pathlib.Path(options.state)
        content = take(bundle, HERE, state)
        if content is None:
            return 0
        minutes = bundle["minutes"] if options.minutes is None else options.minutes
        if not minutes > 0:
            raise ValueError(f"--minutes must be a positive number, not {minutes:g}")
        prepare(bundle, content)
        # Of the code that the bundle brought.
        work = importlib.import_module("acdbit_keras.studies.bundle.work")
        done = work.Work(bundle, content, state, options.out, minutes, START, options.precision).run()
        return 0 if len(done) == len(bundle["recipes"]) else 1
    except (ValueError, OSError) as error:
        print(f"run.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def read_bundle(folder):
    """The content of `bundle.json`, if this Python is the one that the bundle is for.

    Raises:
        ValueError: it is missing, damaged or of another version, or the bundle is for another Python.
    """
    path = folder / "bundle.json"
    try:
        bundle = json.loads(path.read_text())
        version, python = bundle["format"], bundle["python"]
    except OSError:
        raise ValueError(f"there is no {path}; it belongs beside run.py") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; bring it once more") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} has version {version} of its format, this run.py reads version {FORMAT}; both must be of one bundle"
        )
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python != here:
        raise ValueError(
            f"the bundle is for Python {python}, this is Python {here}; acdbit bundle --python {here} makes one for it"
        )
    return bundle


def take(bundle, folder, state):
    """Takes the parts that lie in a folder.

    Args:
        bundle: content of `bundle.json`.
        folder: where parts may lie.
        state: folder that keeps them.

    Returns:
        Folder of their content; `None` if some were taken and others are still missing.

    Raises:
        ValueError: a damaged part, or no new one while others are missing.
    """
    content, kept = state / f"content_{bundle['id']}", state / "parts"
    if content.exists():
        return content
    kept.mkdir(parents=True, exist_ok=True)
    new = 0
    for part in bundle["parts"]:
        path, own = folder / part["file"], kept / f"{bundle['id']}_{part['file']}"
        if own.exists() or not path.exists():
            continue
        if checksum(path) != part["sha256"]:
            raise ValueError(f"{path} is damaged: its checksum is wrong; bring it once more")
        shutil.copyfile(path, own.with_suffix(".copy"))
        os.replace(own.with_suffix(".copy"), own)
        new += 1
    missing = [part["file"] for part in bundle["parts"] if not (kept / f"{bundle['id']}_{part['file']}").exists()]
    if missing:
        said = f"{', '.join(missing)} of {len(bundle['parts'])} parts {'is' if len(missing) == 1 else 'are'} missing"
        if not new:
            raise ValueError(f"{said}; bring what is missing to {folder} and run this again")
        print(f"run.py: {new} taken; {said}; bring what is missing to {folder} and run this again", flush=True)
        return None
    archive, unpacked = state / "content.zip", state / "content.new"
    join([kept / f"{bundle['id']}_{part['file']}" for part in bundle["parts"]], archive)
    shutil.rmtree(unpacked, ignore_errors=True)
    with zipfile.ZipFile(archive) as file:
        file.extractall(unpacked)
    os.replace(unpacked, content)
    archive.unlink()
    return content


def prepare(bundle, content):
    """Makes the package and what this machine lacks importable; what is there is left as it is, but for Keras.

    Raises:
        ValueError: JAX or numpy is not there.
    """
    for name in ("jax", "numpy"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"this Python has no {name}, which a bundle does not bring; name the Python that has it")
    site = content / "site"
    if not site.exists():
        unpacked = content / "site.new"
        shutil.rmtree(unpacked, ignore_errors=True)
        for wheel, module in bundle["wheels"].items():
            if module == "keras" or importlib.util.find_spec(module) is None:
                with zipfile.ZipFile(content / "wheels" / wheel) as file:
                    file.extractall(unpacked)
        os.replace(unpacked, site)
    paths = [str(content / "code"), str(site)]
    sys.path[:0] = paths
    # For the processes that decode images.
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["KERAS_BACKEND"] = "jax"
    # JAX takes three quarters of a GPU's memory where nothing else is said; nobody else is there.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")


def checksum(path):
    """SHA-256 of a file, as text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def split(path, folder, stem, limit):
    """Cuts a file into others of at most `limit` bytes; returns a list of `{"file", "bytes", "sha256"}`."""
    parts = []
    with open(path, "rb") as file:
        while block := file.read(limit):
            part = pathlib.Path(folder) / f"{stem}_{len(parts) + 1}.bin"
            part.write_bytes(block)
            parts.append({"file": part.name, "bytes": len(block), "sha256": checksum(part)})
    return parts


def join(paths, target):
    """Puts what `split` cut into one file again."""
    with open(target, "wb") as file:
        for path in paths:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, file)


if __name__ == "__main__":
    sys.exit(main())
