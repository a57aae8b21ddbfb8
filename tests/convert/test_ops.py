"""The check of LiteRT's own ops: what converters write passes, what would end the process does not."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_models

from acdbit_keras import models
from acdbit_keras.convert import flatbuffer, ops, to_tflite
from acdbit_keras.convert.flatbuffer import schema
from acdbit_keras.convert.interpreter import Interpreter

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of one small backbone in every form."""
    folder = tmp_path_factory.mktemp("files")
    student, twin = (models.build("vit_nano_patch2_8", scheme, 10) for scheme in ("acd_bit", "float32"))
    images = small_models.images(8, (8, 8, 1))
    card = {"classes": [str(digit) for digit in range(10)], "mean": [0.5], "std": [0.5]}
    for name, options in {
        "bits": {}, "layers": {"fuse_blocks": False}, "float_attention": {"attention": "float"}, "half": {"half": True},
        "pixels": {"input": "uint8", "card": card},
    }.items():  # fmt: skip
        to_tflite(student, folder / f"{name}.tflite", "bits", **options)
    to_tflite(small_models.float_network(), folder / "convolutions.tflite", "float32")
    doors = {"less_128": dict(input="int8", card=card), "int8_doors": dict(input="int8"), "uint8_doors": dict(input="uint8")}
    for name, options in doors.items():
        options |= dict(output=name[:-6], calibration=small_models.images(8)) if "card" not in options else {}
        to_tflite(small_models.float_network(), folder / f"{name}.tflite", **options)
    for precision in ("float32", "float16", "dynamic", "int8"):
        calibration = {"calibration": images} if precision == "int8" else {}
        to_tflite(twin, folder / f"{precision}.tflite", precision, **calibration)
    return folder


def test_every_form_of_our_files_is_known(folder):
    paths = sorted(folder.glob("*.tflite"))
    assert len(paths) == 13
    for path in paths:
        trusted, untrusted = Interpreter(path), Interpreter(path, untrusted=True)
        images = small_models.images(2, trusted.input_shape)
        if trusted.input_dtype != "float32":
            images = np.abs(100 * images).astype(np.uint8).view(trusted.input_dtype)
        np.testing.assert_array_equal(untrusted.predict(images), trusted.predict(images))


def spoilt(content, change):
    model = flatbuffer.read(content)
    nodes = {operator.name: model.subgraphs[0].operators[operator.index] for operator in flatbuffer.operators(model)}
    change(model.subgraphs[0], nodes)
    return flatbuffer.pack(model)


def drop_weights(graph, nodes):
    nodes["FULLY_CONNECTED"].inputs = nodes["FULLY_CONNECTED"].inputs[:1]


def swap_inputs(graph, nodes):
    nodes["FULLY_CONNECTED"].inputs = nodes["FULLY_CONNECTED"].inputs[[1, 0, 2]]


def drop_options(graph, nodes):
    nodes["CONV_2D"].builtinOptions, nodes["CONV_2D"].builtinOptionsType = None, 0


def other_options(graph, nodes):
    nodes["CONV_2D"].builtinOptions, nodes["CONV_2D"].builtinOptionsType = (
        schema.SplitOptionsT(),
        schema.BuiltinOptions.SplitOptions,
    )


def huge_stride(graph, nodes):
    nodes["CONV_2D"].builtinOptions.strideW = 2**31 - 1


def no_dilation(graph, nodes):
    nodes["CONV_2D"].builtinOptions.dilationHFactor = 0


def other_shape(graph, nodes):
    tensor = graph.tensors[int(nodes["RESHAPE"].outputs[0])]
    tensor.shape = np.array([1, 7], np.int32)


def read_before(graph, nodes):
    graph.operators = graph.operators[::-1]


def written_twice(graph, nodes):
    graph.operators.append(graph.operators[-1])


@pytest.mark.parametrize(
    "change, message",
    [
        (drop_weights, r"\(FULLY_CONNECTED\) has 1 inputs, it must have 2 to 3"),
        (swap_inputs, r"\(FULLY_CONNECTED\) (multiplies the shape|has 1 outputs and a bias|computes the shape)"),
        (drop_options, r"\(CONV_2D\) lacks its options, Conv2DOptions"),
        (other_options, r"\(CONV_2D\) has options of another op, SplitOptionsT"),
        (huge_stride, r"\(CONV_2D\) computes the shape"),
        (no_dilation, r"\(CONV_2D\) has the stride . and the dilation 0"),
        (other_shape, r"\(RESHAPE\) computes the shape|\(RESHAPE\) makes"),
        (read_before, "reads tensor .* before it is written"),
        (written_twice, "writes tensor .*, which has a value"),
    ],
)
def test_what_is_wrong_is_named_whether_trusted_or_not(folder, change, message):
    content = spoilt((folder / "convolutions.tflite").read_bytes(), change)
    for untrusted in (False, True):
        with pytest.raises(ValueError, match=message) as caught:
            Interpreter(content, untrusted=untrusted)
        assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_known_is_refused_where_it_is_not_trusted():
    with pytest.raises(ValueError, match="not to be trusted: it has 3 subgraphs"):
        Interpreter(small_models.loop_model(), untrusted=True)
    pooling = small_models.pooling_model(8)
    assert Interpreter(pooling).predict(small_models.images(1, (8, 8, 32))).shape[0] == 1
    with pytest.raises(ValueError, match=r"node 0 \(MAX_POOL_2D\) is none of the ops that are known here"):
        Interpreter(pooling, untrusted=True)


def test_larq_s_interpreter_is_for_trusted_files():
    with pytest.raises(ValueError, match="is untrusted, and the engine 'lce' checks nothing"):
        Interpreter(small_models.binary_model(), engine="lce", untrusted=True)


def test_shapes_behind_our_own_ops_are_those_that_were_checked(folder):
    """The runtime would compute another shape than the stored one, on which the ops behind it rely."""

    def change(graph, nodes):
        graph.tensors[int(nodes["AcdBinaryBlock"].outputs[0])].shape = np.array([1, 4, 4, 128], np.int32)
        output = graph.tensors[int(nodes["MEAN"].outputs[0])]
        output.shape = np.array([1, 128], np.int32)
        weights = graph.tensors[int(nodes["FULLY_CONNECTED"].inputs[1])]
        weights.shape, weights.buffer = np.array([5, 128], np.int32), weights.buffer
        graph.tensors[int(nodes["FULLY_CONNECTED"].outputs[0])].shape = np.array([1, 5], np.int32)
        nodes["FULLY_CONNECTED"].inputs = nodes["FULLY_CONNECTED"].inputs[:2]

    content = spoilt((folder / "bits.tflite").read_bytes(), change)
    with pytest.raises(ValueError, match="is stored with another shape than its node computes"):
        Interpreter(content, untrusted=True)


def test_limits_of_what_is_not_trusted(folder):
    def scales(graph, nodes):
        tensor = graph.tensors[int(graph.inputs[0])]
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = np.array([np.nan], np.float32), np.array([0])

    def variable(graph, nodes):
        graph.tensors[int(nodes["RESHAPE"].outputs[0])].isVariable = True

    for change, message in ((scales, "has a scale outside"), (variable, "is sparse, a variable or a variant")):
        with pytest.raises(ValueError, match=message):
            Interpreter(spoilt((folder / "convolutions.tflite").read_bytes(), change), untrusted=True)


def test_no_mutant_ends_a_process(folder, tmp_path):
    """A share of what `make fuzz-files` runs, in children of its own."""
    files = [folder / f"{name}.tflite" for name in ("bits", "layers", "pixels", "float32")]
    out = tmp_path / "result.json"
    command = [sys.executable, REPOSITORY / "tests" / "fuzz_files.py", *files, "--mutants", "400", "--seed", "7", "--out", out]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.returncode == 0, process.stdout[-4000:]
    outcomes = json.loads(out.read_text())["outcomes"]
    assert outcomes["ran"] > 20 and outcomes["refused"] > 100 and sum(outcomes.values()) == 400


def test_a_rule_for_every_op_is_one_of_the_schema_s():
    for name, rule in ops._RULES.items():
        assert hasattr(schema.BuiltinOperator, name)
        assert rule.options is None or hasattr(schema, f"{rule.options}T")
