"""Distribution correction: the terms of the distillation loss.

Each term maps the outputs of teacher and student to one loss per image, in float32. `outputs` is what a backbone
returns with `return_taps=True`: `{"logits": (batch, classes), "taps": [per block {"query", "key", ...}]}`, query and
key real, before any quantizer, `(batch, tokens, heads, head_dim)`.
"""

import keras
from keras import ops

QUERY_KEY_FORMS = ("gram", "direct")


class Term:
    """One weighted term. Subclasses set `name` and `__call__(teacher, student) -> (batch,)`."""

    name = None
    needs_taps = False

    def __init__(self, weight):
        if not weight >= 0:
            raise ValueError(f"the weight of a distillation term must be at least 0, not {weight!r}")
        self.weight = float(weight)

    def get_config(self):
        return {"weight": self.weight}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="acdbit")
class LabelDistillation(Term):
    """Cross-entropy of the student against the teacher's softmax output.

    Args:
        weight: of the term in the sum.
        temperature: divides both logits; 1 in the paper.
    """

    name = "label"

    def __init__(self, weight=0.9, temperature=1.0):
        super().__init__(weight)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature!r}")
        self.temperature = float(temperature)

    def __call__(self, teacher, student):
        target = ops.softmax(_float(teacher["logits"]) / self.temperature, axis=-1)
        log_prediction = ops.log_softmax(_float(student["logits"]) / self.temperature, axis=-1)
        return -ops.sum(target * log_prediction, axis=-1)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="acdbit")
class QueryKeyDistillation(Term):
    """Distance of the student's queries and keys to the teacher's, mean over layers, heads and both.

    `"gram"`: per image, layer and head || G(s)/||G(s)|| - G(t)/||G(t)|| ||_F with G(q) = q q^T; head widths may differ.
    `"direct"`: the mean over tokens of || s/||s|| - t/||t|| ||^2 per position; head widths must agree.

    Source: the paper distils Q and K position by position; both formulas are our reconstruction, the gram form after
    BiBERT's direction-matching distillation (arXiv:2203.06390).
    """

    name = "query_key"
    needs_taps = True

    def __init__(self, weight=0.1, form="gram"):
        super().__init__(weight)
        if form not in QUERY_KEY_FORMS:
            raise ValueError(f"form must be one of {', '.join(map(repr, QUERY_KEY_FORMS))}, not {form!r}")
        self.form = form

    def __call__(self, teacher, student):
        distance = gram_distance if self.form == "gram" else direct_distance
        terms = [
            distance(_float(ours[tap]), _float(theirs[tap]))
            for ours, theirs in zip(student["taps"], teacher["taps"])
            for tap in ("query", "key")
        ]
        return sum(terms) / len(terms)

    def get_config(self):
        return {**super().get_config(), "form": self.form}


def gram_distance(x, y):
    """|| G(x)/||G(x)|| - G(y)/||G(y)|| ||_F, G = x x^T per head; `(batch, tokens, heads, head_dim)` to `(batch,)`.

    As each normalised matrix has norm 1, this is sqrt(2 - 2 <G(x), G(y)> / (||G(x)|| ||G(y)||)).
    """
    difference = _unit(_gram(x), (-2, -1)) - _unit(_gram(y), (-2, -1))
    return ops.mean(ops.sqrt(ops.sum(ops.square(difference), axis=(-2, -1)) + 1e-12), axis=-1)


def direct_distance(x, y):
    """Mean over tokens and heads of the squared distance of the l2-normalised vectors; to `(batch,)`."""
    return ops.mean(ops.sum(ops.square(_unit(x, -1) - _unit(y, -1)), axis=-1), axis=(1, 2))


def _gram(x):
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.matmul(x, ops.transpose(x, (0, 1, 3, 2)))


def _unit(x, axis):
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=axis, keepdims=True) + 1e-12)


def _float(x):
    return ops.cast(x, "float32")
