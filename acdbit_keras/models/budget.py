"""A training budget in minutes: what a step takes here is measured, and the number of epochs follows."""

from __future__ import annotations

import dataclasses
import math
import time

# Steps that compile and fill the caches, and those that are timed.
_WARM_UP, _TIMED = 3, 12
_TIMED_TEST = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run intends; it is kept in the run's folder.

    Attributes:
        devices: number of devices that share every batch.
        epochs: of the run.
        minutes: the budget that they were planned for, or `None` where the recipe says how many.
        images_per_second: as measured for the plan, or `None`.
        seconds_per_epoch: the same, with the validation after each.
    """

    devices: int
    epochs: int
    minutes: float | None = None
    images_per_second: float | None = None
    seconds_per_epoch: float | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of a training step, of a validation after an epoch, and of the measurement itself."""

    step: float
    validation: float
    spent: float


def measure(model, train_set, test_set, test_batches):
    """Times some steps of a compiled model on the data that it is to be trained on; the model is trained by them.

    Args:
        model: compiled `keras.Model`.
        train_set, test_set: pipelines of batches.
        test_batches: batches in the test set.
    """
    start = time.perf_counter()
    model.fit(train_set.take(_WARM_UP).repeat(), epochs=1, steps_per_epoch=_WARM_UP, shuffle=False, verbose=0)
    timed = train_set.take(_TIMED).repeat()
    step = _seconds(lambda: model.fit(timed, epochs=1, steps_per_epoch=_TIMED, shuffle=False, verbose=0)) / _TIMED
    tested = min(_TIMED_TEST, test_batches)
    model.evaluate(test_set.take(1), verbose=0)
    batch = _seconds(lambda: model.evaluate(test_set.take(tested), verbose=0)) / tested
    return Measured(step, batch * test_batches, time.perf_counter() - start)


def plan(recipe, devices, measured, steps, batch_size):
    """The `Plan` of a recipe with a budget.

    Args:
        recipe: `Recipe`, with `minutes`.
        devices: as of the plan.
        measured: `Measured`.
        steps: per epoch.
        batch_size: images per step.

    Raises:
        ValueError: a budget that is too short for one epoch.
    """
    epoch = steps * measured.step + measured.validation
    epochs = math.floor((recipe.minutes * 60 - measured.spent) / epoch)
    if epochs < 1:
        needed = math.ceil((epoch + measured.spent) / 6) / 10
        raise ValueError(
            f"minutes={recipe.minutes:g} is too short for one epoch of {recipe.name}, "
            f"which needs {needed:g} minutes on this machine"
        )
    return Plan(devices, epochs, recipe.minutes, batch_size / measured.step, epoch)


def describe(plan, recipe, done, seconds_per_epoch):
    """A plan in one line.

    Args:
        plan: `Plan`.
        recipe: `Recipe`.
        done: finished epochs.
        seconds_per_epoch: as the run took for them, or `None`.
    """
    seconds = seconds_per_epoch or plan.seconds_per_epoch
    line = f"{recipe.name}: {plan.epochs} epochs" + (f" planned for {plan.minutes:g} minutes" if plan.minutes else "")
    if done:
        line += f", {done} done"
    if seconds:
        line += f"; about {seconds / 60:.1f} minutes each, {(plan.epochs - done) * seconds / 60:.0f} minutes to go"
    return line


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
