"""What a file says of itself: this package's own entry, and TFLite's standard metadata beside it.

`card` is for whoever runs the file; `acdbit_keras.convert.cards` has its keys. Size and channels are those of
the model's input, and the colour order is RGB. The standard entry (`TFLITE_METADATA` with the associated file `labels.txt`) says
the same as far as TFLite's schema can; Netron, the TFLite task library and MediaPipe read it.

Source: metadata_schema.fbs of TensorFlow Lite Support, version 1.0.0 of it, whose tables are written here by their field numbers.
"""

import io
import json

import flatbuffers
import numpy as np

from acdbit_keras.convert import cards, flatbuffer, pictures
from acdbit_keras.convert.flatbuffer import schema

NAME = "acdbit_keras"
VERSION = 1
STANDARD_NAME = "TFLITE_METADATA"
LABELS = "labels.txt"

_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"
# Numbers of unions and enumerations in the schema.
_FEATURE, _IMAGE = 1, 2
_RGB, _GRAYSCALE = 1, 2
_NORMALIZATION = 1
_TENSOR_AXIS_LABELS = 2


def read(model):
    """This package's entry of a model object: a dict, empty in a file of another origin.

    Raises:
        ValueError: it is damaged, or a newer version of the package wrote it.
    """
    for entry in model.metadata or []:
        if flatbuffer.text(entry.name) == NAME:
            data = model.buffers[entry.buffer].data
            return _parsed(b"" if data is None else np.asarray(data, np.uint8).tobytes())
    return {}


def _parsed(content):
    try:
        value = json.loads(content)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
    except ValueError as error:
        raise ValueError(f"the entry {NAME!r} of the file's metadata is damaged ({error}); convert the model again") from error
    version = value.pop("version", VERSION)  # files from before there were versions are of the first
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"the file's metadata are of version {version}, this acdbit-keras reads up to version {VERSION}; update acdbit-keras"
        )
    return value


def update(model, **values):
    """Stores values of plain types in this package's entry, beside those that are there."""
    content = json.dumps({"version": VERSION, **read(model), **values}).encode()
    _store(model, NAME, content)


def card(model):
    """The card of a model object, `{}` if it has none; see the module.

    Raises:
        ValueError: as `read`, and for a card whose known keys do not fit each other or the model.
    """
    found = read(model).get("card", {})
    cards.check(found)
    return found


def add_standard(model, card, normalised_inside=False):
    """Adds TFLite's standard metadata to a model object whose card has classes.

    Args:
        model: model object with one input and one output.
        card: its card.
        normalised_inside: whether the model normalises pixel values itself.
    """
    [taken], [given] = flatbuffer.inputs(model), flatbuffer.outputs(model)
    builder = _Tables()
    labels = builder.table(
        (0, "offset", builder.string(LABELS)),
        (1, "offset", builder.string("the classes, in the order of the logits")),
        (2, "int8", _TENSOR_AXIS_LABELS),
    )
    named = builder.table(
        (0, "offset", builder.string("logits")),
        (1, "offset", builder.string("one logit per class; a softmax gives the probabilities")),
        (3, "offset", builder.content(_FEATURE, builder.table())),
        (6, "offset", builder.vector([labels])),
    )
    graph = builder.table(
        (2, "offset", builder.vector([_input_table(builder, taken, card, normalised_inside)])),
        (3, "offset", builder.vector([named])),
    )
    what = f"a classifier of {given.shape[-1]} classes"
    top = builder.table(
        (0, "offset", builder.string(f"acdbit-keras, {card['scheme']}" if "scheme" in card else "acdbit-keras")),
        (1, "offset", builder.string(f"{what}, trained on {card['dataset']}" if "dataset" in card else what)),
        (3, "offset", builder.vector([graph])),
        (7, "offset", builder.string(_PARSER_VERSION)),
    )
    _store(model, STANDARD_NAME, builder.finished(top))


def with_labels(content, card):
    """The bytes of a file with the associated file that the standard entry names: a ZIP archive behind the flatbuffer."""
    import zipfile

    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        # Dated alike whenever it is made, so that equal models are equal files.
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{name}\n" for name in card["classes"]))
    return file.getvalue()


def _input_table(builder, tensor, card, normalised_inside):
    fields = [(0, "offset", builder.string("image" if "mean" in card else "input"))]
    if "mean" not in card or len(tensor.shape) != 4:
        return builder.table(*fields, (3, "offset", builder.content(_FEATURE, builder.table())))
    _, height, width, channels = tensor.shape
    size = builder.table((0, "uint32", width), (1, "uint32", height))
    image = builder.table((0, "int8", _RGB if channels == 3 else _GRAYSCALE), (1, "offset", size))
    if normalised_inside:
        mean, std = [float(-pictures.LEAST[tensor.dtype])], [1.0]
    else:
        mean, std = [255 * m for m in card["mean"]], [255 * s for s in card["std"]]
    normalization = builder.table((0, "offset", builder.floats(mean)), (1, "offset", builder.floats(std)))
    unit = builder.table((0, "uint8", _NORMALIZATION), (1, "offset", normalization))
    return builder.table(
        *fields,
        (1, "offset", builder.string(f"the central square of a picture, {width} x {height} pixels")),
        (3, "offset", builder.content(_IMAGE, image)),
        (4, "offset", builder.vector([unit])),
    )


class _Tables:
    """Flatbuffer tables written by field number: the standard schema has no generated code in a package this one needs."""

    def __init__(self):
        self._builder = flatbuffers.Builder(1024)

    def string(self, text):
        return self._builder.CreateString(text)

    def vector(self, offsets):
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def floats(self, values):
        return self._builder.CreateNumpyVector(np.asarray(values, "<f4"))

    def table(self, *fields):
        """Fields are `(number, kind, value)`; what they point to is there already."""
        prepend = {
            "offset": self._builder.PrependUOffsetTRelativeSlot,
            "int8": self._builder.PrependInt8Slot,
            "uint8": self._builder.PrependUint8Slot,
            "uint32": self._builder.PrependUint32Slot,
        }
        self._builder.StartObject(max((number for number, _, _ in fields), default=-1) + 1)
        for number, kind, value in fields:
            prepend[kind](number, value, 0)
        return self._builder.EndObject()

    def content(self, kind, properties):
        return self.table((0, "uint8", kind), (1, "offset", properties))

    def finished(self, root):
        self._builder.Finish(root, _IDENTIFIER)
        return bytes(self._builder.Output())


def _store(model, name, content):
    data = np.frombuffer(content, np.uint8)
    for entry in model.metadata or []:
        if flatbuffer.text(entry.name) == name:
            model.buffers[entry.buffer] = schema.BufferT(data=data)
            return
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(schema.BufferT(data=data))
    model.metadata = [*(model.metadata or []), entry]
