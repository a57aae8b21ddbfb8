"""Variants of a scheme by name: `acd_bit[threshold=mean,restore=dynamic,axis=token]`, as an ablation asks for them.

The options are those of `AlignedSign` and change every one that the scheme has for activations and for the operands of
attention. Values of attention are summed over the tokens, where statistics per token have no meaning: there
`axis=token` and `restore=dynamic` leave the scheme's own choice.

`acd_bit[center=mean]` changes what is taken off the weights before their sign, of a scheme with a `WeightSign`.

`binary_vit[shifts=off]` learns nothing that is added per channel: neither what `Scheme.shifts` names nor thresholds.

`binary_vit[real=weight+activation]` leaves places of the scheme real, which tells what their bits cost.
"""

from acdbit_keras import checks, quantizers, signs
from acdbit_keras.quantizers.aligned import AXES, RESTORES, SCALES, THRESHOLDS, TRACKINGS
from acdbit_keras.quantizers.weights import CENTERS
from acdbit_keras.registry import unknown
from acdbit_keras.schemes.base import PLACES

_CHOICES = {"threshold": THRESHOLDS, "axis": AXES, "tracking": TRACKINGS, "scale": SCALES, "restore": RESTORES}
_OPTIONS = (*_CHOICES, "sign", "momentum", "batch_share")
_CENTER, _SHIFTS = "center", "shifts"
_ALIGNED = ("activation", "hidden", "query", "key", "value")
_REAL = "real"
_UNSHIFTED = {"learned": None, "shifted_median": "median"}
_PER_TOKEN = {("axis", "token"), ("restore", "dynamic")}


def variant(scheme, name, brackets):
    """The scheme with the options in brackets.

    Args:
        scheme: `Scheme` to vary.
        name: what the variant is called; it keeps that name, without blanks.
        brackets: `"[option=value,...]"`.

    Raises:
        ValueError: brackets that are not closed or empty, an unknown option or value, a scheme without an `AlignedSign`,
            a place that is real already.
    """
    if not brackets.endswith("]") or not brackets[1:-1].strip():
        raise ValueError(f"a variant of a scheme must have the form {scheme.name}[option=value,...], not {name!r}")
    changes = dict(_parse(text, name) for text in brackets[1:-1].split(","))
    replaced = _real(scheme, changes.pop(_REAL, ()), name)
    if _CENTER in changes:
        replaced |= _centered(scheme.replace(**replaced), changes.pop(_CENTER), name)
    if changes.pop(_SHIFTS, True) is False:
        replaced |= {"shifts": False, **_unshifted(scheme.replace(**replaced))}
    aligned = _aligned(scheme.replace(**replaced), changes) if changes else {}
    if changes and not aligned:
        raise ValueError(f"the scheme {scheme.name!r} has no AlignedSign whose options {name!r} could change")
    options = ", ".join(text.strip() for text in brackets[1:-1].split(","))
    return scheme.replace(name=name.replace(" ", ""), title=f"{scheme.title} [{options}]", **replaced, **aligned)


def _real(scheme, places, name):
    """The places without their quantizers, as fields of a scheme."""
    for place in places:
        if getattr(scheme, place) is None:
            raise ValueError(f"{place} is real in the scheme {scheme.name!r} already, so {name!r} says nothing")
    return dict.fromkeys(places)


def _centered(scheme, center, name):
    """The weights' quantizer with another centre, as a field of a scheme."""
    prototype = quantizers.get(scheme.weight)
    if not isinstance(prototype, quantizers.WeightSign):
        raise ValueError(f"the scheme {scheme.name!r} has no WeightSign whose center {name!r} could change")
    return {"weight": quantizers.clone(prototype, center=center)}


def _unshifted(scheme):
    """The places whose thresholds are learned, without what is learned of them, as fields of a scheme."""
    places = {place: quantizers.get(getattr(scheme, place)) for place in _ALIGNED}
    return {
        place: quantizers.clone(prototype, threshold=_UNSHIFTED[prototype.threshold])
        for place, prototype in places.items()
        if isinstance(prototype, quantizers.AlignedSign) and prototype.threshold in _UNSHIFTED
    }


def _aligned(scheme, changes):
    """The places that have an `AlignedSign`, with these of its options changed, as fields of a scheme."""
    replaced = {}
    for place in _ALIGNED:
        prototype = quantizers.get(getattr(scheme, place))
        if isinstance(prototype, quantizers.AlignedSign):
            over_tokens = prototype.contracts == "tokens"
            here = {key: value for key, value in changes.items() if not (over_tokens and (key, value) in _PER_TOKEN)}
            replaced[place] = quantizers.clone(prototype, **here)
    return replaced


def _parse(text, name):
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator:
        raise ValueError(f"an option of a scheme must have the form option=value, not {text.strip()!r} in {name!r}")
    known = (*_OPTIONS, _CENTER, _SHIFTS, _REAL)
    if key not in known:
        raise unknown("option of a scheme", key, known)
    if key == _REAL:
        places = tuple(place.strip() for place in value.split("+"))
        for place in places:
            if place not in PLACES:
                raise unknown("place of a scheme", place, PLACES)
        return key, places
    if key == _SHIFTS:
        checks.choice(key, value, ("on", "off"))
        return key, value == "on"
    if choices := {**_CHOICES, _CENTER: CENTERS}.get(key):
        value = None if value == "none" and None in choices else value
        if value not in choices:
            checks.choice(key, value, ["none" if choice is None else choice for choice in choices])
    elif key == "sign":
        value = signs.get(value).name
    else:
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{key} must be a number, not {value!r}") from None
    return key, value
