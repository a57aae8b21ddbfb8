import copy
import os

import numpy as np
import pytest
import small_models
from flatbuffers import Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from acdbit_keras.convert import flatbuffer
from acdbit_keras.convert.interpreter import Interpreter, start_engine

MODELS = {
    "float": small_models.float_model,
    "int8": small_models.int8_model,
    "binary": small_models.binary_model,
    "loop": small_models.loop_model,
}


@pytest.fixture(params=MODELS)
def content(request):
    return MODELS[request.param]()


def values_at(model, inputs, engine):
    """Every computed tensor of the main subgraph by index, as the engine gives them in the whole model."""
    graph = model.subgraphs[0]
    produced = [int(i) for node in graph.operators for i in node.outputs]
    exposed = flatbuffer.expose_tensors(model, produced)
    outputs = start_engine(engine, flatbuffer.pack(exposed)).run(inputs)
    values = {tensor.index: value for tensor, value in zip(flatbuffer.outputs(exposed), outputs)}
    return values | {tensor.index: value for tensor, value in zip(flatbuffer.inputs(model), inputs)}


def test_operators_of_a_binary_model():
    model = flatbuffer.read(small_models.binary_model())
    quantize, first, second, *_ = flatbuffer.operators(model)
    assert [quantize.name, first.name, second.name] == ["LceQuantize", "LceBconv2d", "LceBconv2d"]
    assert first.inputs[0].shape == (1, 1, 16, 2) and first.inputs[0].dtype == "int32"
    assert first.inputs[1].data.nbytes == 64 * 64 // 8, "the kernel is packed, one bit per weight"
    assert first.constant_bytes == 64 * 64 // 8 + 64 * 4, "kernel and int32 thresholds"
    assert first.activations == quantize.outputs
    assert None in first.inputs, "optional inputs left out"
    assert flatbuffer.op_counts(model) == {"LceBconv2d": 2, "LceQuantize": 1, "MEAN": 1}


def test_operators_of_every_subgraph():
    found = list(flatbuffer.operators(flatbuffer.read(small_models.loop_model())))
    assert {operator.subgraph for operator in found} == {0, 1, 2}
    assert {"WHILE", "MUL", "LESS"} <= {operator.name for operator in found}


def test_quantization_of_tensors():
    [tensor] = flatbuffer.inputs(flatbuffer.read(small_models.int8_model()))
    assert tensor.dtype == "int8" and tensor.scale > 0 and -128 <= tensor.zero_point <= 127
    convolution = next(flatbuffer.operators(flatbuffer.read(small_models.int8_model())))
    assert convolution.inputs[1].scale is None, "per-channel scales are no per-tensor scale"


def test_written_file_computes_the_same(tmp_path):
    for build, shape in ((small_models.int8_model, (16, 16, 3)), (small_models.binary_model, (1, 16, 64))):
        flatbuffer.write(flatbuffer.read(build()), tmp_path / "copy.tflite")
        images = small_models.images(3, shape)
        np.testing.assert_array_equal(Interpreter(tmp_path / "copy.tflite").predict(images), Interpreter(build()).predict(images))
    assert os.listdir(tmp_path) == ["copy.tflite"]


def test_constants_are_aligned(content):
    packed = flatbuffer.pack(flatbuffer.read(content))
    start = np.frombuffer(packed, np.uint8).ctypes.data
    buffers = flatbuffer.schema.ModelT.InitFromPackedBuf(packed, 0).buffers  # views of `packed`
    offsets = [buffer.data.ctypes.data - start for buffer in buffers if buffer.data is not None]
    assert offsets and all(0 < offset < len(packed) and offset % 16 == 0 for offset in offsets)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        flatbuffer.write(flatbuffer.read(small_models.float_model()), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.tflite"]


def test_truncation_anywhere_is_one_clear_error(content):
    offsets = {*range(0, len(content), max(1, len(content) // 400)), *range(len(content) - 80, len(content))}
    for length in offsets:
        with pytest.raises(ValueError, match="empty|not a TFLite flatbuffer|truncated or corrupt") as caught:
            flatbuffer.read(content[:length])
        assert len(str(caught.value).splitlines()) == 1


def test_truncation_within_the_last_string():
    # Our own packer puts the op names last; behind the final one there is only zero padding, which nobody reads.
    content = flatbuffer.pack(flatbuffer.read(small_models.binary_model()))
    end = len(content.rstrip(b"\0")) + 1
    assert content[:end].endswith(b"LceQuantize\0")
    for length in range(end - 20, end):
        with pytest.raises(ValueError, match="truncated or corrupt"):
            flatbuffer.read(content[:length])
    assert flatbuffer.op_counts(flatbuffer.read(content[:end]))["LceBconv2d"] == 2


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_nothing_but_value_errors(data):
    damaged = bytearray(small_models.binary_model())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = flatbuffer.read(bytes(damaged))
    except ValueError:
        return
    flatbuffer.op_counts(model)
    flatbuffer.arena_bytes(model)


def test_what_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such .tflite file: .*missing.tflite"):
        flatbuffer.read(tmp_path / "missing.tflite")
    with pytest.raises(ValueError, match="not a .tflite file but a folder"):
        flatbuffer.read(tmp_path)
    with pytest.raises(ValueError, match="is empty"):
        flatbuffer.read(b"")
    with pytest.raises(ValueError, match=r"bytes 4 to 8 are b'o wo'"):
        flatbuffer.read(b"hello world, hello")
    with pytest.raises(ValueError, match="truncated or corrupt"):
        flatbuffer.read(b"\0\0\0\0TFL3")


def test_inconsistent_models():
    good = flatbuffer.read(small_models.float_model())

    def damaged(change):
        model = copy.deepcopy(good)
        change(model, model.subgraphs[0])
        return flatbuffer.pack(model)

    def shrink(model, graph):
        tensor = next(t for t in graph.tensors if model.buffers[t.buffer].data is not None and len(t.shape) == 4)
        model.buffers[tensor.buffer].data = model.buffers[tensor.buffer].data[:-4]

    def buffer_outside(model, graph):
        graph.tensors[0].buffer = 99

    def reads_outside(model, graph):
        graph.operators[0].inputs = np.array([0, 99, 1], np.int32)

    def code_outside(model, graph):
        graph.operators[0].opcodeIndex = 99

    def output_outside(model, graph):
        graph.outputs = np.array([99], np.int32)

    for change, message in (
        (shrink, r"constant .* has \d+ bytes"),
        (buffer_outside, "tensor 0 refers to buffer 99"),
        (reads_outside, "node 0 reads tensors"),
        (code_outside, "node 0 refers to op code 99"),
        (output_outside, "output 99 of subgraph 0"),
    ):
        with pytest.raises(ValueError, match=message):
            flatbuffer.read(damaged(change))


def test_constants_behind_the_flatbuffer(tmp_path):
    model = flatbuffer.read(small_models.float_model())
    number = max(range(len(model.buffers)), key=lambda i: 0 if (d := model.buffers[i].data) is None else len(d))
    weights = model.buffers[number].data.tobytes()

    def with_offset(offset):
        outside = copy.copy(model)
        outside.buffers = list(model.buffers)
        outside.buffers[number] = flatbuffer.schema.BufferT(offset=offset, size=len(weights))
        builder = Builder(1024)
        builder.Finish(outside.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    body = with_offset(len(with_offset(2**20)))
    images = small_models.images(2)
    inlined = flatbuffer.read(body + weights)
    assert inlined.buffers[number].data.tobytes() == weights
    np.testing.assert_array_equal(
        Interpreter(flatbuffer.pack(inlined)).predict(images), Interpreter(small_models.float_model()).predict(images)
    )
    with pytest.raises(ValueError, match="truncated or corrupt .* buffer"):
        flatbuffer.read(body + weights[:-1])


def test_exposed_tensor_holds_the_layers_output():
    model = flatbuffer.read(small_models.float_model())
    first = next(flatbuffer.operators(model)).outputs[0]
    exposed = flatbuffer.expose_tensors(model, [first.name])
    images = small_models.images(4)
    logits, hidden = Interpreter(flatbuffer.pack(exposed)).predict(images)
    network = small_models.float_network()
    np.testing.assert_allclose(hidden, network.layers[0](images).numpy(), atol=1e-5)
    np.testing.assert_allclose(logits, network(images).numpy(), atol=1e-4)
    assert len(model.subgraphs[0].outputs) == 1, "the original is untouched"


def test_exposed_bits_are_the_signs():
    model = flatbuffer.read(small_models.binary_model())
    packed = next(flatbuffer.operators(model)).outputs[0]
    images = small_models.images(3, (1, 16, 64))
    _, words = Interpreter(flatbuffer.pack(flatbuffer.expose_tensors(model, [packed.name]))).predict(images)
    assert words.dtype == np.int32 and words.shape == (3, 1, 16, 2)
    bits = (words[..., None] >> np.arange(32)) & 1
    np.testing.assert_array_equal(bits.reshape(images.shape), images < 0)


def test_exposing_what_cannot_be():
    model = flatbuffer.read(small_models.float_model())
    convolution = next(flatbuffer.operators(model))
    kernel, hidden = convolution.inputs[1], convolution.outputs[0]
    with pytest.raises(ValueError, match="did you mean"):
        flatbuffer.expose_tensors(model, [hidden.name[:-1]])
    with pytest.raises(ValueError, match="is a constant"):
        flatbuffer.expose_tensors(model, [kernel.name])
    with pytest.raises(ValueError, match="outside 0.."):
        flatbuffer.expose_tensors(model, [999])
    twice = copy.deepcopy(model)
    twice.subgraphs[0].tensors[hidden.index].name = flatbuffer.outputs(model)[0].name
    with pytest.raises(ValueError, match="names 2 tensors; give one of the indices"):
        flatbuffer.expose_tensors(twice, [flatbuffer.outputs(model)[0].name])
    same = flatbuffer.expose_tensors(model, [flatbuffer.outputs(model)[0].name, hidden.index, hidden.index])
    assert [tensor.index for tensor in flatbuffer.outputs(same)] == [flatbuffer.outputs(model)[0].index, hidden.index]


@pytest.mark.parametrize("name", ["float", "int8", "binary"])
def test_nodes_alone_compute_what_they_do_together(name):
    model = flatbuffer.read(MODELS[name]())
    engine = "lce" if name == "binary" else "litert"
    [tensor] = flatbuffer.inputs(model)
    image = small_models.images(1, tensor.shape[1:])
    inputs = [image if tensor.dtype == "float32" else (image * 50).clip(-128, 127).astype(np.int8)]
    values = values_at(model, inputs, engine)
    for operator in flatbuffer.operators(model):
        alone = flatbuffer.single_operator(model, operator.index)
        assert [t.shape for t in flatbuffer.inputs(alone)] == [t.shape for t in operator.activations]
        outputs = start_engine(engine, flatbuffer.pack(alone)).run([values[t.index] for t in operator.activations])
        for tensor, output in zip(operator.outputs, outputs, strict=True):
            np.testing.assert_allclose(output, values[tensor.index], rtol=1e-5, atol=1e-5)


def test_nodes_that_cannot_stand_alone():
    model = flatbuffer.read(small_models.loop_model())
    loop = next(operator for operator in flatbuffer.operators(model) if operator.name == "WHILE")
    with pytest.raises(ValueError, match="runs another subgraph"):
        flatbuffer.single_operator(model, loop.index)
    with pytest.raises(ValueError, match="index must lie in 0"):
        flatbuffer.single_operator(model, 99)


def graph_of(sizes, nodes, inputs, outputs):
    """A model of float32 vectors and nodes ``(read, written)``, enough for planning memory."""
    schema = flatbuffer.schema
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT(shape=np.array([size], np.int32)) for size in sizes]
    graph.operators = [schema.OperatorT(inputs=np.array(r), outputs=np.array(w)) for r, w in nodes]
    graph.inputs, graph.outputs = np.array(inputs), np.array(outputs)
    return schema.ModelT(operatorCodes=[schema.OperatorCodeT()], subgraphs=[graph], buffers=[schema.BufferT()])


def test_arena_of_known_graphs():
    kept_input_and_two_more = graph_of([64] * 5, [([i], [i + 1]) for i in range(4)], [0], [4])
    assert flatbuffer.arena_bytes(kept_input_and_two_more) == 3 * 256
    residual = graph_of([64] * 4, [([0], [1]), ([1], [2]), ([1, 2], [3])], [0], [3])
    assert flatbuffer.arena_bytes(residual) == 4 * 256
    odd_sizes_start_at_64 = graph_of([1, 1], [([0], [1])], [0], [1])
    assert flatbuffer.arena_bytes(odd_sizes_start_at_64) == 64 + 4


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_arena_lies_between_live_and_total(data):
    count = data.draw(st.integers(2, 12))
    sizes = [16 * data.draw(st.integers(1, 64)) for _ in range(count)]  # multiples of 64 bytes
    reads = [[data.draw(st.integers(0, i - 1)), i - 1] for i in range(1, count)]
    model = graph_of(sizes, [(read, [i + 1]) for i, read in enumerate(reads)], [0], [count - 1])
    last = {i: max([s for s, read in enumerate(reads) if i in read], default=i) for i in range(count)}
    last[0] = last[count - 1] = count - 1
    live = max(sum(4 * sizes[i] for i in range(count) if max(i - 1, 0) <= step <= last[i]) for step in range(count - 1))
    assert live <= flatbuffer.arena_bytes(model) <= 4 * sum(sizes)
