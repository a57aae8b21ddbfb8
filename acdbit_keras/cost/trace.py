"""One pass over a model: which layers are called, on what, within which, with how many multiply-adds."""

import contextlib
import dataclasses
import functools
import threading

import keras
import numpy as np
from keras import layers

from acdbit_keras.cost.count import CONVOLUTIONS, DEPTHWISE, float_macs, tensors_of
from acdbit_keras.layers import BinaryAttention, BinaryDense

# These own quantizers, whose calls are part of theirs: they are one row.
_WHOLE = (BinaryAttention, BinaryDense)
# The converter folds a BatchNormalization behind them into their weights, or into multiplier and bias of the bits.
# Whose outputs have fewer than the four dimensions that a convolution of bits works in, and are no elementwise result.
_OF_FEWER_DIMENSIONS = (
    layers.Dense, layers.Embedding, layers.Flatten, layers.Reshape, layers.InputLayer,
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D,
)  # fmt: skip
_FOLDING = (BinaryDense, layers.Dense, *CONVOLUTIONS, *DEPTHWISE)


@dataclasses.dataclass(eq=False)
class Record:
    """A layer that was called."""

    layer: keras.layers.Layer
    output_shape: tuple = ()
    inputs: list = dataclasses.field(default_factory=list)  # tensors that it is given first
    children: list = dataclasses.field(default_factory=list)
    bit_macs: int = 0
    float_macs: int = 0
    norm: object = None  # the BatchNormalization that is folded into it
    folded: bool = False  # a BatchNormalization that is folded into another layer
    writes_bits: bool = False  # a product of bits whose outputs the converter compares at once: signs alone read them
    reads_bits: set = dataclasses.field(default_factory=set)  # numbers of the inputs whose signs are made so
    enters: bool = False  # a product of bits whose input comes in fewer dimensions than the converter's convolution has
    leaves: bool = False  # one whose output is given out in them

    @property
    def input(self):
        """The first tensor that it is given, `None` where there is none."""
        return self.inputs[0] if self.inputs else None

    @property
    def weights(self):
        """Weights that belong to no layer called within."""
        nested = {id(weight) for child in self.children for weight in child.layer.weights}
        return [weight for weight in self.layer.weights if id(weight) not in nested]

    def within(self):
        """Records of all layers called within."""
        for child in self.children:
            yield child
            yield from child.within()


class Trace:
    """Notes every layer in the order in which they are entered first.

    Attributes:
        read_elsewhere: ids of the layers whose outputs what is no layer reads, too: nothing behind them is folded into them.
    """

    _lock = threading.Lock()

    def __init__(self):
        self.records = {}
        self.read_elsewhere = set()
        self._stack = []
        self._tensors = []  # kept alive: tensors are told apart by their id
        self._producers = {}

    @contextlib.contextmanager
    def watching(self):
        """For its time every call of a layer in this thread is noted."""
        original, thread = layers.Layer.__call__, threading.get_ident()

        @functools.wraps(original)
        def watched(layer, *args, **kwargs):
            if threading.get_ident() != thread or self._stack and isinstance(self._stack[-1].layer, _WHOLE):
                return original(layer, *args, **kwargs)
            return self._called(layer, original, args, kwargs)

        with self._lock:
            layers.Layer.__call__ = watched
            try:
                yield
            finally:
                layers.Layer.__call__ = original

    def _called(self, layer, original, args, kwargs):
        first = id(layer) not in self.records
        record = self.records.setdefault(id(layer), Record(layer))
        if first and self._stack:
            self._stack[-1].children.append(record)
        self._stack.append(record)
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            self._stack.pop()
        tensors = tensors_of((args, kwargs))
        if first:
            record.inputs = tensors
            shapes = [tuple(tensor.shape[1:]) for tensor in tensors_of(outputs)]
            record.output_shape = shapes[0] if len(shapes) == 1 else tuple(shapes)
        record.float_macs += float_macs(layer, args, kwargs, outputs)
        self._tensors += [tensors, outputs]
        for tensor in tensors_of(outputs):
            self._producers.setdefault(id(tensor), record)
        return outputs

    def record(self, layer):
        if id(layer) not in self.records:
            # TimeDistributed uses its layer's `call`.
            self.records[id(layer)] = Record(layer, output_shape=(layer.units,) if isinstance(layer, BinaryDense) else ())
            self._stack[-1].children.append(self.records[id(layer)])
        return self.records[id(layer)]

    def join_norms(self):
        """Finds the norms that the converter folds into the layer before them, or into a Dense behind them."""
        for record in list(self.records.values()):
            producer = self._producers.get(id(record.input))
            if producer is None or id(producer.layer) in self.read_elsewhere:
                continue
            if isinstance(record.layer, layers.BatchNormalization) and isinstance(producer.layer, _FOLDING):
                producer.norm, record.folded = record.layer, True
            elif (
                isinstance(record.layer, layers.Dense)
                and isinstance(producer.layer, layers.BatchNormalization)
                and not producer.folded
            ):
                record.norm, producer.folded = producer.layer, True

    def join_bits(self, outputs):
        """Finds the products of bits whose outputs only signs read, and where a product begins and ends a chain of such.

        Args:
            outputs: of the model.
        """
        readers, given_out = {}, {id(tensor) for tensor in tensors_of(outputs)}
        for record in self.records.values():
            for index, tensor in enumerate(record.inputs):
                if isinstance(record.layer, _WHOLE) or not record.children:
                    readers.setdefault(id(tensor), []).append((record, index))
        made_by = {}
        for key, producer in self._producers.items():
            made_by.setdefault(id(producer), []).append(key)
        for record in self.records.values():
            if not _is_product(record):
                continue
            source = self._producers.get(id(record.input))
            record.enters = source is None or isinstance(source.layer, _OF_FEWER_DIMENSIONS)
            made = [key for maker in self._makers(record) for key in made_by.get(id(maker), ())]
            record.leaves = bool(given_out.intersection(made))
            read = [reader for key in made for reader in readers.get(key, ()) if not reader[0].folded]
            thresholds = {_threshold(*reader) for reader in read}
            elsewhere = any(id(maker.layer) in self.read_elsewhere for maker in self._makers(record))
            if (
                read
                and not record.leaves
                and not elsewhere
                and len(thresholds) == 1
                and None not in thresholds
                and _is_plain(record.layer)
            ):
                record.writes_bits = True
                for reader, index in read:
                    reader.reads_bits.add(index)

    def _makers(self, record):
        """The records whose outputs a product gives: its own, and that of a norm that is folded into it."""
        return [record] if record.norm is None else [record, self.records[id(record.norm)]]


def _is_product(record):
    return isinstance(record.layer, BinaryDense) and record.layer.is_binary


def _is_plain(layer):
    """Whether outputs are one multiplier and one bias per channel behind the count."""
    comparison = layer.input_quantizer.comparison()
    return comparison is not None and not comparison.dynamic and not getattr(layer.kernel_quantizer, "restore", False)


def _threshold(record, index):
    """What a layer of bits compares an input with, as bytes; `None` for what reads numbers."""
    layer = record.layer
    if _is_product(record):
        quantizer = layer.input_quantizer
    elif isinstance(layer, BinaryAttention) and layer.is_binary:
        quantizer = (layer.query_quantizer, layer.key_quantizer, layer.value_quantizer)[index]
    else:
        return None
    comparison = quantizer.comparison()
    return None if comparison is None or comparison.dynamic else np.asarray(comparison.threshold, np.float32).tobytes()
