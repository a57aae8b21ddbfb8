"""Distribution correction as a model: the student trained against a frozen, full-precision teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from acdbit_keras import checks, tracing
from acdbit_keras.distillation.losses import Term
from acdbit_keras.quick_start import QuickStart
from acdbit_keras.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="acdbit")
class Distiller(QuickStart):
    """Trains `student` to follow `teacher`; calling it calls the student.

    Both are run once per step. The teacher is frozen and in inference mode. The loss is the weighted sum of the terms,
    plus whatever `compile(loss=...)` asks for on the true labels; each term is a metric of its own in the progress bar.
    `compile`, `fit`, `evaluate`, `predict`, `save`, callbacks, sample and class weights, `steps_per_execution`,
    `jit_compile` and mixed precision behave as for any Keras model.

    Args:
        teacher: backbone of scheme `"float32"`, or any `keras.Model` that takes `return_taps=True` and has
            `input_shape_of_images`. It is frozen.
        student: backbone to train, in place.
        terms: sequence of terms such as `LabelDistillation()`; default: those of the student's scheme.

    Raises:
        ValueError: if a term needs what the two models do not share, e.g. depth, number of tokens, classes.

    Example:
        >>> import acdbit_keras as acd
        >>> distiller = acd.Distiller(teacher=teacher, student=student)
        >>> distiller.compile(optimizer="adam", metrics=["accuracy"])
        >>> history = distiller.fit(images, labels, epochs=1, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'label_loss', 'loss', 'query_key_loss']
        >>> student.save("student.keras")
    """

    def __init__(self, teacher: keras.Model, student: keras.Model, terms: Sequence[Term] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        terms = student.scheme.distillation if terms is None else terms
        if not terms:
            raise ValueError(
                f"the scheme {student.scheme.name!r} has no distillation of its own; pass terms=, "
                "or train the student with its own fit"
            )
        self.terms = tuple(terms)
        for term in self.terms:
            if not isinstance(term, Term):
                raise ValueError(f"terms must be distillation terms such as LabelDistillation(), not {term!r}")
        self.teacher = teacher
        self.student = student
        self.classes = student.classes
        teacher.trainable = False
        _check_compatible(teacher, student, self.terms)
        self.term_losses = {term.name: keras.metrics.Mean(name=f"{term.name}_loss") for term in self.terms}
        self.built = True

    def fit(self, x: Tensor = None, y: Tensor = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`, after a check that labels are classes and images finite.

        Arrays are checked at once, `tf.data` pipelines batch by batch on the host, where the device is not waited for.

        Raises:
            ValueError: naming the first label outside `[0, classes)` or the first image that is not finite; from inside a
                pipeline it is a `tf.errors.InvalidArgumentError` that names the batch.
        """
        if hasattr(x, "element_spec"):
            if isinstance(x.element_spec, tuple) and len(x.element_spec) > 1:
                x = checks.checked(x, self.student.classes)
        elif y is not None and len(getattr(y, "shape", ())) == 1:
            checks.validate_arrays(x, y, self.student.classes)
        return super().fit(x, y, *args, **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor | dict[str, Any]:
        """The student's logits `(batch, classes)`; while training its logits and taps, for the loss."""
        return self.student(inputs, training=training, return_taps=bool(training))

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
        outputs = self.student(x, training=False, return_taps=True)
        self._track(self.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=False), x)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _track(self, loss, x):
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=ops.shape(x)[0])

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
            outputs = self.student(x, training=False, return_taps=True)
        reference = keras.tree.map_structure(ops.stop_gradient, self.teacher(x, training=False, return_taps=True))
        total = 0.0
        for term in self.terms:
            if term.needs_labels and y is None:
                raise ValueError(f"the term {term.name!r} needs labels, and the data has none")
            per_image = term(reference, outputs, y) if term.needs_labels else term(reference, outputs)
            if sample_weight is not None:
                sample_weight = ops.reshape(ops.cast(sample_weight, per_image.dtype), ops.shape(per_image))
            self.term_losses[term.name].update_state(per_image, sample_weight=sample_weight)
            if sample_weight is not None:
                per_image = per_image * sample_weight
            total = total + term.weight * ops.mean(per_image)
        if self.loss is None:
            return total + sum(self.losses)
        # Keras' own adds `self.losses`.
        return total + super().compute_loss(x, y, outputs["logits"], sample_weight, training)

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict[str, Any]:
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.student.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "student": keras.saving.serialize_keras_object(self.student),
            "terms": [keras.saving.serialize_keras_object(term) for term in self.terms],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distiller:
        config = dict(config)
        for key in ("teacher", "student"):
            config[key] = keras.saving.deserialize_keras_object(config[key])
        config["terms"] = [keras.saving.deserialize_keras_object(term) for term in config["terms"]]
        return cls(**config)


def _check_compatible(teacher, student, terms):
    if tuple(teacher.input_shape_of_images) != tuple(student.input_shape_of_images):
        raise ValueError(
            f"the teacher takes images of shape {tuple(teacher.input_shape_of_images)}, "
            f"the student of {tuple(student.input_shape_of_images)}; they must see the same images"
        )
    ours, theirs = _outputs(student), _outputs(teacher)
    if ours["logits"].shape != theirs["logits"].shape:
        raise ValueError(
            f"the teacher has {theirs['logits'].shape[-1]} classes, the student {ours['logits'].shape[-1]}; they must agree"
        )
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


def _outputs(model):
    """What a model hands out for one image, or its shapes."""
    return tracing.run_once(lambda images: model(images, training=False, return_taps=True), (1, *model.input_shape_of_images))


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
