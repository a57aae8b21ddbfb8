"""The terms of the distillation loss: distribution correction, and those of the other systems.

Each term maps the outputs of teacher and student to one loss per image, in float32. `outputs` is what a backbone
returns with `return_taps=True`: `{"logits": (batch, classes), "taps": [per block {"query", "key", ...}]}`; query, key
and value real, before any quantizer, `(batch, tokens, heads, head_dim)`, features `(batch, ..., channels)`.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from acdbit_keras import checks, targets
from acdbit_keras.typing import Tensor

QUERY_KEY_FORMS = ("gram", "direct")
LABEL_FORMS = ("softmax", "sigmoid", "squared")


class Term:
    """One weighted term. Subclasses set `name` and `__call__(teacher, student) -> (batch,)`.

    Attributes:
        taps: names of the taps of each block that it compares.
        same_width: whether their last axes must agree between teacher and student.
        needs_labels: whether it is called with the labels as a third argument.
    """

    name: str = ""
    taps: tuple[str, ...] = ()
    same_width: bool = False
    needs_labels: bool = False

    def __init__(self, weight: float) -> None:
        if not weight >= 0:
            raise ValueError(f"the weight of a distillation term must be at least 0, not {weight!r}")
        self.weight = float(weight)

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def towards(self, kind: str | None, outputs: int) -> Term:
        """The term as it is for targets of a kind of `acdbit_keras.targets`, `None` for one that is not known.

        Raises:
            ValueError: it says nothing about them.
        """
        return self

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Term:
        return cls(**config)


@keras.saving.register_keras_serializable(package="acdbit")
class LabelDistillation(Term):
    """Distance of the student's output to the teacher's.

    `"softmax"`, of classes: the cross-entropy -sum softmax(t / T) log softmax(s / T). `"sigmoid"`, of labels that do not exclude
    each other: the mean of the binary cross-entropies of sigmoid(s / T) against sigmoid(t / T). `"squared"`, of numbers: the mean
    of (s - t)^2.

    Args:
        weight: factor of the term in the loss, at least 0; default 0.9.
        temperature: positive number that divides both logits; default 1, as in the paper.
        form: one of the above; `None`, the default: what the loss that a `Distiller` is compiled with asks for, without one the
            softmax, and of a single output the squared difference: a softmax of one number is 1 whatever it is.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> teacher, student = {"logits": np.zeros((1, 2))}, {"logits": np.log([[1, 3]])}
        >>> print(np.asarray(acd.LabelDistillation()(teacher, student)))  # -(log 1/4 + log 3/4) / 2
        [0.83698...]
    """

    name = "label"

    def __init__(
        self, weight: float = 0.9, temperature: float = 1.0, form: Literal["softmax", "sigmoid", "squared"] | None = None
    ) -> None:
        super().__init__(weight)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature!r}")
        checks.choice("form", form, (None, *LABEL_FORMS))
        self.temperature = float(temperature)
        self.form = form

    def towards(self, kind: str | None, outputs: int) -> Term:
        form = self.form or {targets.LABELS: "sigmoid", targets.NUMBERS: "squared"}.get(kind, "softmax")
        if outputs == 1 and form == "softmax":
            if self.form:
                raise ValueError("the term 'label' of the form 'softmax' says nothing of a single output; 'squared' does")
            form = "squared"
        return type(self)(**{**self.get_config(), "form": form})

    def __call__(self, teacher: dict[str, Any], student: dict[str, Any]) -> Tensor:
        theirs, ours = _float(teacher["logits"]), _float(student["logits"])
        if self.form == "squared":
            return _per_sample(ops.mean(ops.square(ours - theirs), axis=-1))
        theirs, ours = theirs / self.temperature, ours / self.temperature
        if self.form == "sigmoid":
            return _per_sample(ops.mean(ops.softplus(ours) - ops.sigmoid(theirs) * ours, axis=-1))
        return _per_sample(-ops.sum(ops.softmax(theirs, axis=-1) * ops.log_softmax(ours, axis=-1), axis=-1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature, "form": self.form}


@keras.saving.register_keras_serializable(package="acdbit")
class QueryKeyDistillation(Term):
    """Distance of the student's queries and keys to the teacher's, mean over layers, heads and both.

    `"gram"`: per image, layer and head || G(s)/||G(s)|| - G(t)/||G(t)|| ||_F with G(q) = q q^T; head widths may differ.
    `"direct"`: the mean over tokens of || s/||s|| - t/||t|| ||^2 per position; head widths must agree.

    Args:
        weight: factor of the term in the loss, at least 0; default 0.1.
        form: `"gram"`, the default, or `"direct"`, as above.

    Source: the paper distils Q and K position by position; both formulas are our reconstruction, the gram form after
    BiBERT's direction-matching distillation (arXiv:2203.06390).

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> def outputs(*tokens):  # of one head, queries and keys alike
        ...     tap = np.float32(tokens)[None, :, None, :]
        ...     return {"taps": [{"query": tap, "key": tap}]}
        >>> equal, orthogonal = outputs([1, 0], [1, 0]), outputs([1, 0], [0, 1])
        >>> print(np.asarray(acd.QueryKeyDistillation()(equal, orthogonal)))  # sqrt(2 - sqrt(2))
        [0.76536...]
        >>> print(
        ...     np.asarray(acd.QueryKeyDistillation(form="direct")(equal, orthogonal))
        ... )  # 0 and 2, in the mean
        [1.]
    """

    name = "query_key"
    taps = ("query", "key")

    def __init__(self, weight: float = 0.1, form: Literal["gram", "direct"] = "gram") -> None:
        super().__init__(weight)
        checks.choice("form", form, QUERY_KEY_FORMS)
        self.form = form
        self.same_width = form == "direct"

    def __call__(self, teacher: dict[str, Any], student: dict[str, Any]) -> Tensor:
        distances = _distances(gram_distance if self.form == "gram" else direct_distance, self.taps, teacher, student)
        return sum(distances) / len(distances)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "form": self.form}


@keras.saving.register_keras_serializable(package="acdbit")
class DirectionMatchingDistillation(Term):
    """Sum over layers, and over query, key and value, of || G(s)/||G(s)|| - G(t)/||G(t)|| ||_F, G(x) = x x^T per head.

    Mean over the heads. The factor 1 / sqrt(head_dim) that BiBERT has in G cancels.

    Source: BiBERT (arXiv:2203.06390).
    """

    name = "direction_matching"
    taps = ("query", "key", "value")

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def __call__(self, teacher: dict[str, Any], student: dict[str, Any]) -> Tensor:
        return sum(_distances(gram_distance, self.taps, teacher, student))


@keras.saving.register_keras_serializable(package="acdbit")
class HiddenDistillation(Term):
    """Sum over layers of || s/||s|| - t/||t|| ||, the features of an image as one vector.

    Source: BiBERT (arXiv:2203.06390) for the normalised difference.
    """

    name = "hidden"
    taps = ("features",)
    same_width = True

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def __call__(self, teacher: dict[str, Any], student: dict[str, Any]) -> Tensor:
        return sum(_distances(feature_distance, self.taps, teacher, student))


@keras.saving.register_keras_serializable(package="acdbit")
class TrueLabels(Term):
    """Cross-entropy of the student against the labels of the dataset, classes `(batch,)` or rows `(batch, classes)`."""

    name = "true_label"
    needs_labels = True

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__(weight)

    def towards(self, kind: str | None, outputs: int) -> Term:
        if kind in (targets.LABELS, targets.NUMBERS):
            raise ValueError(
                f"the term {self.name!r} is a cross-entropy of classes, and the targets are {kind}; pass terms= without it"
            )
        return self

    def __call__(self, teacher, student, labels):
        log_prediction = ops.log_softmax(_float(student["logits"]), axis=-1)
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == 2 and labels.shape[-1] == log_prediction.shape[-1]:
            target = _float(labels)
        else:
            target = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), log_prediction.shape[-1])
        return -ops.sum(target * log_prediction, axis=-1)


def _per_sample(distances):
    """The mean over all axes but the first: of outputs with axes of their own, such as those of every step of a sequence."""
    axes = tuple(range(1, len(distances.shape)))
    return ops.mean(distances, axis=axes) if axes else distances


def gram_distance(x, y):
    """|| G(x)/||G(x)|| - G(y)/||G(y)|| ||_F, G = x x^T per head; `(batch, tokens, heads, head_dim)` to `(batch,)`.

    As each normalised matrix has norm 1, this is sqrt(2 - 2 <G(x), G(y)> / (||G(x)|| ||G(y)||)); and as
    <G(x), G(y)> = ||x^T y||^2, many tokens need no matrix of tokens x tokens. What is equal to the last digit then has a
    distance of about 5e-4 instead of 0, for the difference of two numbers near 1 is taken; so few tokens are compared directly.
    """
    x, y = ops.transpose(x, (0, 2, 1, 3)), ops.transpose(y, (0, 2, 1, 3))
    if x.shape[-2] is not None and x.shape[-2] <= 2 * max(x.shape[-1], y.shape[-1]):
        difference = _unit(_gram(x), (-2, -1)) - _unit(_gram(y), (-2, -1))
        squared = ops.sum(ops.square(difference), axis=(-2, -1)) + 1e-12
    else:
        # Of unit norm first: the fourth powers of large features overflow.
        x, y = _unit(x, (-2, -1)), _unit(y, (-2, -1))
        cosine = _inner(x, y) * ops.rsqrt(_inner(x, x) * _inner(y, y) + 1e-12)
        squared = ops.maximum(2.0 - 2.0 * cosine, 0.0) + 1e-7
    return ops.mean(ops.sqrt(squared), axis=-1)


def feature_distance(x, y):
    """|| x/||x|| - y/||y|| || of all of an image's features; `(batch, ..., channels)` to `(batch,)`."""
    axes = tuple(range(1, len(x.shape)))
    return ops.sqrt(ops.sum(ops.square(_unit(x, axes) - _unit(y, axes)), axis=axes) + 1e-12)


def direct_distance(x, y):
    """Mean over tokens and heads of the squared distance of the l2-normalised vectors; to `(batch,)`."""
    return ops.mean(ops.sum(ops.square(_unit(x, -1) - _unit(y, -1)), axis=-1), axis=(1, 2))


def _distances(distance, taps, teacher, student):
    """One `(batch,)` per layer and tap."""
    pairs = zip(student["taps"], teacher["taps"])
    return [distance(_float(ours[tap]), _float(theirs[tap])) for ours, theirs in pairs for tap in taps]


def _gram(x):
    return ops.matmul(x, ops.swapaxes(x, -1, -2))


def _inner(x, y):
    """<x x^T, y y^T> over the last two axes."""
    return ops.sum(ops.square(ops.matmul(ops.swapaxes(x, -1, -2), y)), axis=(-2, -1))


def _unit(x, axis):
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=axis, keepdims=True) + 1e-12)


def _float(x):
    return ops.cast(x, "float32")
