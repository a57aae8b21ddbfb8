"""Distribution correction as a model: the student trained against frozen, full-precision teachers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from acdbit_keras import registration, replicas, targets, tracing
from acdbit_keras.distillation import batches
from acdbit_keras.distillation.losses import LabelDistillation, Term
from acdbit_keras.quick_start import QuickStart
from acdbit_keras.typing import Path, Shape, Tensor


@keras.saving.register_keras_serializable(package="acdbit")
class Distiller(QuickStart):
    """Trains `student` to follow `teacher`; calling it calls the student.

    Both are run once per step. The teacher is frozen and in inference mode. The loss is the weighted sum of the terms,
    plus whatever `compile(loss=...)` asks for on the true labels; each term is a metric of its own in the progress bar.
    `compile`, `fit`, `evaluate`, `predict`, `save`, callbacks, sample and class weights, `steps_per_execution`,
    `jit_compile` and mixed precision behave as for any Keras model.

    Teacher and student are any built Keras models with one output: `LabelDistillation` needs their logits alone. What `compile`
    is given as the loss says what these are, see `acdbit_keras.targets`: classes, the default, several labels at once
    (`BinaryCrossentropy`) or numbers (`MeanSquaredError` and its like), and the term follows. Terms that compare blocks need
    models that take `return_taps=True`, as our backbones do. Images are resized for whichever of the two takes another size.

    Args:
        teacher: backbone of scheme `"float32"`, any built `keras.Model` that gives logits, or the path of a saved one; or a
            sequence of these, whose terms are averaged. It is frozen.
        student: model to train, in place.
        terms: sequence of terms such as `LabelDistillation()`; default: those of the student's scheme, and
            `LabelDistillation()` of a student without one.
        teacher_weights: of several teachers, at least 0 each; what counts is their share of the sum. Or a dict from the name of
            a term to such weights: then one teacher, say a fast convolutional network, teaches the labels and another query and
            key, `{"label": [1, 0], "query_key": [0, 1]}`. A teacher needs only what the terms compare that it has a weight in.
            Default: equal ones.
        teacher_preprocessing: function or layer that makes the teacher's inputs of the student's, e.g. what undoes a
            normalisation; of several teachers a sequence, `None` for as they are. Default: as they are.

    Raises:
        ValueError: if a term needs what the two models do not have or share, e.g. taps, depth, number of tokens, classes.

    Example:
        >>> import acdbit_keras as acd
        >>> distiller = acd.Distiller(teacher=teacher, student=student)
        >>> distiller.compile(optimizer="adam", metrics=["accuracy"])
        >>> history = distiller.fit(images, labels, epochs=1, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'label_loss', 'loss', 'query_key_loss']
        >>> student.save("student.keras")
    """

    def __init__(
        self,
        teacher: keras.Model | Path | Sequence[keras.Model | Path],
        student: keras.Model,
        terms: Sequence[Term] | None = None,
        teacher_weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
        teacher_preprocessing: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor] | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        self.terms = _terms(student, terms)
        self.student = _model(student, "student")
        self.teachers = [_model(each, "teacher") for each in teachers]
        if not teachers:
            raise ValueError("teacher must be a model or several, not none")
        self.shares = _shares_of_terms(teacher_weights, self.terms, len(teachers))
        several = isinstance(teacher_preprocessing, (list, tuple))
        self.preprocessing = list(teacher_preprocessing) if several else [teacher_preprocessing] * len(teachers)
        if len(self.preprocessing) != len(teachers):
            raise ValueError(f"teacher_preprocessing has {len(self.preprocessing)} entries for {len(teachers)} teachers")
        for each in self.teachers:
            each.trainable = False
        self._taps = any(term.taps for term in self.terms)
        self.classes = self._check_compatible()
        self._set_kind(None)
        self.term_losses = {term.name: keras.metrics.Mean(name=f"{term.name}_loss") for term in self.terms}
        self.built = True

    @property
    def teacher(self) -> keras.Model:
        """The teacher, of several the first."""
        return self.teachers[0]

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.compile`; the loss says what the labels are, which the terms follow.

        Raises:
            ValueError: for a term that says nothing about such labels, or a model that ends in a softmax or sigmoid where the
                term needs logits.
        """
        self._set_kind(loss)
        super().compile(optimizer, loss, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras' own, which leaves out models with a `compile` of theirs."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _set_kind(self, loss):
        self.kind = targets.kind_of(loss, self.classes)
        self._active = [term.towards(self.kind, self.classes) for term in self.terms]
        if any(getattr(term, "form", None) in ("softmax", "sigmoid") for term in self._active):
            for role, model in (("student", self.student), *(("teacher", each) for each in self.teachers)):
                if activation := _last_activation(model):
                    raise ValueError(
                        f"the {role} {model.name!r} ends in a {activation}, and the term 'label' needs logits; build it without, "
                        "e.g. classifier_activation=None"
                    )

    def fit(self, x: Tensor = None, y: Tensor = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`, after a check that labels are what the loss compares with, and images finite.

        Arrays are checked at once, `tf.data` pipelines and `PyDataset`s batch by batch on the host, where the device is not
        waited for.

        Raises:
            ValueError: naming the first label outside of its range, e.g. `[0, classes)`, or the first image that is not finite;
                from inside a pipeline it is a `tf.errors.InvalidArgumentError` that names the batch.
        """
        if self.kind is not None:
            if y is None:
                x = batches.checked(x, self.classes, self.kind)
            else:
                targets.check_inputs(x)
                targets.check(y, self.classes, self.kind, rows=len(keras.tree.flatten(x)[0]))
        return super().fit(x, y, *args, **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor | dict[str, Any]:
        """The student's logits `(batch, classes)`; while training its logits and taps, for the loss."""
        outputs = self._student_outputs(inputs, training)
        return outputs if training else outputs["logits"]

    def _student_outputs(self, inputs, training):
        # Taps that nobody reads are not computed: the graph drops them.
        return _outputs(self.student, _resized(self.student, inputs), training, self._taps and bool(training is not None))

    def train_step(self, *args: Any) -> Any:
        """One step of distillation; on JAX Keras' own stateless step with the same `compute_loss`."""
        if keras.config.backend() != "tensorflow":
            return super().train_step(*args)
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(args[0])
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights))
        self._track(loss, x)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def test_step(self, *args: Any) -> Any:
        """As Keras' own, but the student runs once, logits and taps together."""
        if keras.config.backend() != "tensorflow":
            return super().test_step(*args)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(args[0])
        outputs = self._student_outputs(x, False)
        self._track(self.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=False), x)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _track(self, loss, x):
        loss = replicas.total(loss)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=ops.shape(keras.tree.flatten(x)[0])[0])

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor | None = None,
        y_pred: Tensor | dict[str, Any] | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Weighted sum of the terms, mean over the batch. `y` is for terms that need the labels and `compile(loss=...)`."""
        outputs = y_pred
        if not isinstance(outputs, dict):
            # JAX's evaluation hands over the logits alone. Compiled, this second call merges with the first.
            outputs = self._student_outputs(x, False) if self._taps else {"logits": outputs}
        references = [self._reference(index, x) if self._terms_of(index) else None for index in range(len(self.teachers))]
        total = 0.0
        for term in self._active:
            if term.needs_labels and y is None:
                raise ValueError(f"the term {term.name!r} needs labels, and the data has none")
            per_image = 0.0
            for share, reference in zip(self.shares[term.name], references):
                if share == 0.0:
                    continue
                distance = term(reference, outputs, y) if term.needs_labels else term(reference, outputs)
                per_image = per_image + (distance if share == 1.0 else share * distance)
            if sample_weight is not None:
                sample_weight = ops.reshape(ops.cast(sample_weight, per_image.dtype), ops.shape(per_image))
            self.term_losses[term.name].update_state(per_image, sample_weight=sample_weight)
            if sample_weight is not None:
                per_image = per_image * sample_weight
            total = total + term.weight * replicas.share_of_mean(per_image)
        if self.loss is None:
            return total + sum(self.losses) / replicas.number()
        # Keras' own adds `self.losses`.
        return total + super().compute_loss(x, y, outputs["logits"], sample_weight, training)

    def _reference(self, index, x):
        """What a teacher says to a batch, as constants."""
        teacher, prepare = self.teachers[index], self.preprocessing[index]
        inputs = _resized(teacher, x if prepare is None else prepare(x))
        taps = any(term.taps for term in self._terms_of(index))
        return keras.tree.map_structure(ops.stop_gradient, _outputs(teacher, inputs, False, taps))

    def _terms_of(self, index):
        """The terms that a teacher takes part in."""
        return [term for term in self.terms if self.shares[term.name][index] > 0.0]

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict[str, Any]:
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.student.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        config = {
            "name": self.name,
            "teacher": [serialize(teacher) for teacher in self.teachers],
            "student": serialize(self.student),
            "terms": [serialize(term) for term in self.terms],
        }
        if len(self.teachers) > 1:
            config["teacher_weights"] = self.shares
        if any(each is not None for each in self.preprocessing):
            config["teacher_preprocessing"] = [each and serialize(each) for each in self.preprocessing]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distiller:
        config, load = dict(config), keras.saving.deserialize_keras_object
        # Files from before there were several have one.
        teachers = config["teacher"] if isinstance(config["teacher"], list) else [config["teacher"]]
        config["teacher"] = [load(teacher) for teacher in teachers]
        config["student"] = load(config["student"])
        config["terms"] = [load(term) for term in config["terms"]]
        if "teacher_preprocessing" in config:
            config["teacher_preprocessing"] = [each and load(each) for each in config["teacher_preprocessing"]]
        return cls(**config)

    def _check_compatible(self):
        """Checks that every term has what it compares; returns the number of outputs."""
        ours = _example_outputs(self.student, "student", self.terms, None)
        for index, (teacher, prepare) in enumerate(zip(self.teachers, self.preprocessing)):
            _check_inputs(teacher, self.student, prepare)
            terms = self._terms_of(index)
            theirs = _example_outputs(teacher, "teacher", terms, self.student)
            if ours["logits"].shape[-1] != theirs["logits"].shape[-1]:
                counts = theirs["logits"].shape[-1], ours["logits"].shape[-1]
                raise ValueError(f"the teacher has {counts[0]} classes, the student {counts[1]}; they must agree")
            _check_taps(ours, theirs, terms)
        return ours["logits"].shape[-1]


def _terms(student, terms):
    """The terms that are given, those of the student's scheme, or that of the labels."""
    scheme = getattr(student, "scheme", None)
    if terms is None:
        terms = (LabelDistillation(),) if scheme is None else scheme.distillation
    if not terms:
        raise ValueError(
            f"the scheme {scheme.name!r} has no distillation of its own; pass terms=, or train the student with its own fit"
            if scheme is not None
            else "terms must hold one term at least"
        )
    for term in terms:
        if not isinstance(term, Term):
            raise ValueError(f"terms must be distillation terms such as LabelDistillation(), not {term!r}")
    return tuple(terms)


def _model(model, role):
    """A built model, loaded where it is a path."""
    if isinstance(model, (str, os.PathLike)):
        registration.complete()
        try:
            model = keras.saving.load_model(model, compile=False)
        except (ValueError, OSError) as error:
            raise ValueError(f"the {role} {os.fspath(model)} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"the {role} must be a keras.Model, not {type(model).__name__}")
    if not model.built:
        raise ValueError(f"the {role} {model.name!r} is not built: call it on a batch first")
    return model


def _shares_of_terms(weights, terms, count):
    """Dict from a term's name to the share of each teacher."""
    if not isinstance(weights, Mapping):
        return {term.name: _shares(weights, count) for term in terms}
    names = [term.name for term in terms]
    if missing := [name for name in weights if name not in names] or [name for name in names if name not in weights]:
        raise ValueError(f"teacher_weights must name the terms {', '.join(names)}, each once; {missing[0]!r} is in one of both")
    return {name: _shares(weights[name], count) for name in names}


def _shares(weights, count):
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count or not all(weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"teacher_weights must be {count} numbers of at least 0, one above it, not {weights!r}")
    return [float(weight) / float(sum(weights)) for weight in weights]


def _has_taps(model):
    return "return_taps" in inspect.signature(model.call).parameters


def _outputs(model, inputs, training, taps):
    """`{"logits": ..., "taps": ...}` of a model, the second of what has some and where they are wanted."""
    outputs = model(inputs, training=training, **({"return_taps": True} if taps and _has_taps(model) else {}))
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


def _image_shape(model):
    """Shape of one image that a model takes, `None` where it takes something else or does not say."""
    if hasattr(model, "input_shape_of_images"):
        return tuple(model.input_shape_of_images)
    shape = getattr(model, "input_shape", None)
    return tuple(shape[1:]) if isinstance(shape, tuple) and len(shape) == 4 else None


def _resized(model, images):
    """Images of the size that a model takes, in its channels where they are gray."""
    shape = _image_shape(model)
    if shape is None or not hasattr(images, "shape") or len(images.shape) != 4:
        return images
    if None not in shape[:2] and None not in images.shape[1:3] and tuple(images.shape[1:3]) != shape[:2]:
        images = ops.image.resize(images, shape[:2], antialias=True, data_format="channels_last")
    if images.shape[-1] == 1 and shape[-1] not in (None, 1):
        images = ops.repeat(images, shape[-1], axis=-1)
    return images


def _check_inputs(teacher, student, prepare):
    theirs, ours = _image_shape(teacher), _image_shape(student)
    if prepare is None and theirs and ours and theirs[-1] not in (None, ours[-1]) and ours[-1] != 1:
        raise ValueError(
            f"the teacher takes images of shape {theirs}, the student of {ours}; teacher_preprocessing must give it its channels"
        )


def _example_outputs(model, role, terms, other):
    """Outputs for images of zeros, or symbolic ones where the model is of Keras' own kinds."""
    taps = [term.name for term in terms if term.taps]
    if taps and not _has_taps(model):
        raise ValueError(
            f"the term {taps[0]!r} compares taps of the blocks, and the {role} {model.name!r}, a {type(model).__name__}, has "
            "none, for it does not take return_taps=True; terms=[LabelDistillation()] needs logits alone"
        )
    graph = getattr(model, "outputs", None)
    if graph:
        outputs = graph[0] if len(graph) == 1 else None
    else:
        shape = _image_shape(model) or (other is not None and _image_shape(other))
        if not shape or None in shape:
            raise ValueError(f"the {role} {model.name!r} does not say the shape of its inputs; give it an input_shape_of_images")
        outputs = tracing.run_once(lambda images: _outputs(model, images, False, bool(taps)), (1, *shape))
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    if "logits" not in outputs or not hasattr(outputs["logits"], "shape"):
        raise ValueError(f"the {role} {model.name!r} must give one output, its logits")
    return outputs


def _last_activation(model):
    """`"softmax"` or `"sigmoid"` where a model ends in one."""
    last = (getattr(model, "layers", None) or [None])[-1]
    if isinstance(last, keras.Model):
        return _last_activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    name = getattr(getattr(last, "activation", None), "__name__", None)
    return name if name in ("softmax", "sigmoid") else None


def _check_taps(ours, theirs, terms):
    taps = dict.fromkeys(tap for term in terms for tap in term.taps)
    if not taps:
        return
    if len(ours["taps"]) != len(theirs["taps"]):
        paired = ", ".join(term.name for term in terms if term.taps)
        raise ValueError(
            f"the teacher has {len(theirs['taps'])} blocks, the student {len(ours['taps'])}; "
            f"the distillation of {paired.replace('_', '-')} pairs them one to one"
        )
    for index, (mine, other) in enumerate(zip(ours["taps"], theirs["taps"])):
        for tap in taps:
            _check_same_shape(index, tap, mine[tap].shape, other[tap].shape, terms)


def _check_same_shape(index, tap, mine, other, terms):
    kinds = ("rows", "columns", "channels") if tap == "features" else ("tokens", "heads", "channels of a head")
    for kind, size, other_size in zip(kinds, mine[1:], other[1:], strict=True):
        if size == other_size:
            continue
        if not kind.startswith("channels"):
            raise ValueError(f"block {index}: the teacher has {other_size} {tap} {kind}, the student {size}; they must agree")
        strict = [term.name for term in terms if tap in term.taps and term.same_width]
        if strict:
            raise ValueError(
                f"block {index}: the teacher has {other_size} {tap} {kind}, the student {size}; "
                f"the term {strict[0]!r} needs equal widths, a comparison of gram matrices does not"
            )
