"""What several schemes put to their places."""

from acdbit_keras.quantizers import AlignedSign


def activations(make):
    """Quantizers for activations and the operands of attention, as fields of a `Scheme`.

    Args:
        make: called once for each place, with the options of `AlignedSign` that differ between places.
    """
    heads = dict(channel_axes=2)
    return {
        "activation": make(),
        "hidden": make(),
        "query": make(**heads),
        "key": make(**heads),
        "value": make(**heads, contracts="tokens"),
    }


def plain_sign(**options):
    """s(x), backward the clipped identity: 1 where |x| <= 1."""
    return AlignedSign(**{**dict(threshold=None, scale=None, restore="off", sign="ste_sign"), **options})
