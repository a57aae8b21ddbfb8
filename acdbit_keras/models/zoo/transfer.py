"""From one trained backbone to the next: a new head, real weights for stored signs, what is frozen."""

from __future__ import annotations

import contextlib

import keras
from keras import ops

from acdbit_keras import checks, quantizers, schemes
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.zoo.compact import dense_layers, float_variables, name_in_model
from acdbit_keras.quantizers import StoredSign
from acdbit_keras.quantizers.latent import latent_kernel

HEAD = "classifier"


def transfer(model: Backbone, classes: int | None = None, trainable: bool = True) -> Backbone:
    """A backbone that starts where another one ended, to be trained further or on other classes.

    Where the other one has the signs of its kernels only, as those of a zoo do, it gets real weights from which its scheme's
    quantizer makes the same signs with the same scales, so that it computes the same before its first step. The other one is
    left as it is.

    Args:
        model: trained backbone.
        classes: number of classes of a new, untrained head; `None`, the default, keeps the head.
        trainable: whether all of it is trained, the default. Otherwise the body is frozen: with `classes` the new head alone is
            trained, without nothing.

    Raises:
        ValueError: not a backbone, `classes` below 1, or a scheme whose quantizer makes such signs of no real weights.

    Example:
        >>> import acdbit_keras as acd
        >>> import keras
        >>> body = acd.models.from_zoo("digits_vit_nano_acd_bit")
        >>> model = acd.models.transfer(body, classes=3)
        >>> model.classes, model.scheme.name, len(model.frozen)
        (3, 'acd_bit', 0)
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    """
    if not isinstance(model, Backbone):
        raise ValueError(f"model must be a backbone of this package, not {type(model).__name__}")
    if classes is not None:
        checks.integer("classes", classes, 1)
    config = {key: value for key, value in model.get_config().items() if key not in ("trainable", "frozen", "name")}
    config["scheme"] = _trained_scheme(model)
    config["classes"] = classes or model.classes
    with _single_precision():
        copy = type(model)(**config)
    copy_body(model, copy)
    if classes is None:
        for ours, theirs in zip(copy.classifier.variables, model.classifier.variables):
            ours.assign(theirs.value)
        copy.trainable = bool(trainable)
    elif not trainable:
        copy.freeze_body()
    return copy


def copy_body(source: Backbone, network: Backbone) -> None:
    """Gives a network all weights of another but those of the head; its binary kernels real ones of the same signs.

    Args:
        source: trained backbone, which may have stored signs.
        network: of the same sizes; its scheme may be another one where it has weights of the same names.

    Raises:
        ValueError: naming the first weight that the source does not have in this shape.
    """
    stored = {id(dense.kernel): dense for dense in dense_layers(source) if isinstance(dense.kernel_quantizer, StoredSign)}
    theirs = {name_in_model(variable): variable for variable in float_variables(source)}
    ours = {id(dense.kernel): dense for dense in dense_layers(network)} if stored else {}
    factors = {id(q.factor): q for q in _probabilities(network) if hasattr(q, "factor")}
    for variable in float_variables(network):
        name = name_in_model(variable)
        if name.startswith(f"{HEAD}/"):
            continue
        found = theirs.get(name)
        if found is None and id(variable) in factors and (scale := theirs.get(f"{name.removesuffix('factor')}scale")) is not None:
            # Learned itself, by an older version; here as a factor of its start, which is what a new one has.
            variable.assign(scale.value / factors[id(variable)].bounded_scale())
        elif found is None or tuple(found.shape) != tuple(variable.shape):
            # What a quantizer of another scheme tracks or measures begins anew.
            if variable.trainable and not _of_kernel_quantizer(name):
                raise ValueError(
                    f"the trained model has no weight {name} of the shape {tuple(variable.shape)}; "
                    "both models must be of one preset, and of schemes with the same block"
                )
        elif id(found) in stored:
            dense, kernel = ours[id(variable)], stored[id(found)].kernel_code().map(ops.convert_to_numpy)
            binary = dense.kernel_quantizer.is_binary
            variable.assign(latent_kernel(dense.kernel_quantizer, kernel) if binary else kernel.decode())
        elif not (stored and _of_kernel_quantizer(name)):
            variable.assign(found.value)


def _probabilities(network):
    return [block.attention.probabilities_quantizer for block in network.blocks]


def _of_kernel_quantizer(name):
    # A scheme names the quantizer of a kernel after its place.
    return "weight" in name.split("/")[:-1]


def _trained_scheme(model):
    """The scheme of a model with the quantizer that its kernels were trained with."""
    if not isinstance(quantizers.get(model.scheme.weight), StoredSign):
        return model.scheme
    try:
        known = schemes.get(model.scheme.name)
    except ValueError:
        known = None
    if known is not None and quantizers.get(known.weight).is_binary and known.block == model.scheme.block:
        # All else as the entry has it: a version since may have changed a default.
        return model.scheme.replace(weight=known.weight, distillation=known.distillation)
    # A scheme that is not known here: its name does not say how its weights became signs.
    restore = quantizers.get(model.scheme.weight).restore
    own = quantizers.WeightSign(center="mean" if restore else None, scale="mean_abs", restore=restore)
    return model.scheme.replace(weight=own)


@contextlib.contextmanager
def _single_precision():
    """Builds in float32, whatever the policy is: weights are, and a loaded model runs as its surroundings say."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
