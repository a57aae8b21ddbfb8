"""From a Keras 3 model to a `.tflite` file: one trace, one SavedModel, one converter, a few edits.

The layers emit the graph themselves. For the time of the trace an executor of this module takes the place of Keras'
own (`acdbit_keras.execution`): kernels become constants, products of bits become 1x1 convolutions of exactly +-1 by
exactly +-1 - the one form that Larq Compute Engine packs - with every scale and offset behind them, where the
converter folds it into the convolution's multiplier, bias or threshold. Nothing between sign and convolution: a
reshape there would leave the kernel in float.

After conversion the file is held against the model: each binary layer's packed kernel must be found in it.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from acdbit_keras import checks, code, device_ops, execution, files, masking
from acdbit_keras.convert import cards, doors, flatbuffer, fusion, integers, metadata, pictures, remaining, rewrite, runtime
from acdbit_keras.convert.interpreter import choose_engine, start_engine
from acdbit_keras.convert.kernels import kernel_code, packable_kernel, signed
from acdbit_keras.typing import Dataset, Path

PRECISIONS = ("bits", "float32", "float16", "dynamic", "int8")
ATTENTIONS = ("binary", "float")
INPUTS = OUTPUTS = ("float32", *integers.DTYPES)
STEMS = ("float32", "int8")
_TAP = "tap"


class ConversionError(ValueError):
    """A layer of bits that cannot be, or was not, packed."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `to_tflite` wrote.

    Attributes:
        path: where the file is.
        precision: `"bits"`, `"float32"`, `"float16"`, `"dynamic"` or `"int8"`.
        attention: how attention between bits is carried out, `None` where there is none.
        bytes: size of the file in bytes.
        op_counts: dict from op name to number of nodes.
        packed_layers: number of layers whose kernel is stored in bits.
        packed_bytes: bytes of those kernels.
        attention_products: float matrix products between two computed tensors, those of attention, that are left.
        float_copies: tensors of bits that are unpacked into floats.
        in_float: dict from the path of every layer with a matrix product that is not carried out in bits to the reason.
        quantized: dict from the name of every input and output in 8 bits that has a scale to `dtype`, `scale` and `zero_point`.
    """

    path: str
    precision: str
    attention: str | None
    bytes: int
    op_counts: dict[str, int]
    packed_layers: int
    packed_bytes: int
    attention_products: int
    float_copies: int
    in_float: dict[str, str]
    quantized: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain types, as `json.dumps` takes them."""
        return dataclasses.asdict(self)

    def __str__(self):
        text = f"{self.path}: {self.bytes / 1e6:.3f} MB, {self.precision}, {sum(self.op_counts.values())} nodes"
        if self.packed_layers:
            text += f"; {self.packed_layers} binary layers packed into {self.packed_bytes / 1e6:.3f} MB"
            text += f"; {self.attention_products} attention products in float, {self.float_copies} float copies of bits"
        for name, door in self.quantized.items():
            text += f"; {name} {door['dtype']} in steps of {door['scale']:.3g}"
        return text + remaining.text(self.in_float, self.precision)


class FloatExecutor(execution.KerasExecutor):
    """Float products with constant kernels: a quantized kernel is computed once, not in the graph."""

    def dense(self, layer, inputs, training):
        quantized = layer.input_quantizer(inputs, training=False)
        return code.matmul(quantized, kernel_code(layer).map(tf.constant))

    def patches(self, layer, inputs):
        # As one matrix product: a convolution goes through a patch pixel by pixel, and its product is then over the few
        # channels of an image. On a Cortex-A72 it takes 1.8 times the instructions.
        _, height, width, channels = inputs.shape
        tall, wide = layer.kernel_size
        rows, columns = height // tall, width // wide
        grid = tf.reshape(inputs, (rows, tall, columns, wide * channels))
        patches = tf.reshape(tf.transpose(grid, (0, 2, 1, 3)), (rows * columns, tall * wide * channels))
        kernel = tf.reshape(tf.convert_to_tensor(layer.kernel), (-1, layer.filters))
        return tf.reshape(tf.matmul(patches, kernel) + layer.bias, (1, rows, columns, layer.filters))

    def pooled_stem(self, layer, inputs, training):
        # The converter folds a norm and a ReLU into the convolution that they stand behind.
        return layer.compute_pooled_last(inputs)

    def pooling(self, layer, inputs):
        with tf.init_scope():
            kernel = ops.convert_to_numpy(layer.kernel())
        # The cross as its column and its row: 10 weights per channel instead of 25, most of them zero.
        middle = kernel.shape[0] // 2
        row, column = kernel[middle : middle + 1], kernel[:, middle : middle + 1].copy()
        column[middle] = 0.0
        sums = (tf.nn.depthwise_conv2d(inputs, tf.constant(part), [1, 1, 1, 1], "SAME") for part in (row, column))
        return next(sums) + layer.shift + next(sums)

    def depthwise(self, layer, inputs):
        with tf.init_scope():
            kernel = ops.convert_to_numpy(layer.kernel)
        return tf.nn.depthwise_conv2d(inputs, tf.constant(kernel[..., None]), [1, 1, 1, 1], "SAME") + layer.shift


class IntegerExecutor(FloatExecutor):
    """For a converter that quantizes by itself: quantized kernels, but activations of several bits as real numbers."""

    def dense(self, layer, inputs, training):
        if layer.is_binary:
            return super().dense(layer, inputs, training)
        return code.matmul(code.real(inputs), code.real(tf.constant(kernel_code(layer).decode())))

    def attention(self, layer, query, key, value, training):
        if layer.is_binary:
            return super().attention(layer, query, key, value, training)
        query, key, value = (tf.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
        scores = masking.without_keys(tf.matmul(query, key, transpose_b=True) * float(query.shape[-1]) ** -0.5)
        probabilities = tf.nn.softmax(scores)
        return tf.transpose(tf.matmul(probabilities, value), (0, 2, 1, 3)), probabilities

    def quantize(self, quantizer, inputs, training):
        return inputs


class LceExecutor(FloatExecutor):
    """Products of bits in the form that Larq Compute Engine packs.

    Attributes:
        products: `(layer path, packed kernel)` per executed product of bits, in order.
        taps: dict from name to the codes that enter attention; extra outputs of the trace, for `verify`.
        attentions: number of binary attentions executed.
        refusal: the `ConversionError` that ended the trace, before Keras wrapped it into its own lines.
    """

    def __init__(self):
        self.products = []
        self.taps = {}
        self.attentions = 0
        self.refusal = None

    def dense(self, layer, inputs, training):
        if not layer.is_binary:
            return super().dense(layer, inputs, training)
        kernel, weights = packable_kernel(layer)
        if not np.isin(weights, (-1.0, 1.0)).all():
            self._refuse(layer, "its kernel quantizer gives other values than the two it announces")
        # Four dimensions before the sign: what stands between sign and convolution keeps the convolution in float.
        grid = ops.reshape(inputs, (*[1] * (4 - len(inputs.shape)), *inputs.shape))
        levels = layer.input_quantizer.levels
        quantized = signed(layer.input_quantizer(grid, training=False), levels)
        if levels == "zero_one":
            quantized = quantized._replace(signs=_recognised_sign(quantized.signs))
        if not code.is_constant(quantized.scale) and quantized.scale.shape[-1] != 1:
            self._refuse(layer, "the scale of its input differs between the channels, over which a product of bits sums")
        self.products.append((layer.path, rewrite.pack_bits(weights.T)))
        product = tf.nn.conv2d(quantized.signs, tf.constant(weights[None, None]), 1, "VALID")
        row_sums = None
        if weights.shape[1] > layer.units:
            product, row_sums = product[..., : layer.units], product[..., layer.units :]
        outputs = code.matmul(quantized, kernel.map(tf.constant), product=product, row_sums=row_sums)
        return ops.reshape(outputs, (*inputs.shape[:-1], layer.units))

    def attention(self, layer, query, key, value, training):
        self._refuse_mask(layer)
        outputs = super().attention(layer, query, key, value, False)
        self.attentions += layer.is_binary
        return outputs

    def _refuse_mask(self, layer):
        # Of floats a mask is a few nodes more; attention in bits has no place for one.
        if layer.is_binary and masking.of_keys() is not None:
            self._refuse(layer, "its keys are masked, which attention in bits is not; give it recordings of whole length")

    def observe(self, layer, place, real, signs):
        if layer.is_binary:
            self.taps[tap_name(self.attentions, place)] = signs

    def _refuse(self, layer, reason):
        self.refusal = ConversionError(f"layer {layer.path} cannot be packed: {reason}")
        raise self.refusal


class RuntimeExecutor(LceExecutor):
    """Attention, and whole blocks, as the ops of this project's runtime.

    Args:
        fuse_blocks: whether a block that has a form as one op becomes one. Without, its layers stay ops of their own.
    """

    def __init__(self, fuse_blocks):
        super().__init__()
        self._fuse_blocks = fuse_blocks

    def block(self, layer, inputs, training):
        if not self._fuse_blocks:
            return super().block(layer, inputs, training)
        try:
            with tf.init_scope():
                options, kernels, vectors = fusion.block_constants(layer)
        except device_ops.NotExpressibleError:
            return super().block(layer, inputs, training)
        for product in layer.products.values():
            self.products.append((product.dense.path, rewrite.pack_bits(packable_kernel(product.dense)[1].T)))
        self.attentions += 1
        # What this function computes does not matter: the converter replaces it, and takes over its output's shape.
        outputs = _custom_op(
            device_ops.BLOCK,
            options,
            lambda x, kernels, vectors: x + tf.reduce_sum(vectors) + tf.cast(tf.reduce_sum(kernels), tf.float32),
            [inputs, tf.constant(kernels), tf.constant(vectors)],
        )
        return outputs, {}

    def attention(self, layer, query, key, value, training):
        self._refuse_mask(layer)
        if not layer.is_binary:
            return super().attention(layer, query, key, value, training)
        try:
            with tf.init_scope():
                options, constants = fusion.attention_constants(layer)
        except device_ops.NotExpressibleError as error:
            self.refusal = ConversionError(f"{error}; attention='float' converts it")
            raise self.refusal from error
        inputs = {}
        for place, real in (("query", query), ("key", key), ("value", value)):
            # Rows of all heads, four-dimensional before the sign: the form in which the converter packs them.
            rows = ops.reshape(real, (1, 1, real.shape[1], layer.channels))
            inputs[place] = _recognised_sign(rows - tf.constant(constants[f"{place}_threshold"], tf.float32))
            self.observe(layer, place, real, inputs[place])
        names = device_ops.attention_inputs(options)
        inputs |= {name: tf.constant(constants[name], tf.float32) for name in names if name in constants}
        if options["dynamic"]:
            for place, real in (("query", query), ("key", key)):
                statistics = getattr(layer, f"{place}_quantizer")(real, training=False)
                inputs[f"{place}_scale"] = tf.reshape(statistics.scale, (-1,))
                inputs[f"{place}_offset"] = tf.reshape(statistics.offset, (-1,))
        in_order = [inputs[name] for name in names]
        context = _custom_op(device_ops.ATTENTION, options, lambda *inputs: inputs[0] + inputs[-1][0], in_order)
        self.attentions += 1
        return context, None


def _custom_op(name, options, function, inputs):
    """One node of a custom op with flexbuffer options, in a graph that goes through the converter.

    Args:
        name: of the op.
        options: dict of bools, which are stored as 0 or 1, ints and floats.
        function: any TensorFlow function of the inputs with an output of the op's shape and type.
        inputs: list of tensors.
    """
    text = f'name: "{name}" attr {{ key: "tfl_fusable_op" value {{ b: true }} }}'
    for key, value in options.items():
        # The converter would store True as an integer of one bit with a sign, that is -1.
        kind, value = ("f", value) if isinstance(value, float) else ("i", int(value))
        text += f' attr {{ key: "{key}" value {{ {kind}: {value} }} }}'
    return tf.function(function, experimental_implements=text, autograph=False)(*inputs)


def _recognised_sign(x):
    """s(x) in the form that the converter recognises, which Larq's own signs have."""
    return tf.sign(tf.sign(x) + 0.1)


def tap_name(number, place):
    """Name under which a file keeps the codes of one operand of the binary attention executed as `number`, from 0."""
    return f"{_TAP}_{number}_{place}"


def to_tflite(
    model: keras.Model,
    path: Path,
    precision: Literal["bits", "float32", "float16", "dynamic", "int8"] | None = None,
    attention: Literal["binary", "float"] | None = None,
    fuse_blocks: bool = True,
    half: bool = False,
    compact: bool = False,
    calibration: npt.ArrayLike | Dataset | None = None,
    card: dict[str, Any] | None = None,
    input: Literal["float32", "int8", "uint8"] = "float32",
    output: Literal["float32", "int8", "uint8"] = "float32",
    stem: Literal["float32", "int8"] = "float32",
) -> Conversion:
    """Converts a model and writes a `.tflite` file that takes one image per run.

    Args:
        model: built Keras model. Several inputs and outputs, of a functional model, are named in the file as they are in Keras;
            a single input may be of integers.
        path: where the file is to be. It is written beside and renamed, so an older one stays whole if anything fails.
        precision: `"bits"`, every product of bits packed; `"float32"`; `"float16"`, weights stored in half precision;
            `"dynamic"`, int8 weights and float activations; `"int8"`, both. `None`, the default: that of the model's scheme;
            without one, `"bits"` for a model with binary layers, else `"float32"`.
        attention: how attention between bits is carried out. `"binary"`: with bits, by this project's runtime.
            `"float"`: as float products of the +-1 codes, which Larq Compute Engine's own runtime executes. `None`,
            the default: `"binary"` if the runtime was compiled when the package was installed, else `"float"`.
        fuse_blocks: with `"binary"`, whether a whole block becomes one op, the default, or its layers ops of their own.
        half: with `"bits"`, whether the kernels of convolutions, the patch embedding and so the largest float part of a
            file, are rounded to half precision and stored so; default False. `verify` rounds the model likewise.
        compact: with `"bits"`, whether the kernels of convolutions and of the classifier are stored in int8 with a scale per
            output, and the vectors of blocks and the position embedding in half precision; default False. It costs signs on
            their threshold, not accuracy; `verify` rounds the kernels likewise, and allows for the rest.
        calibration: what shows the ranges of integers - those within of `precision="int8"`, and those of `input` and `output`:
            normalised images `(n, height, width, channels)`, float32, or a `tf.data.Dataset` of batches `images` or
            `(images, labels)`; some hundred images are enough. `None`, the default, for all else.
        card: dict of plain types stored in the file for whoever runs it, e.g. class names and the normalisation; its keys
            are those of `acdbit_keras.convert.metadata`. With classes the file also has TFLite's standard metadata. Default:
            none.
        input: what the file takes: `"float32"`, the default, normalised images; `"uint8"`, pixels as a camera gives them, which
            the file normalises with the card's mean and std; `"int8"`, pixels less 128, likewise. Without mean and std, integers
            with a scale and a zero point that hold what calibration shows, as TFLite quantizes an input.
        output: what the file gives: `"float32"`, the default, or `"int8"` or `"uint8"` with a scale and a zero point that hold
            what it gives for calibration; beyond that it saturates. `Interpreter` makes floats of them.
        stem: with `"bits"`, how the patch embedding, or the convolutions in front of the first block, are carried out.
            `"float32"`, the default, as in Keras; `"int8"`, with weights of 8 bits, a scale for each output, and activations
            that are quantized when the file runs, which takes a quarter of the space and of the time. Logits then differ from
            those of Keras, for signs behind it turn; `acdbit evaluate` says what accuracy remains.

    Returns:
        `Conversion`.

    Raises:
        ConversionError: a layer of bits that could not be packed, with the reason.
        ImportError: the converter's package is not installed, or Keras does not run on TensorFlow.
        OSError: the path cannot be written.
        ValueError: not a built model with one fixed input shape, or an unknown or missing option.

    Example:
        >>> import acdbit_keras as acd
        >>> print(acd.convert.to_tflite(student, "student.tflite"))
        student.tflite: 0.032 MB, bits, 11 nodes; 6 binary layers packed into 0.006 MB;
        0 attention products in float, 0 float copies of bits; in float patch_embedding, classifier
    """
    inputs = doors.of(model)
    path = files.writable(path)
    if attention is None:
        attention = "binary" if runtime.is_installed() else "float"
    checks.choice("attention", attention, ATTENTIONS)
    checks.choice("input", input, INPUTS)
    checks.choice("output", output, OUTPUTS)
    checks.choice("stem", stem, STEMS)
    cards.check(card or {})
    if precision is None:
        wanted = getattr(getattr(model, "scheme", None), "precision", "bits")
        precision = None if wanted == "bits" else wanted
    else:
        checks.choice("precision", precision, PRECISIONS)
    if half and compact:
        raise ValueError("half=True and compact=True store the same kernels in different ways; choose one")
    if (half or compact) and precision not in (None, "bits"):
        raise ValueError(f"{'half' if half else 'compact'}=True is for precision='bits', not {precision!r}")
    rounding = "half" if half else "compact" if compact else None
    if stem == "int8" and precision not in (None, "bits"):
        raise ValueError(f"stem='int8' is for precision='bits', not {precision!r}")
    if stem == "int8" and half:
        raise ValueError("half=True and stem='int8' both say how the stem is stored: leave out one")
    takes_pixels = input != "float32" and "mean" in (card or {})
    if inputs.several and (takes_pixels or precision == "int8"):
        what = f"input={input!r} with the card's mean and std" if takes_pixels else "precision='int8'"
        raise ValueError(f"{what} is for models of one input, not {', '.join(inputs.names)}")
    pixels = _normalisation(card, inputs, input, precision) if takes_pixels else None
    _check_calibration(precision, input, output, takes_pixels, calibration)

    model = in_float32(model)
    with tempfile.TemporaryDirectory() as folder:
        executor = RuntimeExecutor(fuse_blocks) if attention == "binary" else LceExecutor()
        if precision in (None, "bits"):
            saved = _save(model, inputs, executor, folder, input, pixels)
            # Attention as float products leaves nothing that could be packed.
            in_bits = executor.products or (executor.attentions and attention == "binary")
            precision = precision or ("bits" if in_bits else "float32")
            if precision == "bits" and not in_bits:
                why = (
                    "whose attention in bits is asked for in float"
                    if executor.attentions
                    else "with binary layers; this one has none"
                )
                raise ValueError(f"precision='bits' needs a model {why}")
        if precision == "bits":
            file = flatbuffer.parse(_convert_bits(folder), "the converted model")
            _edit(file, rounding, stem)
            packed = _check_packed(file, executor.products, model)
        else:
            executor_of_floats = IntegerExecutor() if precision == "int8" else FloatExecutor()
            saved = _save(model, inputs, executor_of_floats, folder, input, pixels)
            content = _convert_float(folder, precision, calibration, input, output)
            file, packed = flatbuffer.parse(content, "the converted model"), []
    if saved is dict:
        metadata.update(file, outputs="dict")
    rewrite.free_batch(file)
    if precision != "int8":
        _quantize_doors(file, inputs, input, output, card if takes_pixels else None, calibration)
    if card is not None:
        metadata.update(file, card=card)
    # The standard entry speaks of one input and one output.
    labelled = bool((card or {}).get("classes")) and len(flatbuffer.inputs(file)) == len(flatbuffer.outputs(file)) == 1
    if labelled:
        metadata.add_standard(file, card, normalised_inside=takes_pixels)
    content = flatbuffer.pack(file)
    if labelled:
        content = metadata.with_labels(content, card)
    start_engine(choose_engine(file), content, 1, "the converted model")
    files.write_beside(path, lambda temporary: temporary.write_bytes(content))
    return Conversion(
        path=path,
        precision=precision,
        attention=attention if executor.attentions and precision == "bits" else None,
        bytes=len(content),
        op_counts=flatbuffer.op_counts(file),
        packed_layers=len(packed),
        packed_bytes=sum(words.nbytes for words in packed),
        attention_products=rewrite.attention_products(file),
        float_copies=flatbuffer.op_counts(file).get("LceDequantize", 0),
        in_float=remaining.layers(model, precision, attention),
        quantized=integers.doors(file),
    )


def in_float32(model):
    """The model itself, or for one trained in mixed precision a float32 copy with the same weights."""
    config = keras.saving.serialize_keras_object(model)
    # A backbone leaves its own policy out of its config: it is that of whoever builds it.
    if not _mixed_policies(config) and model.dtype_policy.compute_dtype == "float32":
        return model
    return _copy(model, config)


def in_rounding(model, rounding):
    """A copy whose kernels are those that a file stores rounded: as they are once a norm is folded into them.

    Args:
        model: built.
        rounding: `"half"`, kernels of convolutions in half precision, or `"compact"`, these and the classifier's in int8.
    """
    copy = _copy(model, keras.saving.serialize_keras_object(model))
    stem = getattr(copy, "patch_embedding", None)
    folded = {id(convolution.kernel): norm for convolution, norm in getattr(stem, "normalised_convolutions", list)()}
    to_stored = rewrite.to_half if rounding == "half" else rewrite.to_int8_and_back
    for weight in copy.weights:
        if weight.name != "kernel" or len(weight.shape) != 4 or not _is_large(weight):
            continue
        kernel, norm = ops.convert_to_numpy(weight).astype(np.float64), folded.get(id(weight))
        factor = np.ones(kernel.shape[-1]) if norm is None else fusion.affine(norm)[0]
        factor = np.where(factor == 0.0, 1.0, factor)
        rows = np.moveaxis(kernel * factor, -1, 0)
        weight.assign(np.moveaxis(to_stored(rows), 0, -1) / factor)
    if rounding == "compact" and hasattr(copy, "classifier") and _is_large(copy.classifier.kernel):
        kernel = ops.convert_to_numpy(copy.classifier.kernel).astype(np.float64)
        factor = fusion.affine(copy.norm)[0][:, None]
        factor = np.where(factor == 0.0, 1.0, factor)
        copy.classifier.kernel.assign(to_stored((kernel * factor).T).T / factor)
    return copy


def _is_large(weight):
    return 4 * math.prod(weight.shape) >= rewrite.WORTH_STORING


def _copy(model, config):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        copy = keras.saving.deserialize_keras_object(config)
        if not copy.built:
            copy.build_from_config(model.get_build_config())
    finally:
        keras.config.set_dtype_policy(previous)
    copy.set_weights(model.get_weights())
    return copy


def _check_calibration(precision, input, output, takes_pixels, calibration):
    needs = {
        f"precision={precision!r}": precision == "int8",
        f"output={output!r}": output != "float32",
        f"input={input!r}": input != "float32" and not takes_pixels,
    }
    [needing, *_] = [*(name for name, needed in needs.items() if needed), None]
    if needing is None and calibration is not None:
        raise ValueError(f"precision={precision!r} takes no calibration images, nor do input and output of the types asked for")
    if needing is not None and calibration is None:
        instead = "a card with the mean and std that the file is to normalise pixels with, or " if "input" in needing else ""
        raise ValueError(f"{needing} needs {instead}calibration images, which show the range of its integers")


def _quantize_doors(file, inputs, input, output, card, calibration):
    """Puts integers at the doors of a file of floats; `card` is that of a file that takes pixels, else `None`."""
    if output == "float32" and (input == "float32" or card):
        return
    batches = [dict(zip(inputs.names, arrays)) for arrays in samples(calibration, inputs)]
    if input != "float32" and not card:
        integers.quantize_inputs(file, input, batches)
    if output != "float32":
        if card:
            pixels = pictures.Pixels(card, inputs.shape, input)
            batches = [{name: pixels.of(images) for name, images in batch.items()} for batch in batches]
        integers.quantize_outputs(file, output, batches)


def _normalisation(card, inputs, input, precision):
    """Offset and factor that a file of pixels applies itself."""
    if precision == "int8":
        raise ValueError(
            f"input={input!r} with the card's mean and std is for files whose first layer is float; "
            "int8 files quantize their normalised input"
        )
    channels = inputs.shapes[0][-1]
    if len(card["mean"]) not in (1, channels):
        raise ValueError(f"the card's mean must have one number for each of the {channels} channels, not {len(card['mean'])}")
    if inputs.dtypes != ("float32",):
        raise ValueError(f"input={input!r} is for a model of normalised images, and this one takes {inputs.dtypes[0]} itself")
    return cards.normalisation(card)


def _save(model, inputs, executor, folder, input="float32", pixels=None):
    """Traces the model for one sample with an executor and writes the SavedModel; with `pixels` of the type `input` inside of it.

    Returns:
        Type of what the model gives: a dict, a list or tuple, or a tensor's.
    """
    dtypes = inputs.dtypes if pixels is None else (input,)
    specifications = [tf.TensorSpec((1, *shape), dtype, name) for name, shape, dtype in zip(inputs.names, inputs.shapes, dtypes)]
    given = []

    @tf.function(input_signature=specifications, autograph=False)
    def serve(*tensors):
        if pixels is not None:
            offset, factor = map(tf.constant, pixels)
            values = tf.cast(tensors[0], tf.float32) - float(pictures.LEAST[input])
            tensors = [(values - offset) * factor]
        with execution.using(executor):
            outputs = model(inputs.pack(tensors), training=False)
        given.append(type(outputs))
        named = doors.outputs(model, outputs)
        taps = getattr(executor, "taps", {})
        if clash := [name for name in named if name.startswith(f"{_TAP}_")]:
            raise ValueError(f"the output {clash[0]!r} must have another name: files keep signs under names that begin so")
        return {**named, **taps}

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.serve = serve
    try:
        tf.saved_model.save(module, folder, signatures=serve)
    except ConversionError as error:
        raise executor.refusal from error
    return given[-1]


def _convert_bits(folder):
    try:
        import larq_compute_engine
    except ImportError as error:
        raise ImportError(
            "packing bits needs the package larq-compute-engine, which there is for Python 3.10 to 3.12 on x86_64 Linux and on "
            "macOS: pip install larq-compute-engine"
        ) from error
    return larq_compute_engine.convert_saved_model(folder)


def _convert_float(folder, precision, calibration, input, output):
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.representative_dataset = lambda: ([image[None]] for batch in batches(calibration) for image in batch)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type, converter.inference_output_type = (getattr(tf, dtype) for dtype in (input, output))
    return converter.convert()


def _edit(file, rounding, stem):
    rewrite.flatten_output_transforms(file)
    taps = rewrite.take_outputs(file, _TAP)
    packed = rewrite.feed_bits(file)
    taps = {name: packed.get(tensor, tensor) for name, tensor in taps.items()}
    metadata.update(file, taps=taps, **({rounding: True} if rounding else {}), **({"stem": stem} if stem == "int8" else {}))
    rewrite.separate_views(file)
    if stem == "int8":
        rewrite.quantize_stem(file)
    if rounding == "half":
        rewrite.store_halves(file)
    if rounding == "compact":
        rewrite.store_compact(file)


def _check_packed(file, products, model):
    """The packed kernels in the file, one for each product of bits; raises `ConversionError` for a missing one."""
    for (name, _), found in zip(products, match_products(file, products)):
        if found is None:
            loop = _loop_around(name, model)
            if loop:
                raise ConversionError(
                    f"layer {name} cannot be packed: it is part of the recurrent layer {loop}, and only what lies outside of a "
                    "loop is; give it whole recordings, or leave the cell in float"
                )
            raise ConversionError(
                f"layer {name} was left in float by the converter: its input is not recognised as a sign, "
                "tf.sign(tf.sign(x) + 0.1), that the convolution reads directly"
            )
    return [words for _, words in products]


def _loop_around(name, model):
    """Path of the recurrent layer whose cell the layer of this path is, or is part of; `None` if there is none."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.RNN) and name in {part.path for part in layer._flatten_layers(include_self=False)}:
            return layer.path
    return None


def match_products(file, products):
    """Finds each product of bits in a file by its packed kernel.

    Args:
        file: model object.
        products: `(name, packed kernel)` in order of execution, as `LceExecutor.products`.

    Returns:
        List of `rewrite.Filter`, `None` where the kernel is not in the file. Equal kernels pair up in order.
    """
    available = {}
    for found in rewrite.filters(file):
        available.setdefault((found.words.shape, found.words.tobytes()), []).append(found)
    matches = (available.get((words.shape, words.tobytes())) for _, words in products)
    return [found.pop(0) if found else None for found in matches]


def batches(data):
    """Yields float32 numpy batches of images from an array or from a dataset of `images` or `(images, labels, ...)`."""
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        data = [data]
    for batch in data:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        yield np.asarray(images, np.float32)


def samples(data, inputs):
    """Yields batches of a model's inputs, each a list of numpy arrays in the order of its `doors.Doors`.

    Args:
        data: arrays as `Doors.arrays` takes them, or a dataset of these or of `(these, labels, ...)`.
        inputs: `doors.Doors`.
    """
    if isinstance(data, (np.ndarray, dict)) or tf.is_tensor(data) or (inputs.several and isinstance(data, (list, tuple))):
        data = [(data,)]
    for batch in data:
        # Of several inputs a bare list may be these or a pair with labels, as Keras takes it: a tuple is a pair.
        yield inputs.arrays(batch[0] if isinstance(batch, tuple) or (isinstance(batch, list) and not inputs.several) else batch)


def _mixed_policies(config):
    """Replaces, in place, every policy but float32 in a serialized object; returns how many it found."""
    found = 0
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy" and config["config"]["name"] != "float32":
            config["config"]["name"] = "float32"
            found += 1
        found += sum(_mixed_policies(value) for value in config.values())
    elif isinstance(config, (list, tuple)):
        found += sum(map(_mixed_policies, config))
    return found
