"""A flat file as C: a header and a source with the bytes, and a library for Arduino and PlatformIO with the engine."""

import json
import pathlib
import shutil

from acdbit_keras import files
from acdbit_keras.convert import runtime
from acdbit_keras.convert.flat_engine import FlatEngine, FlatError
from acdbit_keras.version import __version__

_PER_LINE = 20

# Of the engine for processors without vectors: sources, and all that they include.
ENGINE_SOURCES = ("model.cc", "model_scalar.cc", "block.cc", "attention.cc")

_HEADER = """\
/* {name}: {bytes} bytes of a flat model file, written by acdbit-keras {version}. Run it with acdbit_model.h. */
#ifndef {macro}_H_
#define {macro}_H_

#define {macro}_BYTES {bytes}
#define {macro}_MEMORY {memory} /* of the arena, with the engine for processors without vectors */
#define {macro}_HEIGHT {height}
#define {macro}_WIDTH {width}
#define {macro}_CHANNELS {channels}
#define {macro}_INPUT_BYTES {input_bytes} /* {input} */
#define {macro}_OUTPUTS {outputs}

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}_data[{macro}_BYTES];
extern const char* const {name}_classes[{macro}_OUTPUTS];

#ifdef __cplusplus
}}
#endif

#endif /* {macro}_H_ */
"""

_SOURCE = """\
#include "{name}.h"

const unsigned char {name}_data[{macro}_BYTES] __attribute__((aligned(64))) = {{
{rows}
}};

const char* const {name}_classes[{macro}_OUTPUTS] = {{
{classes}
}};
"""


def texts(content, name):
    """Header and source of a flat file.

    Args:
        content: its bytes.
        name: a C identifier; what is defined begins with it.

    Returns:
        Dict from file name to text.

    Raises:
        FlatError: the name is no C identifier, or the file is no flat file.
        RuntimeMissingError: the runtime is not compiled, which knows how much memory the engine needs.
    """
    if not name.isidentifier() or not name.isascii():
        raise FlatError(f"a C source must be named by letters, digits and underscores, not {name!r}")
    engine = FlatEngine(content, name)
    height, width, channels = engine.input_shape
    pixels = engine.input_dtype == "uint8"
    facts = {
        "name": name,
        "macro": name.upper(),
        "bytes": len(content),
        "version": __version__,
        "memory": engine.memory_bytes,
        "height": height,
        "width": width,
        "channels": channels,
        "outputs": engine.outputs,
        "input_bytes": height * width * channels * (1 if pixels else 4),
        "input": "uint8 pixels, RGB, row by row" if pixels else "float32, normalised, row by row",
    }
    card = json.loads(engine.card or b"{}")
    if card.get("sequence"):
        facts["input"] = "uint8 readings, step by step" if pixels else "float32, normalised, step by step"
    rows = [", ".join(map(str, content[i : i + _PER_LINE])) for i in range(0, len(content), _PER_LINE)]
    names = card.get("classes") or [str(number) for number in range(engine.outputs)]
    classes = ",\n".join(f"    {json.dumps(text, ensure_ascii=False)}" for text in names[: engine.outputs])
    return {
        f"{name}.h": _HEADER.format(**facts),
        f"{name}.c": _SOURCE.format(**facts, rows=",\n".join(rows), classes=classes),
    }


def write_c(content, path):
    """Writes `NAME.c` and `NAME.h` beside each other; `path` is one of them."""
    path = pathlib.Path(files.writable(path))
    for name, text in texts(content, path.stem).items():
        files.write_text(path.with_name(name), text)


def write_arduino(content, folder):
    """Writes a library for the Arduino IDE and PlatformIO: the model, the engine and an example sketch.

    Args:
        content: bytes of a flat file.
        folder: that is to be; its name becomes the model's and the library's, and so must be a C identifier.

    Raises:
        FileExistsError: the folder holds something already.
        OSError: it cannot be written.
    """
    folder = pathlib.Path(folder)
    sources = texts(content, folder.name)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise FileExistsError(f"{folder} is there already and not empty; name a new folder")
    room = pathlib.Path(runtime.__file__).parent
    source, example = folder / "src", folder / "examples" / "classify"
    source.mkdir(parents=True)
    example.mkdir(parents=True)
    for name in engine_files(room):
        # One level: includes are written without folders.
        shutil.copyfile(room / name, source / pathlib.Path(name).name.replace(".cc", ".cpp"))
    for name, text in sources.items():
        (source / name).write_text(text)
    facts = {"name": folder.name, "macro": folder.name.upper(), "version": __version__}
    for template, target in (
        ("library.properties", folder / "library.properties"),
        ("library.json", folder / "library.json"),
        ("classify.ino", example / "classify.ino"),
    ):
        text = (room / "mcu" / "arduino" / template).read_text()
        for key, value in facts.items():
            text = text.replace(f"@{key}@", value)
        target.write_text(text)


def engine_files(room):
    """Paths below the runtime's folder of the engine for microcontrollers: `ENGINE_SOURCES` and what they include."""
    found, waiting = [], [f"src/{name}" for name in ENGINE_SOURCES]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.append(name)
        for line in (room / name).read_text().splitlines():
            if line.startswith('#include "'):
                included = line.split('"')[1]
                waiting.append(next(f"{place}/{included}" for place in ("src", "include") if (room / place / included).is_file()))
    return sorted(found)
