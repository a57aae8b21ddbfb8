"""Variants of a scheme by name: `acd_bit[threshold=mean,restore=dynamic,axis=token]`, as an ablation asks for them.

The options are those of `AlignedSign` and change every one that the scheme has for activations and for the operands of
attention. Values of attention are summed over the tokens, where statistics per token have no meaning: there
`axis=token` and `restore=dynamic` leave the scheme's own choice.
"""

from acdbit_keras import quantizers, signs
from acdbit_keras.quantizers.aligned import AXES, RESTORES, SCALES, THRESHOLDS, TRACKINGS
from acdbit_keras.registry import unknown

_CHOICES = {"threshold": THRESHOLDS, "axis": AXES, "tracking": TRACKINGS, "scale": SCALES, "restore": RESTORES}
_OPTIONS = (*_CHOICES, "sign", "momentum", "batch_share")
_PLACES = ("activation", "hidden", "query", "key", "value")
_PER_TOKEN = {("axis", "token"), ("restore", "dynamic")}


def variant(scheme, name, brackets):
    """The scheme with the options in brackets.

    Args:
        scheme: `Scheme` to vary.
        name: what the variant is called; it keeps that name, without blanks.
        brackets: `"[option=value,...]"`.

    Raises:
        ValueError: brackets that are not closed or empty, an unknown option or value, a scheme without an `AlignedSign`.
    """
    if not brackets.endswith("]") or not brackets[1:-1].strip():
        raise ValueError(f"a variant of a scheme must have the form {scheme.name}[option=value,...], not {name!r}")
    changes = dict(_parse(text, name) for text in brackets[1:-1].split(","))
    replaced = {}
    for place in _PLACES:
        prototype = quantizers.get(getattr(scheme, place))
        if isinstance(prototype, quantizers.AlignedSign):
            over_tokens = prototype.contracts == "tokens"
            here = {key: value for key, value in changes.items() if not (over_tokens and (key, value) in _PER_TOKEN)}
            replaced[place] = quantizers.clone(prototype, **here)
    if not replaced:
        raise ValueError(f"the scheme {scheme.name!r} has no AlignedSign whose options {name!r} could change")
    options = ", ".join(text.strip() for text in brackets[1:-1].split(","))
    return scheme.replace(name=name.replace(" ", ""), title=f"{scheme.title} [{options}]", **replaced)


def _parse(text, name):
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator:
        raise ValueError(f"an option of a scheme must have the form option=value, not {text.strip()!r} in {name!r}")
    if key not in _OPTIONS:
        raise unknown("option of a scheme", key, _OPTIONS)
    if key in _CHOICES:
        value = None if value == "none" and None in _CHOICES[key] else value
        if value not in _CHOICES[key]:
            allowed = ", ".join("none" if choice is None else choice for choice in _CHOICES[key])
            raise ValueError(f"{key} must be one of {allowed}, not {value!r}")
    elif key == "sign":
        value = signs.get(value).name
    else:
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{key} must be a number, not {value!r}") from None
    return key, value
