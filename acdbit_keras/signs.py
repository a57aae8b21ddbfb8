"""Signs with a straight-through gradient: Larq's quantizers on TensorFlow, the same functions elsewhere.

Every function maps a real tensor to one of two (or three) values and replaces the gradient, which is zero almost
everywhere, by a pseudo-gradient. On the TensorFlow backend a `Sign` calls the Larq quantizer of that name; on
other backends it calls the functions of this module, written in `keras.ops` and proven equal in the tests.
"""

from dataclasses import dataclass, field

import keras
from keras import ops

from acdbit_keras import _larq, checks, replicas


def sign(x):
    """s(x) = +1 if x >= 0 else -1. Never zero. No gradient of its own."""
    one = ops.ones_like(x)
    return ops.where(x >= 0, one, -one)


def _straight_through(forward, pseudo_gradient):
    """`forward(x)` whose gradient is `pseudo_gradient(x) * upstream`."""

    @ops.custom_gradient
    def function(x):
        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream * pseudo_gradient(x)

        return forward(x), grad

    return function


def _inside(x, bound):
    if bound is None:
        return ops.ones_like(x)
    return ops.cast(ops.abs(x) <= bound, x.dtype)


def ste_sign(x, clip_value=1.0):
    """s(x); ds/dx = 1 where |x| <= clip_value, else 0 (everywhere 1 if it is None). arXiv:1602.02830."""
    return _straight_through(sign, lambda x: _inside(x, clip_value))(x)


def approx_sign(x):
    """s(x); ds/dx = 2 - 2|x| where |x| <= 1, else 0. Bi-Real Net, arXiv:1808.00278."""
    return _straight_through(sign, lambda x: 2.0 * (1.0 - ops.abs(x)) * _inside(x, 1.0))(x)


def swish_sign(x, beta=5.0):
    """s(x); ds/dx = beta (2 - bx tanh(bx/2)) / (1 + cosh(bx)), bx = beta x. BNN+, arXiv:1812.11800."""

    def pseudo_gradient(x):
        bx = beta * x
        return beta * (2.0 - bx * ops.tanh(0.5 * bx)) / (1.0 + ops.cosh(bx))

    return _straight_through(sign, pseudo_gradient)(x)


def ste_heaviside(x, clip_value=1.0):
    """1 if x > 0 else 0; gradient 1 where |x| <= clip_value, else 0."""
    return _straight_through(lambda x: ops.cast(x > 0, x.dtype), lambda x: _inside(x, clip_value))(x)


def ste_step(x, clip_value=1.0):
    """H(x) = 1 if x >= 0 else 0; gradient 1 where |x| <= clip_value, else 0 (everywhere 1 if it is None)."""
    return _straight_through(lambda x: ops.cast(x >= 0, x.dtype), lambda x: _inside(x, clip_value))(x)


def ste_tern(x, threshold_value=0.05, ternary_weight_networks=False, clip_value=1.0):
    """+1 above the threshold, -1 below its negative, else 0; clipped identity gradient. arXiv:1605.04711.

    With `ternary_weight_networks` the threshold is 0.7 mean|x|.
    """

    def forward(x):
        bound = 0.7 * ops.mean(ops.abs(x)) if ternary_weight_networks else threshold_value
        return ops.sign(ops.sign(x + bound) + ops.sign(x - bound))

    return _straight_through(forward, lambda x: _inside(x, clip_value))(x)


def ste_round(x, low=0.0, high=1.0):
    """round(clip(x, low, high)), ties to even; gradient 1 where low <= x <= high, else 0. The code of elastic quantizers."""
    return _straight_through(lambda x: ops.round(ops.clip(x, low, high)), lambda x: ops.cast((x >= low) & (x <= high), x.dtype))(
        x
    )


def dorefa(x, k_bit=2, mode="activations"):
    """round(n y) / n with n = 2**k_bit - 1 steps. DoReFa-Net, arXiv:1606.06160.

    `"activations"`: y = clip(x, 0, 1). `"weights"`: y = tanh(x) / (2 max|tanh(x)|) + 1/2, and the result 2 q - 1. The
    rounding passes the gradient as it is; the maximum is a constant for it.
    """
    steps = 2**k_bit - 1

    def forward(y):
        return ops.round(ops.clip(y, 0.0, 1.0) * steps) / steps

    if mode == "activations":
        return _straight_through(forward, lambda y: ops.cast((y >= 0) & (y <= 1), y.dtype))(x)
    limited = ops.tanh(x)
    largest = ops.stop_gradient(ops.max(ops.abs(limited)))
    return 2.0 * _straight_through(forward, ops.ones_like)(ops.divide_no_nan(limited, 2.0 * largest) + 0.5) - 1.0


# name -> (function, Larq's class, the values it can take)
_FUNCTIONS = {
    "ste_sign": (ste_sign, "SteSign", "sign"),
    "approx_sign": (approx_sign, "ApproxSign", "sign"),
    "swish_sign": (swish_sign, "SwishSign", "sign"),
    "magnitude_aware_sign": (ste_sign, "MagnitudeAwareSign", "sign"),
    "ste_heaviside": (ste_heaviside, "SteHeaviside", "zero_one"),
    "ste_tern": (ste_tern, "SteTern", "ternary"),
    "dorefa_quantizer": (dorefa, "DoReFa", "uniform"),
}


def names():
    """The names that `get` accepts, which are Larq's."""
    return sorted(_FUNCTIONS)


def function(name):
    """The function of a name, in `keras.ops`."""
    return _FUNCTIONS[name][0]


def larq_class(name):
    """The name of Larq's class of that function."""
    return _FUNCTIONS[name][1]


@dataclass(frozen=True)
class Sign:
    """A sign function with its arguments, callable on tensors of any shape.

    Attributes:
        name: one of `names()`.
        arguments: keyword arguments of the Larq quantizer, e.g. `{"clip_value": 1.3}`.
    """

    name: str
    arguments: dict = field(default_factory=dict)

    @property
    def levels(self):
        """`"sign"` for {-1, +1}, `"zero_one"` for {0, 1}, `"ternary"` for {-1, 0, +1}, `"uniform"` for 2**k_bit steps."""
        return _FUNCTIONS[self.name][2]

    @property
    def bits(self):
        """Width of one stored value."""
        return {"ternary": 2, "uniform": self.arguments.get("k_bit", 2)}.get(self.levels, 1)

    def __call__(self, x):
        name = self.name
        if name == "magnitude_aware_sign":
            # Larq's multiplies the scale in; a Code keeps exact signs and their scale apart.
            name = "ste_sign"
        # Larq has its DoReFa as a layer only, which is no function to call.
        if keras.config.backend() == "tensorflow" and self.levels != "uniform":
            return getattr(_larq.load("quantizers"), name)(x, **self.arguments)
        return function(name)(x, **self.arguments)

    def scale(self, x):
        """The magnitude that the quantizer gives its signs: 1.0, or mean|x| per output channel."""
        if self.name != "magnitude_aware_sign":
            return 1.0
        axes = tuple(range(len(x.shape) - 1))
        return ops.stop_gradient(replicas.mean(ops.abs(x), axes))

    def get_config(self):
        return {"name": self.name, "arguments": dict(self.arguments)}


def get(identifier):
    """A `Sign` from its name, Larq's class name, a config or a Larq quantizer instance.

    Raises:
        ValueError: for anything else, naming the known ones and the nearest.
    """
    if isinstance(identifier, Sign):
        return identifier
    if isinstance(identifier, dict) and "name" in identifier:
        return Sign(_known(identifier["name"]), dict(identifier.get("arguments", {})))
    if isinstance(identifier, str):
        return Sign(_known(identifier))
    if type(identifier).__module__ == "larq.quantizers":
        config = identifier.get_config()
        layer_config = {"name", "trainable", "dtype", "metrics"}
        return Sign(_known(type(identifier).__name__), {k: v for k, v in config.items() if k not in layer_config})
    raise ValueError(
        f"a sign must be a name, a Larq quantizer or a config, not {identifier!r}; known names: {', '.join(names())}"
    )


def spellings():
    """Dict from every name of a sign, those of Larq's classes too, to the one of `names()`."""
    return {name: name for name in _FUNCTIONS} | {larq_name: name for name, (_, larq_name, _) in _FUNCTIONS.items()}


def _known(name):
    key = spellings().get(name)
    if key is None:
        hint = checks.did_you_mean(name, spellings())
        raise ValueError(f"unknown quantizer {name!r}; known: {', '.join(names())}{hint}")
    return key
