"""One pass over a model: which layers are called, on what, within which, with how many multiply-adds."""

import contextlib
import dataclasses
import functools
import threading

import keras
from keras import layers

from acdbit_keras.cost.count import CONVOLUTIONS, DEPTHWISE, float_macs, tensors_of
from acdbit_keras.layers import BinaryAttention, BinaryDense

# These own quantizers, whose calls are part of theirs: they are one row.
_WHOLE = (BinaryAttention, BinaryDense)
# The converter folds a BatchNormalization behind them into their weights, or into multiplier and bias of the bits.
_FOLDING = (BinaryDense, layers.Dense, *CONVOLUTIONS, *DEPTHWISE)


@dataclasses.dataclass(eq=False)
class Record:
    """A layer that was called."""

    layer: keras.layers.Layer
    output_shape: tuple = ()
    input: object = None
    children: list = dataclasses.field(default_factory=list)
    bit_macs: int = 0
    float_macs: int = 0
    norm: object = None  # the BatchNormalization that is folded into it
    folded: bool = False  # a BatchNormalization that is folded into another layer

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
    """Notes every layer in the order in which they are entered first."""

    _lock = threading.Lock()

    def __init__(self):
        self.records = {}
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
            record.input = tensors[0] if tensors else None
            shapes = [tuple(tensor.shape[1:]) for tensor in tensors_of(outputs)]
            record.output_shape = shapes[0] if len(shapes) == 1 else tuple(shapes)
        record.float_macs += float_macs(layer, args, kwargs, outputs)
        self._tensors += [tensors, outputs]
        for tensor in tensors_of(outputs):
            self._producers.setdefault(id(tensor), record)
        return outputs

    def record(self, layer):
        return self.records[id(layer)]

    def join_norms(self):
        """Finds the norms that the converter folds into the layer before them, or into a Dense behind them."""
        for record in list(self.records.values()):
            producer = self._producers.get(id(record.input))
            if producer is None:
                continue
            if isinstance(record.layer, layers.BatchNormalization) and isinstance(producer.layer, _FOLDING):
                producer.norm, record.folded = record.layer, True
            elif (
                isinstance(record.layer, layers.Dense)
                and isinstance(producer.layer, layers.BatchNormalization)
                and not producer.folded
            ):
                record.norm, producer.folded = producer.layer, True
