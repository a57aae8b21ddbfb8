import os
import sys
import threading

import ai_edge_litert.interpreter
import numpy as np
import pytest
import small_models

from acdbit_keras.convert import flatbuffer
from acdbit_keras.convert import interpreter as module
from acdbit_keras.convert.interpreter import Interpreter


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "float.tflite"
    path.write_bytes(small_models.float_model())
    return path


@pytest.mark.parametrize("engine", ["auto", "litert", "lce", "acdbit"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_float_model_equals_keras(path, engine, num_threads):
    images = small_models.images(5)
    interpreter = Interpreter(path, num_threads=num_threads, engine=engine)
    assert interpreter.engine == ("litert" if engine == "auto" else engine)
    assert interpreter.input_shape == (16, 16, 3) and len(interpreter.output_names) == 1
    logits = interpreter.predict(images)
    assert logits.shape == (5, 10) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, small_models.float_network()(images).numpy(), atol=1e-4)


@pytest.mark.parametrize("engine", ["auto", "lce", "acdbit:portable"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_binary_model_equals_tensorflow(engine, num_threads):
    images = small_models.images(5, (1, 16, 64))
    interpreter = Interpreter(small_models.binary_model(), num_threads=num_threads, engine=engine)
    assert interpreter.engine == ("acdbit" if engine == "auto" else engine)
    expected = np.concatenate([small_models.binary_network().serve(image[None])["logits"] for image in images])
    np.testing.assert_allclose(interpreter.predict(images), expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["litert", "lce"])
def test_int8_model_is_quantized_at_its_edges(engine):
    images = small_models.images(8)
    content = small_models.int8_model()
    logits = Interpreter(content, engine=engine).predict(images)
    assert logits.dtype == np.float32

    stock = ai_edge_litert.interpreter.Interpreter(model_content=content)
    stock.allocate_tensors()
    [source], [sink] = stock.get_input_details(), stock.get_output_details()
    scale, zero_point = source["quantization"]
    for image, row in zip(images, logits):
        stored = np.clip(np.round(image[None] / scale) + zero_point, -128, 127).astype(np.int8)
        stock.set_tensor(source["index"], stored)
        stock.invoke()
        out_scale, out_zero = sink["quantization"]
        expected = (stock.get_tensor(sink["index"])[0].astype(np.float32) - out_zero) * out_scale
        np.testing.assert_allclose(row, expected, atol=out_scale * 1.01)  # kernels may differ by one step

    reference = small_models.float_network()(images).numpy()
    assert np.abs(logits - reference).max() < 0.1 * np.abs(reference).max()


def test_values_beyond_the_int8_range_saturate():
    tensor = flatbuffer.Tensor(0, "x", (1, 3), "int8", scale=0.5, zero_point=10)
    stored = module.quantize(np.array([[-1e6, 1.0, 1e6]], np.float32), tensor)
    np.testing.assert_array_equal(stored, np.array([[-128, 12, 127]], np.int8))
    np.testing.assert_array_equal(module.dequantize(stored, tensor), [[-69.0, 1.0, 58.5]])


def test_no_image_gives_no_row():
    assert Interpreter(small_models.float_model()).predict(np.zeros((0, 16, 16, 3), np.float32)).shape == (0, 10)
    assert Interpreter(small_models.int8_model()).predict(np.zeros((0, 16, 16, 3), np.float32)).dtype == np.float32


def test_strided_images_are_read_right():
    images = small_models.images(4)[::2, :, ::-1]
    interpreter = Interpreter(small_models.float_model())
    np.testing.assert_array_equal(interpreter.predict(images), interpreter.predict(images.copy()))


def test_several_outputs_come_in_order():
    model = flatbuffer.read(small_models.float_model())
    hidden = next(flatbuffer.operators(model)).outputs[0]
    interpreter = Interpreter(flatbuffer.pack(flatbuffer.expose_tensors(model, [hidden.name])))
    assert interpreter.output_names[1] == hidden.name
    logits, activations = interpreter.predict(small_models.images(2))
    assert logits.shape == (2, 10) and activations.shape == (2, *hidden.shape[1:])


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 16, 16, 1), np.float32), r"shape \(N, 16, 16, 3\), got \(2, 16, 16, 1\)"),
        (np.zeros((16, 16, 3), np.float32), r"shape \(N, 16, 16, 3\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), "float32 numpy array, got uint8 array"),
        ([[0.0]], "float32 numpy array, got list"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message):
        Interpreter(small_models.float_model()).predict(images)


def test_nan_names_its_image():
    images = small_models.images(3)
    images[1, 2, 3, 0] = np.nan
    with pytest.raises(ValueError, match="image 1 holds NaN"):
        Interpreter(small_models.float_model()).predict(images)


def test_wrong_arguments(tmp_path):
    content = small_models.float_model()
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'acdbit', 'lce', 'litert', not .*did you mean 'litert'"):
        Interpreter(content, engine="litrt")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="num_threads must be an integer of at least 1"):
            Interpreter(content, num_threads=threads)
    with pytest.raises(FileNotFoundError, match="no such .tflite file"):
        Interpreter(tmp_path / "missing.tflite")
    with pytest.raises(ValueError, match="truncated or corrupt"):
        Interpreter(content[:-100])


def test_engine_that_lacks_an_op():
    with pytest.raises(ValueError, match="engine 'litert' cannot run .* LceBconv2d.*unresolved custom op") as caught:
        Interpreter(small_models.binary_model(), engine="litert")
    assert len(str(caught.value).splitlines()) == 1


def test_models_that_do_not_take_one_image():
    model = flatbuffer.read(small_models.float_model())
    reshape = next(operator for operator in flatbuffer.operators(model) if operator.name == "RESHAPE")
    two_inputs = flatbuffer.pack(flatbuffer.single_operator(model, reshape.index))
    with pytest.raises(ValueError, match=r"must have inputs of shape \(1, ...\), one sample per run"):
        Interpreter(two_inputs)
    binary = flatbuffer.read(small_models.binary_model())
    packed_input = flatbuffer.pack(flatbuffer.single_operator(binary, 1))
    assert Interpreter(packed_input).input_dtype == "int32"
    with pytest.raises(ValueError, match="images must be a int32 numpy array, got float32 array"):
        Interpreter(packed_input).predict(np.zeros((1, *Interpreter(packed_input).input_shape), np.float32))


@pytest.mark.parametrize(
    "engine, imported, package",
    [
        ("acdbit", "ai_edge_litert.interpreter", "ai-edge-litert"),
        ("litert", "ai_edge_litert.interpreter", "ai-edge-litert"),
        ("lce", "larq_compute_engine.tflite.python.interpreter", "larq-compute-engine"),
    ],
)
def test_missing_package(monkeypatch, engine, imported, package):
    monkeypatch.setitem(sys.modules, imported, None)
    with pytest.raises(ImportError, match=f"engine '{engine}' needs the package {package}: pip install {package}"):
        Interpreter(small_models.float_model(), engine=engine)


def test_a_further_engine_is_one_entry(monkeypatch):
    class Zeros:
        def __init__(self, content, num_threads):
            self.num_threads = num_threads

        def run(self, inputs):
            return [np.full((1, 10), self.num_threads, np.float32)]

    monkeypatch.setitem(module.ENGINES, "zeros", module.Engine("none", Zeros))
    logits = Interpreter(small_models.float_model(), num_threads=3, engine="zeros").predict(small_models.images(2))
    np.testing.assert_array_equal(logits, np.full((2, 10), 3))


def test_threads_that_share_an_interpreter_wait_for_each_other():
    """LiteRT's own refuses such calls, or answers with the other thread's image."""
    images = small_models.images(8, (1, 16, 64))
    interpreter = Interpreter(small_models.binary_model())
    expected, wrong = interpreter.predict(images), []

    def use(number):
        for _ in range(40):
            if not np.array_equal(interpreter.predict(images[number : number + 1])[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def threads_of(model, num_threads):
    """How many threads the process has more while an interpreter with so many is open."""
    before = len(os.listdir("/proc/self/task"))
    interpreter = Interpreter(model, num_threads=num_threads, engine="acdbit")
    interpreter.predict(np.zeros((1, *interpreter.input_shape), np.float32))
    return len(os.listdir("/proc/self/task")) - before


def test_a_file_of_bits_starts_no_more_threads_than_asked_for():
    """The caller is one of them; LiteRT gets none for the little that is its own."""
    assert threads_of(small_models.binary_model(), 8) == 7


def test_spinning_changes_no_result():
    images = small_models.images(3, (1, 16, 64))
    results = [Interpreter(small_models.binary_model(), num_threads=2, spin=spin).predict(images) for spin in (True, False)]
    np.testing.assert_array_equal(*results)
