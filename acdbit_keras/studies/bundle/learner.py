"""A recipe in training on its device, in JAX: images, order, augmentation and steps stay there; the host says how far to go.

The steps are Keras' own, `Model.train_step` of its JAX backend, of the same model that `acdbit_keras.models.train` makes: with
its distillation terms, running statistics, constraints and optimizer. Here they stand in one compiled loop over a part of an
epoch, whose bounds and learning rates are arguments, so that nothing is compiled again when a plan changes.
"""

import contextlib
import math

import jax
import keras
import numpy as np
from jax import numpy as jnp

from acdbit_keras import schemes
from acdbit_keras.distillation import Distiller, LabelDistillation
from acdbit_keras.models import data, norms, optimization
from acdbit_keras.models.callbacks import read_progress, restore_state, save_state
from acdbit_keras.models.data import catalog
from acdbit_keras.models.data.augmentation import resolve
from acdbit_keras.models.data.validation import HeldOut
from acdbit_keras.models.train import network_of, terms_of
from acdbit_keras.studies.bundle import augmentation, weights
from acdbit_keras.studies.bundle.delivery import BEST

# What a key is drawn for; the last in place of an epoch's number.
_ORDER, _AUGMENT = range(2)
_STATISTICS = 1 << 30
_TESTED = 1000  # images at once


class Carried(data.Source):
    """A dataset that came in a bundle, as a source.

    Args:
        facts: `DatasetInfo`.
        splits: dict from split to (images uint8, labels int32).
    """

    kind = "carried"

    def __init__(self, facts, splits):
        self.name = facts.name
        self._facts = facts
        self._splits = splits

    def info(self):
        return self._facts

    def key(self):
        return (self.kind, id(self))

    def is_streamed(self, image_size):
        return False

    def read(self, split, image_size):
        return self._splits[split]


class Learner:
    """One training run.

    Args:
        recipe: `Recipe` of one stage; its epochs do not matter.
        run: `Run`; a state in its folder is gone on from.
        carried: `Carried`.
        teacher: function that makes the untrained network of the teacher, or `None` to train on the labels.
        precision: `"float32"` or `"bfloat16"`, what training computes in; it is tested in float32.
        label_teacher: the same of a teacher of labels, beside or in place of the other; default `None`.

    Attributes:
        network: the student.
        steps: per epoch.
        finished: number of finished epochs.
        best: best validation accuracy so far.
    """

    def __init__(self, recipe, run, carried, teacher, precision, label_teacher=None):
        self.recipe = recipe
        self.run = run
        self.shown = HeldOut(carried, recipe.validation_share, recipe.seed) if recipe.validation_share else carried
        self.carried = carried
        self.facts = self.shown.info()
        self.batch_size = min(recipe.batch_size, self.facts.train_examples)
        self.steps = self.facts.steps_per_epoch(self.batch_size)
        self.finished, self.best = 0, -math.inf
        self._kept = None
        scheme = schemes.get(recipe.scheme)
        augment = resolve(recipe.augment, self.facts)
        self._mixes = augment.mixes_labels
        keras.utils.set_random_seed(recipe.seed)
        with _policy(precision):
            self.network = model = network_of(recipe, scheme, self.facts)
            terms = terms_of(recipe, scheme)
            self.teacher = teacher() if terms and teacher is not None else None
            self.label_teacher = label_teacher() if label_teacher is not None else None
            model = self._distiller(terms)
            loss = None
            if model is self.network or not scheme.distillation:
                loss = optimization.label_loss(self._mixes, self.facts.classes, recipe.label_smoothing)
            self.optimizer = optimization.optimizer(recipe, recipe.learning_rate)
            model.compile(optimizer=self.optimizer, loss=loss, metrics=["accuracy"])
        self.model = model
        self.tester = self.network
        if precision != "float32":
            with _policy("float32"):
                self.tester = network_of(recipe, scheme, self.facts)
        self.optimizer.build(self.network.trainable_variables)
        self._build_metrics()
        self._augment = augmentation.BatchAugmentation(augment, self.facts, self.network.image_size)
        self._rate = [variable.name for variable in self.optimizer.variables].index("learning_rate")
        self._places = [
            _places(of, self.model) for of in (self.network.trainable_variables, self.network.non_trainable_variables)
        ]
        self._key = jax.random.key(recipe.seed)

    def _distiller(self, terms):
        """As `acdbit train` has it: of one teacher, or the labels from one and everything else from another."""
        if self.label_teacher is None:
            return self.network if self.teacher is None else Distiller(self.teacher, self.network, terms)
        labels = [term for term in terms if isinstance(term, LabelDistillation)]
        if self.teacher is None:
            return Distiller(self.label_teacher, self.network, labels)
        given = {term.name: [1, 0] if term in labels else [0, 1] for term in terms}
        return Distiller([self.label_teacher, self.teacher], self.network, terms, given)

    def _build_metrics(self):
        labels = np.zeros((1, self.facts.classes), "float32") if self._mixes else np.zeros(1, "int32")
        self.model.build_metrics(None, labels)

    def load(self):
        """Puts the images on the device."""
        size = self.facts.image_size
        images, labels = self.shown.read("train", size)
        self._train = jax.device_put(images), jax.device_put(labels)
        self._test = _padded(*self.shown.read("test", size))

    def lower(self):
        """Traces the functions; returns them, lowered, for `compile` of each to be called, where does not matter."""
        state = self._state()
        rates = np.zeros(self.steps, "float32")
        step = jax.jit(self._advance, donate_argnums=0).lower(state, *self._train, rates, np.int32(0), np.int32(0), np.int32(0))
        test = jax.jit(self._tested).lower(*self._weights(state), *self._test)
        if not self.recipe.statistics_batches:
            return step, test
        with norms.momentum_of(norms.of(self.network), 0.0):
            return step, test, jax.jit(self._measured).lower(*self._weights(state), *self._train)

    def ready(self, step, test, measured=None):
        """Takes the compiled functions."""
        self._step, self._try, self._measure = step, test, measured

    def begin(self, teacher=None, label_teacher=None, start=None):
        """Starts, or goes on from the state in the run's folder.

        Args:
            teacher: dict from name to array, the weights of the teacher.
            label_teacher: the same of the teacher of labels.
            start: function that gives the network its first weights, of a run that has no epoch yet; `None` leaves them random.
        """
        for network, values in ((self.teacher, teacher), (self.label_teacher, label_teacher)):
            if network is not None:
                weights.assign(network, values)
        self.finished, self.best = read_progress(self.run.state_path)
        if self.finished:
            restore_state(self.run.state_path, self.network, self.optimizer)
        elif start is not None:
            start(self.network)
        self.run.forget_epochs_from(self.finished)
        self.state = self._state()

    def measure(self, count):
        """Runs some steps and a test on copies.

        Args:
            count: of the steps, besides two before.

        Returns:
            `(call, test)`: a function that runs the steps and waits for them, and one that runs the test and what precedes it.
        """
        state = [jax.tree.map(jnp.copy, self.state)]
        rates = np.zeros(self.steps, "float32")

        def steps(number=count):
            last = np.int32(min(number, self.steps))
            state[0] = jax.block_until_ready(self._step(state[0], *self._train, rates, np.int32(0), last, np.int32(0)))

        def test():
            if self._measure is not None:
                jax.block_until_ready(self._measure(*self._weights(state[0]), *self._train))
            self.test()

        steps(2)
        test()
        return steps, test

    def rates(self, total):
        """The learning rates of the next epoch's steps, of a run of `total` epochs."""
        schedule = optimization.learning_rates(self.recipe, total, self.steps)
        first = self.finished * self.steps
        return np.asarray(schedule(np.arange(first, first + self.steps)), "float32")

    def advance(self, rates, first, last):
        """Runs the steps from `first` to `last` of an epoch, and waits for them."""
        epoch = np.int32(self.finished)
        self.state = jax.block_until_ready(self._step(self.state, *self._train, rates, np.int32(first), np.int32(last), epoch))

    def metrics(self):
        """What was measured while training since it was called last: a dict of floats."""
        *state, values = self.state
        with keras.StatelessScope(state_mapping=list(zip(self.model.metrics_variables, values))):
            logs = {key: float(value) for key, value in self.model.get_metrics_result().items()}
        self.state = (*state, [jnp.zeros_like(value) for value in values])
        return logs

    def settle(self):
        """Measures the norms' statistics anew with the weights as they are tested, where the recipe wants it: before a test."""
        if self._measure is None:
            return
        trainable, others, optimizer, metrics = self.state
        moved = self._measure(*self._weights(self.state), *self._train)
        others = list(others)
        for place, value in zip(self._places[1], moved, strict=True):
            others[place] = value
        self.state = trainable, others, optimizer, metrics

    def test(self):
        """`(accuracy, loss)` on the images for validation: share of right classes, and cross-entropy against the labels."""
        right, loss = self._try(*self._weights(self.state), *self._test)
        return float(right) / self.facts.test_examples, float(loss) / self.facts.test_examples

    def test_accuracy(self):
        """Accuracy on the test images, of a run that held some of the others out for validation."""
        images, labels = _padded(*self.carried.read("test", self.facts.image_size))
        right, _ = jax.jit(self._tested)(*self._weights(self.state), images, labels)
        return float(right) / self.carried.info().test_examples

    def finish_epoch(self, accuracy):
        """Counts an epoch, and keeps its weights if they are the best so far."""
        self.finished += 1
        if accuracy > self.best:
            self.best = accuracy
            self._kept = jax.tree.map(jnp.copy, self._weights(self.state))

    def save(self):
        """Writes what a resumed run needs, and the best weights."""
        trainable, others, optimizer, _ = self.state
        for variables, values in (
            (self.model.trainable_variables, trainable),
            (self.model.non_trainable_variables, others),
            (self.optimizer.variables, optimizer),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        if self._kept is not None:
            weights.write(self.run.folder / BEST, self._named(self._kept))
            self._kept = None
        save_state(self.run.state_path, self.network, self.optimizer, self.finished, self.best)

    def weights(self):
        """The weights as they are tested, a dict from name to array."""
        return self._named(self._weights(self.state))

    def _state(self):
        return tuple(
            [variable.value for variable in variables]
            for variables in (
                self.model.trainable_variables,
                self.model.non_trainable_variables,
                self.optimizer.variables,
                self.model.metrics_variables,
            )
        )

    def _weights(self, state):
        """The network's trainable and other values, as it is tested: with moving averages where the optimizer keeps some."""
        trainable, others, optimizer, _ = state
        if self.optimizer.use_ema:
            of = {variable.path: value for variable, value in zip(self.optimizer.variables, optimizer, strict=True)}
            averaged = [of[average.path] for average in self.optimizer._model_variables_moving_average]
            # In the order in which the optimizer was built, which is the network's.
            return averaged, [others[place] for place in self._places[1]]
        return [trainable[place] for place in self._places[0]], [others[place] for place in self._places[1]]

    def _named(self, values):
        variables = [*self.network.trainable_variables, *self.network.non_trainable_variables]
        values = {id(variable): value for variable, value in zip(variables, [*values[0], *values[1]], strict=True)}
        return {name: np.asarray(values[id(variable)]) for name, variable in weights.named(self.network).items()}

    def _batch(self, images, indices):
        images = images[indices]
        size = self.network.image_size
        if images.shape[1] == size:
            return images
        return jax.image.resize(images.astype("float32"), (len(images), size, size, images.shape[3]), "bilinear")

    def _advance(self, state, images, labels, rates, first, last, epoch):
        key = jax.random.fold_in(self._key, epoch)
        order = jax.random.permutation(jax.random.fold_in(key, _ORDER), len(labels))
        key = jax.random.fold_in(key, _AUGMENT)

        def step(index, state):
            indices = jax.lax.dynamic_slice(order, (index * self.batch_size,), (self.batch_size,))
            rows = jax.nn.one_hot(labels[indices], self.facts.classes) if self._mixes else labels[indices]
            batch = self._augment(self._batch(images, indices), rows, jax.random.fold_in(key, index))
            trainable, others, optimizer, metrics = state
            optimizer = [rates[index] if place == self._rate else value for place, value in enumerate(optimizer)]
            _, new = self.model.train_step((trainable, others, optimizer, metrics), batch)
            return jax.tree.map(lambda before, after: after.astype(before.dtype), state, tuple(map(list, new)))

        return jax.lax.fori_loop(first, last, step, state)

    def _measured(self, trainable, others, images, labels):
        """The network's other values behind as many augmented batches, always the same; the norms' are means over these.

        The moving averages are those of the last batch, for it is traced with the momentum 0: see `norms`.
        """
        count = min(self.recipe.statistics_batches, self.steps)
        counted = {id(variable) for variable in norms.variables_of(norms.of(self.network))}
        places = [place for place, variable in enumerate(self.network.non_trainable_variables) if id(variable) in counted]
        key = jax.random.fold_in(self._key, _STATISTICS)
        order = jax.random.permutation(jax.random.fold_in(key, _ORDER), len(labels))
        key = jax.random.fold_in(key, _AUGMENT)

        def batch(index, moved):
            others, sums = moved
            indices = jax.lax.dynamic_slice(order, (index * self.batch_size,), (self.batch_size,))
            rows = jax.nn.one_hot(labels[indices], self.facts.classes) if self._mixes else labels[indices]
            x, _ = self._augment(self._batch(images, indices), rows, jax.random.fold_in(key, index))
            _, new = self.network.stateless_call(trainable, others, x, training=True)
            new = [after.astype(before.dtype) for before, after in zip(others, new, strict=True)]
            return new, [total + new[place] for total, place in zip(sums, places, strict=True)]

        others, sums = jax.lax.fori_loop(0, count, batch, (list(others), [jnp.zeros_like(others[place]) for place in places]))
        for place, total in zip(places, sums, strict=True):
            others[place] = total / count
        return others

    def _tested(self, trainable, others, images, labels):
        size = min(_TESTED, len(labels))

        def batch(index, sums):
            places = index * size + jnp.arange(size)
            x, y = self._batch(images, places), labels[places]
            x = catalog.standardize(x.astype("float32"), self.facts)
            logits, _ = self.tester.stateless_call(trainable, others, x, training=False)
            logits = logits.astype("float32")
            loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
            counted = y >= 0
            return sums[0] + jnp.sum(counted & (jnp.argmax(logits, axis=1) == y)), sums[1] + jnp.sum(
                jnp.where(counted, loss, 0.0)
            )

        return jax.lax.fori_loop(0, len(labels) // size, batch, (jnp.int32(0), jnp.float32(0)))


def _places(variables, model):
    """Where a network's variables are in the lists of the model that trains it."""
    all_of = {}
    for listed in (model.trainable_variables, model.non_trainable_variables):
        all_of |= {id(variable): place for place, variable in enumerate(listed)}
    return [all_of[id(variable)] for variable in variables]


def _padded(images, labels):
    """On the device, filled up to whole batches with images of the class -1."""
    size = min(_TESTED, len(labels))
    more = -len(labels) % size
    images = np.concatenate([images, np.zeros((more, *images.shape[1:]), images.dtype)])
    return jax.device_put(images), jax.device_put(np.concatenate([labels, np.full(more, -1, labels.dtype)]))


@contextlib.contextmanager
def _policy(precision):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
