"""What files say of themselves, in this package's entry and in TFLite's standard one, and what `Interpreter` makes of it."""

import concurrent.futures
import io
import pickle
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
import small_models
from flatbuffers import encode, number_types

from acdbit_keras.convert import Interpreter, flatbuffer, metadata, to_tflite, verify

CLASSES = [f"class {i}" for i in range(10)]
CARD = {"dataset": "noise", "scheme": "float32", "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.5], "classes": CLASSES}
DISTORTED = b'{"version": 1, "card": '


@pytest.fixture(scope="module", params=["float32", "uint8", "int8"])
def file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / f"{request.param}.tflite"
    to_tflite(small_models.float_network(), path, card=CARD, input=request.param)
    return path


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


def normalised(images):
    return ((images / 255 - np.array(CARD["mean"])) / np.array(CARD["std"])).astype(np.float32)


# --- This package's entry ---------------------------------------------------------------------------------------------


def test_the_card_is_what_was_stored(file):
    interpreter = Interpreter(file)
    assert interpreter.card == CARD and interpreter.classes == tuple(CLASSES)


def test_a_file_has_one_entry_of_each_kind_and_no_orphan(file):
    model = flatbuffer.read(file)
    names = [flatbuffer.text(entry.name) for entry in model.metadata]
    assert names.count(metadata.NAME) == names.count(metadata.STANDARD_NAME) == 1
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors} | {entry.buffer for entry in model.metadata}
    orphans = [number for number, buffer in enumerate(model.buffers) if buffer.data is not None and number not in used]
    assert orphans == []


def test_equal_models_are_equal_files(file, tmp_path):
    again = tmp_path / "again.tflite"
    to_tflite(small_models.float_network(), again, card=CARD, input=Interpreter(file).input_dtype)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "content, reason",
    [
        (DISTORTED, "metadata is damaged"),
        (b"[1, 2]", "metadata is damaged"),
        (b'{"version": 99}', "of version 99, this acdbit-keras reads up to version 1"),
        (b'{"version": 1, "card": {"classes": "cat"}}', "classes must be a list"),
        (b'{"version": 1, "card": {"mean": [0.5]}}', "both mean and std"),
        (b'{"version": 1, "card": {"mean": [0.5], "std": [0.0]}}', "std must be positive"),
        (b'{"version": 1, "card": 7}', "card must be a dict"),
    ],
)
def test_damaged_and_newer_metadata_are_told_in_one_sentence(file, content, reason):
    model = flatbuffer.read(file)
    for entry in model.metadata:
        if flatbuffer.text(entry.name) == metadata.NAME:
            model.buffers[entry.buffer].data = np.frombuffer(content, np.uint8)
    with pytest.raises(ValueError, match=reason) as error:
        Interpreter(flatbuffer.pack(model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "card, reason",
    [
        ({"classes": ["two\nlines"]}, "one-line strings"),
        ({"mean": [0.5, float("nan")], "std": [1.0, 1.0]}, "finite"),
        ({"central_share": 1.5}, "central_share"),
        (["cat"], "a card must be a dict"),
    ],
)
def test_a_card_that_cannot_be_read_back_is_not_written(card, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        to_tflite(small_models.float_network(), tmp_path / "m.tflite", card=card)
    assert not list(tmp_path.iterdir())


# --- TFLite's standard entry --------------------------------------------------------------------------------------------


class Table:
    """A flatbuffer table read by field number, independently of what wrote it."""

    def __init__(self, buffer, place=None):
        self.buffer = buffer
        place = encode.Get(number_types.UOffsetTFlags.packer_type, buffer, 0) if place is None else place
        self.table = flatbuffers.table.Table(buffer, place)

    def _at(self, number):
        return self.table.Offset(4 + 2 * number)

    def string(self, number):
        return self.table.String(self._at(number) + self.table.Pos).decode()

    def number(self, number, flags):
        return self.table.Get(flags, self._at(number) + self.table.Pos)

    def child(self, number):
        return Table(self.buffer, self.table.Indirect(self._at(number) + self.table.Pos))

    def children(self, number):
        start, count = self.table.Vector(self._at(number)), self.table.VectorLen(self._at(number))
        return [Table(self.buffer, self.table.Indirect(start + 4 * i)) for i in range(count)]

    def floats(self, number):
        return self.table.GetVectorAsNumpy(number_types.Float32Flags, self._at(number)).tolist()


def test_the_standard_entry_says_what_the_schema_can(file):
    model = flatbuffer.read(file)
    [buffer] = [entry.buffer for entry in model.metadata if flatbuffer.text(entry.name) == metadata.STANDARD_NAME]
    content = model.buffers[buffer].data.tobytes()
    assert content[4:8] == b"M001"
    root = Table(bytearray(content))
    assert "noise" in root.string(1) and root.string(7) == "1.0.0"
    [graph] = root.children(3)
    [image], [logits] = graph.children(2), graph.children(3)
    content_of_image = image.child(3)
    assert content_of_image.number(0, number_types.Uint8Flags) == 2  # ImageProperties
    properties = content_of_image.child(1)
    assert properties.number(0, number_types.Int8Flags) == 1  # RGB
    size = properties.child(1)
    assert [size.number(i, number_types.Uint32Flags) for i in range(2)] == [16, 16]
    [unit] = image.children(4)
    assert unit.number(0, number_types.Uint8Flags) == 1  # NormalizationOptions
    outside = ([255 * m for m in CARD["mean"]], [255 * s for s in CARD["std"]])
    expected = {"float32": outside, "uint8": ([0.0], [1.0]), "int8": ([128.0], [1.0])}[Interpreter(file).input_dtype]
    for number, values in enumerate(expected):
        np.testing.assert_allclose(unit.child(1).floats(number), values, rtol=1e-6)
    [labels] = logits.children(6)
    assert labels.string(0) == "labels.txt" and labels.number(2, number_types.Int8Flags) == 2  # TENSOR_AXIS_LABELS


def test_the_labels_are_an_archive_behind_the_flatbuffer(file):
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        assert archive.read("labels.txt").decode().splitlines() == CLASSES


# --- Pictures in, names out ---------------------------------------------------------------------------------------------


def test_classify_names_the_classes_of_a_picture(file):
    images = pixels(4)
    network = small_models.float_network()
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(network(normalised(images))))
    for image, row in zip(images, expected):
        answers = Interpreter(file).classify(image)
        assert [answer.name for answer in answers] == [CLASSES[i] for i in np.argsort(-row)]
        np.testing.assert_allclose([answer.probability for answer in answers], -np.sort(-row), atol=1e-4)


def test_classify_takes_pictures_of_any_size(file):
    interpreter = Interpreter(file)
    small = pixels(1)[0]
    enlarged = np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)
    assert len(interpreter.classify(enlarged, top=3)) == 3
    wide = np.concatenate([np.zeros((16, 5, 3), np.uint8), small, np.zeros((16, 5, 3), np.uint8)], axis=1)
    assert interpreter.classify(wide) == interpreter.classify(small)


def test_files_without_what_classify_needs_say_so(tmp_path):
    picture = pixels(1)[0]
    for card, missing in (({}, "its classes and the normalisation"), ({"classes": CLASSES}, "the normalisation of its images")):
        path = tmp_path / "m.tflite"
        to_tflite(small_models.float_network(), path, card=card)
        with pytest.raises(ValueError, match=f"does not hold {missing}"):
            Interpreter(path).classify(picture)
    to_tflite(small_models.float_network(), path, card={**CARD, "classes": CLASSES[:3]})
    with pytest.raises(ValueError, match="names 3 classes"):
        Interpreter(path).classify(picture)
    to_tflite(small_models.float_network(), path, card=CARD)
    for top in (0, True, 1.5):
        with pytest.raises(ValueError, match="top must be an integer of at least 1"):
            Interpreter(path).classify(picture, top=top)


# --- Pixels at the door -------------------------------------------------------------------------------------------------


def test_a_file_of_pixels_is_equal_to_keras(file):
    parity = verify(small_models.float_network(), file, normalised(pixels(20)))
    assert parity.ok and parity.samples == 20 and parity.equal_argmax == 1.0


def test_a_file_takes_what_it_says(file):
    interpreter = Interpreter(file)
    images = {"float32": normalised(pixels(2)), "uint8": pixels(2), "int8": (pixels(2) ^ 128).view(np.int8)}
    assert interpreter.predict(images.pop(interpreter.input_dtype)).shape == (2, 10)
    for other in images.values():
        with pytest.raises(ValueError, match=f"must be a {interpreter.input_dtype} numpy array"):
            interpreter.predict(other)


def test_pixels_need_a_normalisation_and_a_float_first_layer(tmp_path):
    network = small_models.float_network()
    with pytest.raises(ValueError, match="needs a card with the mean and std"):
        to_tflite(network, tmp_path / "m.tflite", input="uint8")
    with pytest.raises(ValueError, match="one number for each of the 3 channels, not 2"):
        to_tflite(network, tmp_path / "m.tflite", input="uint8", card={"mean": [0.0, 0.0], "std": [1.0, 1.0]})
    with pytest.raises(ValueError, match="int8 files quantize"):
        to_tflite(network, tmp_path / "m.tflite", "int8", input="uint8", card=CARD, calibration=normalised(pixels(2)))
    with pytest.raises(ValueError, match="input must be one of"):
        to_tflite(network, tmp_path / "m.tflite", input="int4")
    assert not list(tmp_path.iterdir())


def test_verify_refuses_images_that_are_no_pixels(tmp_path):
    path = tmp_path / "m.tflite"
    to_tflite(small_models.float_network(), path, card=CARD, input="uint8")
    with pytest.raises(ValueError, match="pixels outside 0 to 255"):
        verify(small_models.float_network(), path, 10 * small_models.images(4))


# --- Sharing --------------------------------------------------------------------------------------------------------------


def test_threads_share_an_interpreter(file):
    interpreter = Interpreter(file)
    images = normalised(pixels(16)) if interpreter.input_dtype == "float32" else pixels(16).view(interpreter.input_dtype)
    expected = interpreter.predict(images)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: interpreter.predict(images[i % 16 : i % 16 + 1])[0], range(800)))
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, expected[i % 16])


def test_an_interpreter_can_be_pickled(file):
    interpreter = Interpreter(file, num_threads=2)
    again = pickle.loads(pickle.dumps(interpreter))
    assert (again.engine, again.card, again.input_shape) == (interpreter.engine, interpreter.card, interpreter.input_shape)
    assert again.classify(pixels(1)[0]) == interpreter.classify(pixels(1)[0])
