"""What a scheme is: which quantizer goes to which place, which distillation belongs to it, and how it is trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras

from acdbit_keras import checks, quantizers
from acdbit_keras.typing import QuantizerLike

if TYPE_CHECKING:
    from acdbit_keras.distillation.losses import Term

if TYPE_CHECKING:
    from acdbit_keras.quantizers.base import Quantizer

PLACES = ("weight", "activation", "hidden", "query", "key", "value", "probabilities", "residual")
BLOCKS = ("float", "binary")
PRECISIONS = ("bits", "float32", "float16", "int8")
PARTS = ("attention", "mlp")
TEACHERS = ("teacher", "previous")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: how tables and logs print it.
        share: the part of the epochs that it takes, in (0, 1].
        changes: dict of the scheme's fields that have other values during the stage; default: none.
        teacher: `"teacher"`, the default, that of the run, or `"previous"`, the network as the stage before left it.
    """

    name: str
    share: float
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str = "teacher"

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of the stage {self.name!r} must be in (0, 1], not {self.share!r}")
        checks.choice(f"the teacher of the stage {self.name!r}", self.teacher, TEACHERS)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A quantization scheme. Every quantizer is a prototype: each layer of a backbone gets a copy with its own weights.

    Attributes:
        name: how it is asked for.
        title: how tables print it.
        note: what a table says below itself where it has a row of this scheme: how it differs from what its name promises;
            default: nothing.
        block: `"float"`, the pre-norm transformer block with LayerNorm and GELU, or `"binary"`, the default, the BinaryViT
            block with BatchNorm, RPReLU and a residual around every product.
        weight: quantizer of every kernel of the blocks, as `acdbit_keras.quantizers.get` takes it; `None`, the default here
            and below, leaves the place real.
        activation: quantizer of the inputs of the query, key, value, output and first feed-forward products.
        hidden: quantizer of the input of the second feed-forward product.
        query, key, value: quantizers of the operands of attention, on `(batch, tokens, heads, head_dim)`.
        probabilities: quantizer of the attention probabilities `(batch, heads, tokens, tokens)`.
        residual: quantizer of what the norms of a block read (float block only).
        branches: whether the block has LayerScale and pooling branches (binary block only); default True.
        shifts: whether a block learns what it adds per channel - the norms' beta, the shifts of its activations, scales and mixed
            neighbours (binary block only); default True. False leaves these 0, which tells what a measured threshold does
            where nothing learned can do the same.
        real: tuple of the parts of a block, `"attention"` or `"mlp"`, whose places are all left real; default: none.
        precision: how a trained model is stored on a device: `"bits"`, the default, `"float32"`, `"float16"` or `"int8"`.
        distillation: tuple of the terms of the distillation loss with their default weights; without any, the default, a
            network is trained on the labels alone.
        stages: tuple of the `Stage`s of the training, one after the other, each from the weights of the one before; empty,
            the default, is one stage. The last one changes nothing: it trains the scheme itself.
        post_training: whether there is no training: the weights are the teacher's, and a few batches calibrate the
            quantizers; default False.
    """

    name: str
    title: str
    note: str = ""
    block: str = "binary"
    weight: QuantizerLike = None
    activation: QuantizerLike = None
    hidden: QuantizerLike = None
    query: QuantizerLike = None
    key: QuantizerLike = None
    value: QuantizerLike = None
    probabilities: QuantizerLike = None
    residual: QuantizerLike = None
    branches: bool = True
    shifts: bool = True
    real: tuple[str, ...] = ()
    precision: str = "bits"
    distillation: tuple[Term, ...] = ()
    stages: tuple[Stage, ...] = ()
    post_training: bool = False

    def __post_init__(self):
        checks.choice(f"block of the scheme {self.name!r}", self.block, BLOCKS)
        checks.choice(f"precision of the scheme {self.name!r}", self.precision, PRECISIONS)
        if not self.shifts and self.block != "binary":
            raise ValueError(f"shifts of the scheme {self.name!r} must be True: a block of floats has those of its layers")
        for part in self.real:
            checks.choice(f"real of the scheme {self.name!r}", part, PARTS)
        if self.stages:
            shares = sum(stage.share for stage in self.stages)
            if abs(shares - 1.0) > 1e-6:
                raise ValueError(f"the shares of the stages of the scheme {self.name!r} must add up to 1, not {shares:g}")
            if self.stages[0].teacher == "previous" or self.stages[-1].changes:
                raise ValueError(
                    f"of the stages of the scheme {self.name!r} the first has no previous one, "
                    "and the last trains the scheme unchanged"
                )

    @property
    def is_binary(self) -> bool:
        """Whether weights and activations are both one bit."""
        return quantizers.get(self.weight).is_binary and quantizers.get(self.activation).is_binary

    def quantizer(self, place: str, part: str | None = None, name: str | None = None) -> Quantizer:
        """A fresh quantizer for one of `PLACES`.

        Args:
            place: one of `PLACES`.
            part: part of a block that it is for, one of `PARTS`; default: none of them.
            name: name of the quantizer as a layer, by default that of the place. Equal names in every network are what
                lets one start from another's weights.
        """
        return quantizers.clone(None if part in self.real else getattr(self, place), name=name or place)

    def schedule(self, epochs: int) -> list[tuple[Stage, Scheme, int, int]]:
        """The stages of a run.

        Args:
            epochs: number of epochs of the run.

        Returns:
            List of `(stage, scheme, first, end)`: the `Stage`, the `Scheme` that it trains, its first epoch (from 0)
            and the first epoch behind it. Each has one epoch at least.

        Raises:
            ValueError: if there are fewer epochs than stages.
        """
        stages = self.stages or (Stage(self.name, 1.0),)
        if epochs < len(stages):
            count = len(stages)
            raise ValueError(f"the scheme {self.name!r} is trained in {count} stages and needs as many epochs, not {epochs}")
        rows, first, share = [], 0, 0.0
        for left, stage in zip(range(len(stages) - 1, -1, -1), stages):
            share += stage.share
            end = epochs if not left else min(max(round(share * epochs), first + 1), epochs - left)
            rows.append((stage, self.replace(stages=(), **stage.changes), first, end))
            first = end
        return rows

    def replace(self, **changes: Any) -> Scheme:
        """A scheme with some fields changed, e.g. for an ablation."""
        return dataclasses.replace(self, **changes)

    def get_config(self, training: bool = False) -> dict[str, Any]:
        """The scheme in plain types, for `from_config`.

        Args:
            training: whether what belongs to training is part of it; without, the default, it is what a backbone needs.
        """
        names = ("name", "title", "block", "branches", "shifts", "precision", "real", *PLACES)
        if training:
            names = [field.name for field in dataclasses.fields(self)]
        return {name: _to_config(name, getattr(self, name)) for name in names if self._is_said(name)}

    def _is_said(self, name):
        """Whether a field is part of what is written down: one that came later only where it is not as it was before."""
        return name != "shifts" or not self.shifts

    def definition(self) -> dict[str, Any]:
        """What a network of this scheme is and how it is trained, in plain types; equal ones train alike."""
        said = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said |= {place: quantizers.get(said[place]) for place in PLACES}
        return _plain({key: value for key, value in said.items() if key not in ("title", "note") and self._is_said(key)})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scheme:
        # Files from before these fields existed are of schemes with these values.
        older = {"precision": "bits" if config["block"] == "binary" else "float32", "real": (), "residual": None}
        return cls(**{name: _from_config(name, value) for name, value in {**older, **config}.items()})


def _to_config(name, value):
    """The value of a field of a scheme in plain types."""
    if name in PLACES:
        return quantizers.serialize(quantizers.get(value))
    if name == "distillation":
        return [keras.saving.serialize_keras_object(term) for term in value]
    if name == "stages":
        return [{**vars(stage), "changes": _changes_to_config(stage.changes)} for stage in value]
    return list(value) if isinstance(value, tuple) else value


def _changes_to_config(changes):
    # A place that a stage leaves real is None, and stays it.
    return {name: None if value is None else _to_config(name, value) for name, value in changes.items()}


def _from_config(name, value):
    """The value that `_to_config` wrote."""
    if name in PLACES:
        return None if value is None else quantizers.get(value)
    if name == "distillation":
        return tuple(keras.saving.deserialize_keras_object(config) for config in value)
    if name == "stages":
        return tuple(
            Stage(**{**stage, "changes": {key: _from_config(key, part) for key, part in stage["changes"].items()}})
            for stage in value
        )
    return tuple(value) if isinstance(value, list) else value


def _plain(value):
    if isinstance(value, Stage):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    # A quantizer or a term of the loss. How Keras calls a layer, and its precision, is not what it does.
    config = {key: part for key, part in value.get_config().items() if key not in ("name", "trainable", "dtype")}
    return {"class": type(value).__name__, **_plain(config)}
