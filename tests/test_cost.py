"""Counts against closed forms, and the predicted size against files that are really converted."""

import copy
import functools
import json
import os

import keras
import numpy as np
import pytest
from keras import layers

import acdbit_keras as acd
from acdbit_keras import cost, device_ops, models, schemes
from acdbit_keras.convert import flatbuffer, fusion, rewrite
from acdbit_keras.cost import file_size
from acdbit_keras.layers import BinaryAttention, BinaryDense, RPReLU
from acdbit_keras.models.blocks import MIXINGS
from acdbit_keras.quantizers import AlignedSign, WeightSign

TOTALS = ("parameters", "packed_bytes", "bit_macs", "float_macs")


def binary(units, **options):
    return BinaryDense(units, input_quantizer="ste_sign", kernel_quantizer="weight_sign", **options)


def sequential(*stack, shape):
    return keras.Sequential([layers.Input(shape), *stack])


def only_row(*stack, shape):
    [row] = cost.analyse(sequential(*stack, shape=shape)).rows
    return row


def perturbed(model):
    """Moves every weight a little, so that no vector is constant or equal to another; what must be positive stays so."""
    rng = np.random.default_rng(4)
    for weight in model.weights:
        weight.assign(weight + np.abs(0.1 * rng.standard_normal(weight.shape)).astype("float32"))
    return model


class TestLayers:
    def test_binary_dense(self):
        row = only_row(binary(48, use_bias=True), shape=(7, 40))
        assert (row.bit_macs, row.float_macs) == (7 * 40 * 48, 0)
        assert (row.weight_bits, row.activation_bits, row.output_shape) == (1, 1, (7, 48))
        assert row.parameters == 40 * 48 + 48
        # 40 channels fill two words of 4 bytes; multiplier and bias.
        assert row.packed_bytes == 48 * (2 * 4 + 2 * 4)

    def test_kernel_offset_is_one_more_output(self):
        plain, restored = (
            only_row(BinaryDense(48, "ste_sign", WeightSign(restore=restore)), shape=(64,)) for restore in (False, True)
        )
        assert restored.packed_bytes - plain.packed_bytes == 64 // 8
        assert restored.bit_macs == plain.bit_macs

    def test_thresholds_are_constants_once_they_are_not_zero(self):
        model = sequential(BinaryDense(32, AlignedSign(), "weight_sign"), shape=(5, 64))
        fresh = cost.analyse(model)
        moved = cost.analyse(perturbed(model))
        assert moved.packed_bytes - fresh.packed_bytes == 64 * 4
        assert moved.file_bytes > fresh.file_bytes + 64 * 4

    @pytest.mark.parametrize("quantizers", [(None, None), (None, "weight_sign"), ("ste_sign", None), ("ste_sign", "ste_tern")])
    def test_one_real_operand_makes_float_macs(self, quantizers):
        row = only_row(BinaryDense(32, *quantizers), shape=(5, 64))
        assert (row.bit_macs, row.float_macs) == (0, 5 * 64 * 32)
        assert row.packed_bytes == 64 * 32 * 4

    def test_norm_behind_bits_costs_nothing(self):
        alone = cost.analyse(sequential(binary(64), shape=(3, 3, 64)))
        model = perturbed(sequential(binary(64), layers.BatchNormalization(), shape=(3, 3, 64)))
        normed = cost.analyse(model)
        assert normed.rows[1].packed_bytes == 0 and normed.rows[1].parameters == 4 * 64
        assert normed.packed_bytes == alone.packed_bytes

    def test_norm_alone_is_multiplier_and_offset(self):
        model = perturbed(sequential(layers.ReLU(), layers.BatchNormalization(), shape=(3, 3, 64)))
        [row] = cost.analyse(model).rows
        assert row.packed_bytes == 2 * 64 * 4 and row.float_macs == row.bit_macs == 0

    @pytest.mark.parametrize(
        "layer, shape, macs, parameters",
        [
            (layers.Dense(10), (6, 20), 6 * 20 * 10, 210),
            (layers.Conv2D(8, 3, padding="same"), (6, 6, 4), 36 * 9 * 4 * 8, 296),
            (layers.Conv2D(8, 3, strides=2, groups=2), (7, 7, 4), 9 * 9 * 2 * 8, 152),
            (layers.Conv1D(8, 3), (10, 4), 8 * 3 * 4 * 8, 104),
            (layers.Conv2DTranspose(8, 2, strides=2), (5, 5, 4), 25 * 4 * 4 * 8, 136),
            (layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4), 16 * 8 * 9, 80),
            (layers.SeparableConv2D(8, 3), (6, 6, 4), 16 * (4 * 9 + 4 * 8), 76),
            (layers.EinsumDense("abc,cde->abde", output_shape=(None, 4, 8)), (6, 5), 6 * 5 * 32, 160),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else "",
    )
    def test_float_layers(self, layer, shape, macs, parameters):
        row = only_row(layer, shape=shape)
        assert (row.bit_macs, row.float_macs, row.parameters, row.weight_bits) == (0, macs, parameters, 32)

    def test_keras_attention(self):
        query, value = layers.Input((6, 16)), layers.Input((9, 16))
        outputs = layers.MultiHeadAttention(2, 8, value_dim=4)(query, value)
        found = cost.analyse(keras.Model([query, value], outputs))
        projections = 6 * 16 * 16 + 9 * 16 * 16 + 9 * 16 * 8 + 6 * 8 * 16
        assert found.float_macs == projections + 2 * 6 * 9 * (8 + 4)

    @pytest.mark.parametrize("restore, vector", [("off", 0), ("frozen", 2 * 9 * 32)])
    def test_binary_attention_over_other_keys(self, restore, vector):
        query, key = layers.Input((6, 64)), layers.Input((9, 64))
        aligned = [AlignedSign(restore=restore, channel_axes=2, contracts=axis) for axis in ("channels", "channels", "tokens")]
        outputs = BinaryAttention(2, *aligned, "elastic_binary")(query, key, key)
        [row] = cost.analyse(keras.Model([query, key], outputs)).rows
        assert row.bit_macs == 2 * (2 * 6 * 9 * 32)
        assert row.float_macs == vector
        assert (row.weight_bits, row.activation_bits, row.output_shape) == (None, 1, (6, 64))

    def test_attention_counts_each_product_by_its_own_operands(self):
        tokens = layers.Input((6, 64))
        outputs = BinaryAttention(2, "ste_sign", "ste_sign", None, "elastic_binary")(tokens, tokens, tokens)
        found = cost.analyse(keras.Model(tokens, outputs))
        assert found.bit_macs == found.float_macs == 2 * 6 * 6 * 32

    def test_a_shared_layer_has_one_row(self):
        layer, tokens = binary(64), layers.Input((6, 64))
        [row] = cost.analyse(keras.Model(tokens, layer(layer(tokens)))).rows
        assert row.bit_macs == 2 * 6 * 64 * 64 and row.parameters == 64 * 64

    def test_unknown_products_are_named(self):
        found = cost.analyse(sequential(layers.Dense(4), layers.LSTM(3, name="memory"), shape=(6, 5)))
        assert len(found.uncounted) == 1 and "memory" in found.uncounted[0]
        assert "memory" in found.table().splitlines()[-1]


class TestBackbones:
    @pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit", "float32"])
    def test_block(self, scheme):
        found = cost.analyse(models.build("vit_nano_patch2_8", scheme, depth=1))
        tokens, width, heads = 16, 64, 2
        products = tokens * (4 * width * width + 2 * width * 4 * width) + 2 * tokens * tokens * width
        around = tokens * 2 * 2 * width + width * 10
        if scheme == "float32":
            assert (found.bit_macs, found.float_macs) == (0, products + around)
        else:
            pooling = tokens * width * 10
            # The mean of each query channel, restored, meets every key.
            vector = heads * tokens * (width // heads) if scheme == "acd_bit" else 0
            assert (found.bit_macs, found.float_macs) == (products, around + pooling + vector)

    def test_depthwise_mixing_has_nine_products_per_value(self):
        pooled, mixed = (cost.analyse(models.build("vit_nano_patch2_8", "acd_bit", mixing=kind)) for kind in MIXINGS)
        assert mixed.float_macs - pooled.float_macs == 3 * 16 * 64 * (9 - 10)
        assert mixed.bit_macs == pooled.bit_macs and not mixed.uncounted
        [row] = (row for row in mixed.rows if row.name.endswith("block_0/depthwise"))
        assert (row.float_macs, row.parameters, row.packed_bytes) == (16 * 64 * 9, 10 * 64, 4 * 9 * 64)

    @pytest.mark.parametrize("scheme", ["acd_bit", "float32"])
    def test_totals_are_sums_and_no_weight_is_lost(self, scheme):
        model = models.build("vit_micro_patch4_32", scheme)
        found = cost.analyse(model)
        for name in TOTALS:
            assert getattr(found, name) == sum(getattr(row, name) for row in found.rows) > (-1 if "macs" in name else 0)
        assert found.parameters == model.count_params()
        assert len({row.name for row in found.rows}) == len(found.rows)
        assert not found.uncounted

    def test_deit_s(self):
        # DeiT-S has 22 050 664 parameters; the class token and its position are two vectors of 384.
        model = models.build("vit_small_patch16_224", "float32", classes=1000)
        found = cost.analyse(model)
        assert found.parameters == 22_050_664 - 2 * 384
        blocks = 12 * (196 * (4 * 384**2 + 2 * 384 * 1536) + 2 * 196**2 * 384)
        assert found.float_macs == blocks + 196 * 16 * 16 * 3 * 384 + 384 * 1000
        binary_model = cost.analyse(models.build("vit_small_patch16_224", "binary_vit", classes=1000))
        assert binary_model.bit_macs == blocks
        kernels = 12 * (4 * 384**2 + 2 * 384 * 1536) // 8
        assert kernels < sum(row.packed_bytes for row in binary_model.rows if row.weight_bits == 1) < 1.2 * kernels

    def test_pooled_stem(self):
        stem = 32 * 32 * 9 * 3 * 32 + 16 * 16 * 9 * 32 * 64 + 8 * 8 * 64 * 128
        found = cost.analyse(models.build("vit_mini_pooled4_32", "binary_vit"))
        assert found.float_macs == stem + 4 * 64 * 128 * 10 + 128 * 10

    def test_the_model_is_left_as_it_was(self):
        model = models.build("vit_nano_patch2_8", "acd_bit")
        before, call = model.get_weights(), layers.Layer.__call__
        first = cost.analyse(model)
        assert layers.Layer.__call__ is call
        for old, new in zip(before, model.get_weights()):
            np.testing.assert_array_equal(old, new)
        assert cost.analyse(model) == first

    def test_a_failing_model_leaves_keras_as_it_was(self):
        call = layers.Layer.__call__
        with pytest.raises(ValueError):
            cost.analyse(sequential(layers.Dense(3), shape=(4,)), input_shape=(5,))
        assert layers.Layer.__call__ is call


def dynamic(**options):
    return AlignedSign(restore="dynamic", **options)


ACD_BIT = schemes.get("acd_bit")
DYNAMIC = ACD_BIT.replace(
    activation=dynamic(), hidden=dynamic(), query=dynamic(channel_axes=2), key=dynamic(channel_axes=2), branches=False
)
REAL_HIDDEN = ACD_BIT.replace(hidden=None)  # has no form as one op


class TestBlockAsOneOp:
    @pytest.mark.parametrize("ratio", [1, 4])
    @pytest.mark.parametrize("scheme", ["acd_bit", "binary_vit", DYNAMIC], ids=["acd_bit", "binary_vit", "dynamic"])
    def test_its_layers_share_its_constants(self, scheme, ratio):
        model = perturbed(models.build("vit_nano_patch2_8", scheme, depth=1, mlp_ratio=ratio))
        [block] = model.blocks
        _, kernels, vectors = fusion.block_constants(block)
        rows = [row for row in cost.analyse(model).rows if row.name.startswith(block.path)]
        assert sum(row.packed_bytes for row in rows) == kernels.nbytes + vectors.nbytes

    def test_each_layer_has_its_own(self):
        model = models.build("vit_nano_patch2_8", "acd_bit", depth=1)
        prefix = model.blocks[0].path + "/"
        found = {row.name.removeprefix(prefix): row.packed_bytes for row in cost.analyse(model).rows}
        assert found["query_product/query"] == 64 * 64 // 8 + 3 * 64 * 4  # threshold, multiplier, bias
        assert found["query_product/activation"] == 64 * 4
        assert found["output_product/activation"] == 2 * 64 * 4  # what it adds is left
        assert found["query_product/norm"] == 0
        assert found["attention_norm"] == 2 * 64 * 4
        assert found["context_norm"] == 3 * 64 * 4
        assert found["attention"] == (3 * 64 + 2 * 2) * 4  # thresholds, scales per head
        assert found["mlp_scale"] == 64 * 4
        assert found["pooling"] == 4 * 64 * 4

    def test_a_block_without_a_form_keeps_its_layers(self):
        found = cost.analyse(models.build("vit_nano_patch2_8", REAL_HIDDEN, depth=1))
        [hidden] = (row for row in found.rows if row.name.endswith("mlp_2"))
        assert hidden.packed_bytes == 256 * 64 * 4 and hidden.float_macs


def attention_alone():
    grid = layers.Input((4, 4, 128))
    operands = (RPReLU()(layers.Add()([grid, binary(128)(grid)])) for _ in range(3))
    aligned = [AlignedSign(channel_axes=2, contracts=axis) for axis in ("channels", "channels", "tokens")]
    return keras.Model(grid, BinaryAttention(4, *aligned, "elastic_binary")(*operands))


MODELS = {
    f"{preset}, {scheme}": functools.partial(models.build, preset, scheme)
    for preset in ("vit_nano_patch2_8", "vit_micro_patch4_32", "vit_nano_pooled4_32")
    for scheme in ("acd_bit", "binary_vit", "float32")
} | {
    "dynamic": functools.partial(models.build, "vit_nano_patch2_8", DYNAMIC),
    "real hidden features": functools.partial(models.build, "vit_nano_patch2_8", REAL_HIDDEN),
    "attention alone": attention_alone,
}


@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_predicted_size_of_the_file(build, trained, tmp_path):
    model = build()
    if trained:
        perturbed(model)
    found = cost.analyse(model)
    report = acd.convert.to_tflite(model, tmp_path / "model.tflite")
    assert found.file_bytes == pytest.approx(os.path.getsize(report.path), rel=0.05)
    assert sum(row.weight_bits == row.activation_bits == 1 for row in found.rows) == report.packed_layers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files with a block as one op and with its layers as ops of their own, as model objects."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    model = perturbed(models.build("vit_nano_patch2_8", "acd_bit", depth=2))
    for name, fuse_blocks in (("block", True), ("layers", False)):
        acd.convert.to_tflite(model, folder / f"{name}.tflite", fuse_blocks=fuse_blocks)
        found[name] = flatbuffer.read(folder / f"{name}.tflite")
    return found


class TestStructures:
    """The bytes of a flatbuffer's structures, taken out of a converted file, or put in once more, and packed."""

    @staticmethod
    def bytes_of(file, **changes):
        """Bytes by which a file shrinks when parts of its graph are replaced."""
        other = copy.copy(file)
        other.subgraphs = [copy.copy(file.subgraphs[0])]
        for name, value in changes.items():
            setattr(other if name == "buffers" else other.subgraphs[0], name, value)
        return len(flatbuffer.pack(file)) - len(flatbuffer.pack(other))

    @pytest.mark.parametrize(
        "form, op, expected",
        [
            ("block", device_ops.BLOCK, file_size.BLOCK_BYTES),
            ("layers", device_ops.ATTENTION, file_size.ATTENTION_BYTES),
            ("layers", rewrite.BCONV, file_size.BCONV_BYTES),
            ("layers", "ADD", file_size.NODE_BYTES),
        ],
    )
    def test_a_node(self, files, form, op, expected):
        operators = files[form].subgraphs[0].operators
        node = next(node for node in flatbuffer.operators(files[form]) if node.name == op)
        left = [each for index, each in enumerate(operators) if index != node.index]
        assert self.bytes_of(files[form], operators=left) == pytest.approx(expected, abs=16)  # a constant's start is aligned so

    def test_a_tensor(self, files):
        graph, buffers = files["layers"].subgraphs[0], files["layers"].buffers
        twice = self.bytes_of(files["layers"], tensors=[*graph.tensors, *map(copy.copy, graph.tensors)])
        buffer = self.bytes_of(files["layers"], buffers=[*buffers, flatbuffer.schema.BufferT()])
        assert -twice / len(graph.tensors) - buffer == pytest.approx(file_size.TENSOR_BYTES, rel=0.15)  # names differ in length

    def test_a_constant(self, files):
        buffers = files["layers"].buffers
        data = [len(buffer.data) for buffer in buffers if buffer.data is not None]
        around = self.bytes_of(files["layers"], buffers=[flatbuffer.schema.BufferT() for _ in buffers]) - sum(data)
        assert around / len(data) == pytest.approx(file_size.CONSTANT_BYTES, abs=4)


class TestRoomsAbove:
    def test_a_composite_layer_registers_what_stands_between_its_parts(self):
        @keras.saving.register_keras_serializable(package="test")
        class Doubled(layers.Layer):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(4)

            def call(self, inputs):
                return 2.0 * self.dense(inputs)

        plain = cost.analyse(sequential(Doubled(), shape=(4,)))
        file_size.store.register(Doubled)(lambda layer, file, record: file.multiply([2.0]))
        told = cost.analyse(sequential(Doubled(), shape=(4,)))
        between = file_size.NODE_BYTES + 2 * file_size.TENSOR_BYTES + file_size.CONSTANT_BYTES + file_size.FLOAT_BYTES
        assert told.file_bytes - plain.file_bytes == between


class TestReport:
    def test_plain_types(self):
        found = cost.analyse(models.build("vit_nano_patch2_8", "acd_bit"))
        read = json.loads(json.dumps(found.to_dict()))
        assert read["totals"] == {name: getattr(found, name) for name in (*TOTALS, "file_bytes")}
        assert len(read["layers"]) == len(found.rows)
        assert read["layers"][1]["output_shape"] == list(found.rows[1].output_shape)

    def test_the_last_line_of_a_cell_shows_the_table_once(self, capsys):
        model = sequential(binary(48, name="bits"), shape=(7, 40))
        acd.summary(model)._ipython_display_()
        assert capsys.readouterr().out.count("converted file: about") == 1
        cost.analyse(model)._ipython_display_()
        assert capsys.readouterr().out.count("converted file: about") == 1

    def test_summary_prints_the_table(self, capsys):
        found = acd.summary(sequential(binary(48, name="bits"), shape=(7, 40)))
        text = capsys.readouterr().out
        assert text == f"{found.table()}\n"
        line = next(line for line in text.splitlines() if "bits" in line and "BinaryDense" in line)
        assert line.split() == [found.rows[0].name, "BinaryDense", "1/1", "7x48", "1,920", "768", "13,440", "0"]
        assert text.splitlines()[-2].split() == ["total", "1,920", "768", "13,440", "0"]

    def test_free_sizes_are_given(self):
        model = sequential(binary(64), shape=(None, 32))
        assert cost.analyse(model, input_shape=(5, 32)).bit_macs == 5 * 32 * 64
        with pytest.raises(ValueError, match="free sizes: pass input_shape"):
            cost.analyse(model)


class TestErrors:
    def test_unbuilt(self):
        with pytest.raises(ValueError, match="model 'lost' is not built: call it on a batch first"):
            cost.analyse(keras.Sequential([layers.Dense(3)], name="lost"))

    def test_not_a_model(self):
        with pytest.raises(ValueError, match="model must be a keras.Model, not str"):
            cost.analyse("vit_nano_patch2_8")

    @pytest.mark.parametrize("shape", [(None, 4), (0,), (2.5,)])
    def test_input_shape(self, shape):
        with pytest.raises(ValueError, match="input_shape must hold positive integers"):
            cost.analyse(sequential(layers.Dense(3), shape=(4,)), input_shape=shape)


# === The files of models of one's own ===
def aligned(**options):
    return AlignedSign(**options)


def own_sequence():
    """Separate layers over a sequence, no block: attention reads products of bits."""
    i = keras.Input((32, 9))
    x = layers.Conv1D(32, 4, strides=4)(i)
    h = layers.BatchNormalization()(x)
    parts = [BinaryDense(32, aligned(), "weight_sign")(h) for _ in range(3)]
    heads = dict(channel_axes=2)
    quantizers = aligned(**heads), aligned(**heads), aligned(**heads, contracts="tokens"), "elastic_binary"
    x = x + BinaryAttention(1, *quantizers)(*parts)
    x = x + layers.BatchNormalization()(BinaryDense(32, aligned(), "weight_sign")(layers.BatchNormalization()(x)))
    return keras.Model(i, layers.Dense(6)(layers.GlobalAveragePooling1D()(x)))


def own_chain():
    """Products of bits one behind the other: the first writes bits."""
    chain = [BinaryDense(128, "approx_sign", "weight_sign"), layers.BatchNormalization(), BinaryDense(10, aligned(), "ste_sign")]
    return keras.Sequential([keras.Input((64,)), *chain])


def own_attention():
    """Only attention is of bits."""
    i, heads = keras.Input((16, 32)), dict(channel_axes=2)
    quantizers = aligned(**heads), aligned(**heads), aligned(**heads, contracts="tokens"), "elastic_binary"
    x = BinaryAttention(1, *quantizers)(*[layers.Dense(32)(i) for _ in range(3)])
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def own_fork():
    """Several outputs of one product."""
    c = keras.Input((64,))
    h = layers.ReLU()(BinaryDense(64, aligned(), "weight_sign")(c))
    return keras.Model(c, {"kind": layers.Dense(3)(h), "distance": layers.Dense(1)(h)})


@pytest.mark.parametrize("make", [own_sequence, own_chain, own_attention, own_fork])
def test_the_file_of_a_model_of_ones_own_is_predicted_within_5_percent(make, tmp_path):
    model = make()
    batch = np.random.default_rng(0).normal(size=(32, *model.inputs[0].shape[1:])).astype("float32")
    model(batch, training=True)
    real = acd.convert.to_tflite(model, tmp_path / "m.tflite").bytes
    assert cost.analyse(model).file_bytes == pytest.approx(real, rel=0.05)
