"""Trains the recipes of a bundle one after the other within a budget of minutes; what was killed is gone on with.

Teachers come before their students. While one run trains, the functions of the others are compiled on the host's processors.
The minutes are shared in proportion to what the epochs of the recipes take: as measured for the run at hand, estimated for
later ones from what their compiled steps move. A run that turns out slower than measured loses epochs, and its schedule ends
with it; none has more epochs than its recipe asks for.
"""

import concurrent.futures
import dataclasses
import math
import pathlib
import time

import jax
import keras

from acdbit_keras import schemes
from acdbit_keras.files import read_json
from acdbit_keras.models.data.base import facts_from_dict
from acdbit_keras.models.recipes import Recipe
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import network_of, result_of
from acdbit_keras.models.zoo.transfer import copy_body
from acdbit_keras.studies.bundle import delivery, plan, store, weights
from acdbit_keras.studies.bundle.delivery import FAILED, MODEL
from acdbit_keras.studies.bundle.learner import Carried, Learner

_TIMED = 5  # steps
_SAID = 60  # seconds between lines
_SAVED = 60  # and between checkpoints, at least
_TURN = 15  # seconds of training at most before the clock is looked at
_DELIVERY = 0.05  # share of the budget that is kept for writing results


class Work:
    """What is to be done with a bundle.

    Args:
        bundle: content of the bundle's `bundle.json`.
        content: folder of what the parts held.
        state: folder of runs and compiled functions.
        out: folder of the results.
        minutes: from `start` on.
        start: `time.monotonic()` when the process began.
        precision: `"float32"`, `"bfloat16"`, or `"auto"` for the latter where there is an accelerator.
    """

    def __init__(self, bundle, content, state, out, minutes, start, precision="auto"):
        self.bundle = bundle
        self.content = pathlib.Path(content)
        self.state = pathlib.Path(state)
        self.out = pathlib.Path(out)
        self.minutes = minutes
        self.start = start
        self.end = start + minutes * 60 * (1 - _DELIVERY)
        device = jax.devices()[0]
        self.device = {"kind": device.device_kind, "platform": device.platform}
        self.precision = precision if precision != "auto" else "float32" if device.platform == "cpu" else "bfloat16"
        self.recipes = {said["name"]: Recipe(**said) for said in bundle["recipes"]}
        self.runs = {name: Run(self.state / "runs" / name) for name in self.recipes}
        self.measured = {}
        self.costs = {}
        self.facts = {
            dataset: read_json(self.content / "data" / folder / store.FACTS) for dataset, folder in bundle["datasets"].items()
        }
        self._said, self._told = 0.0, set()

    def run(self):
        """Trains what is not finished, and writes the results after every run.

        Returns:
            Dict from recipe to the content of its `result.json`, of finished runs.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(self.state / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        self.say(f"{self.device['kind']}, {self.precision}, {self.minutes:g} minutes, {len(self.recipes)} recipes")
        waiting = [name for name, run in self.runs.items() if not run.is_finished and not self._failed(name)]
        if waiting:
            learners = self._assemble(waiting)
            with concurrent.futures.ThreadPoolExecutor(2 * len(learners)) as pool:
                compiling = {name: self._compile(pool, learner) for name, learner in learners.items()}
                for name in list(learners):
                    # Released when it is done: the next one needs the room.
                    if not self._try(name, learners.pop(name), compiling):
                        break
                for each in compiling.values():
                    for future in each:
                        future.cancel()
        self._deliver()
        left = [name for name, run in self.runs.items() if not run.is_finished and not self._failed(name)]
        if left:
            self.say(f"not finished: {', '.join(left)}; the same command goes on with them")
        return {name: run.result for name, run in self.runs.items() if run.is_finished}

    def say(self, text):
        """Prints a line with the time since the start, and adds it to the log."""
        seconds = int(time.monotonic() - self.start)
        line = f"{seconds // 60:02}:{seconds % 60:02}  {text}"
        print(line, flush=True)
        with (self.state / delivery.LOG).open("a") as file:
            file.write(line + "\n")
        self._said = time.monotonic()

    def _assemble(self, names):
        datasets, learners = {}, {}
        for name in names:
            recipe = self.recipes[name]
            if recipe.dataset not in datasets:
                folder = self.content / "data" / self.bundle["datasets"][recipe.dataset]
                datasets[recipe.dataset] = Carried(*store.read(folder))
                self.say(f"{recipe.dataset} is read")
            self.runs[name].write_recipe(recipe)
            needs = self.bundle["needs"][name]
            teacher, label_teacher = (self._maker(needs.get(kind)) for kind in ("teacher", "label_teacher"))
            learners[name] = Learner(
                recipe, self.runs[name], datasets[recipe.dataset], teacher, self._precision(recipe), label_teacher
            )
            learners[name].load()
        return learners

    def _precision(self, recipe):
        return recipe.mixed_precision or self.precision

    def _compile(self, pool, learner):
        lowered = learner.lower()
        self.costs[learner.recipe.name] = _moved(lowered[0]) * learner.steps
        return tuple(pool.submit(each.compile) for each in lowered)

    def _maker(self, name):
        """A function that makes the untrained network of that name, or `None` for no name."""
        if name is None:
            return None
        if name in self.recipes:
            recipe = self.recipes[name]
            facts = facts_from_dict(self.facts[recipe.dataset]["facts"])
            return lambda: network_of(recipe, schemes.get(recipe.scheme), facts)
        return lambda: keras.saving.deserialize_keras_object(self.bundle["networks"][name])

    def _weights(self, name):
        """Trained weights by name, or `None` for no name."""
        if name is None:
            return None
        if name in self.recipes:
            return weights.read(self.runs[name].folder / MODEL)
        return weights.read(self.content / "carried" / self.bundle["carried"][name])

    def _starter(self, name):
        """A function that gives a network the weights it starts from, or `None` for no name."""
        if name is None:
            return None

        def start(network):
            if name not in self.recipes:
                # Made for it where the bundle was packed.
                weights.assign(network, self._weights(name))
                return
            source = self._maker(name)()
            weights.assign(source, self._weights(name))
            try:
                copy_body(source, network)
            except ValueError as error:
                raise FloatingPointError(f"it cannot start from {name}: {error}") from error

        return start

    def _try(self, name, learner, compiling):
        """Trains one run, or says why not; whether there is time for more."""
        try:
            for kind, needed in self.bundle["needs"][name].items():
                if needed in self.recipes and not self.runs[needed].is_finished:
                    raise FloatingPointError(f"its {kind.replace('_', ' ')} {needed} is not finished")
            self._train(name, learner, compiling)
        except FloatingPointError as error:
            self._fail(name, str(error))
        except jax.errors.JaxRuntimeError as error:
            # Most likely the device's memory.
            self._fail(name, f"{str(error).splitlines()[0]}; a smaller batch needs less memory: --set batch_size=N")
        return time.monotonic() < self.end

    def _train(self, name, learner, compiling):
        learner.ready(*(future.result() for future in compiling.pop(name)))
        needs = self.bundle["needs"][name]
        teacher, label_teacher = (self._weights(needs.get(kind)) for kind in ("teacher", "label_teacher"))
        learner.begin(teacher, label_teacher, self._starter(needs.get("start")))
        seconds = self._measure(learner)
        own = self._share(name, learner)
        until = time.monotonic() + own
        total = min(learner.finished + plan.epochs_within(own, seconds), self.recipes[name].epochs)
        speed = learner.steps * learner.batch_size / seconds
        self.say(f"{name}: {total} epochs of {seconds:.2f} s planned, {own / 60:.1f} minutes, {speed:.0f} images/s")
        self._epochs(name, learner, total, until, seconds)
        self._deliver()

    def _measure(self, learner):
        """Seconds of an epoch with its test."""
        steps, test = learner.measure(_TIMED)
        step, tested = _seconds(steps) / min(_TIMED, learner.steps), _seconds(test)
        self.measured[learner.recipe.name] = seconds = step * learner.steps + tested
        learner.seconds_per_step = step
        return seconds

    def _share(self, name, learner):
        """The seconds of a run, of those that are left."""
        factor = self.measured[name] / self.costs[name]
        parts = [
            plan.Part(
                each, max(self.recipes[each].epochs - (learner.finished if each == name else 0), 1), factor * self.costs[each]
            )
            for each in self._left(name)
        ]
        left = self.end - time.monotonic()
        if not learner.finished and not self.runs_done:
            plan.check(parts, left)
        return max(plan.share(parts, left)[name], 0.0)

    @property
    def runs_done(self):
        """Whether any run has made an epoch: then the minutes are no longer refused as too few."""
        return any(run.finished_epochs for run in self.runs.values())

    def _left(self, name):
        names = list(self.recipes)
        return [each for each in names[names.index(name) :] if not self.runs[each].is_finished and not self._failed(each)]

    def _epochs(self, name, learner, total, until, planned):
        run = self.runs[name]
        recipe = dataclasses.replace(self.recipes[name], mixed_precision=_mixed(self._precision(self.recipes[name])))
        saved, times = time.monotonic(), []
        while learner.finished < total:
            began = time.monotonic()
            self._steps(name, learner, total)
            seconds = time.monotonic() - began
            logs = learner.metrics()
            if not math.isfinite(logs["loss"]):
                raise FloatingPointError(
                    f"the loss became {logs['loss']} in epoch {learner.finished + 1}; lower the learning rate"
                )
            learner.settle()
            accuracy, loss = learner.test()
            logs |= {"seconds": seconds, "images_per_second": learner.steps * learner.batch_size / seconds}
            delivery.append_row(run.history_path, learner.finished, {**logs, "val_accuracy": accuracy, "val_loss": loss})
            learner.finish_epoch(accuracy)
            times.append(time.monotonic() - began)
            pace = plan.pace(planned, times)
            if until - time.monotonic() < (total - learner.finished - 0.5) * pace:
                # Slower than it was measured: the schedule ends with the time.
                total = learner.finished + max(round((until - time.monotonic()) / pace), 0)
            if learner.finished == total or time.monotonic() - saved > _SAVED:
                learner.save()
                saved = time.monotonic()
            if time.monotonic() - self._said > _SAID:
                self.say(
                    f"{name}: epoch {learner.finished} of {total}, loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.3f}, "
                    f"test {accuracy:.4f}, {logs['images_per_second']:.0f} images/s"
                )
        run.write_recipe(recipe.replace(epochs=total))
        weights.write(run.folder / MODEL, learner.weights())
        result = result_of(recipe, run) | {"device": self.device["kind"], "minutes": self.minutes}
        if recipe.validation_share:
            result |= {"validation_accuracy": result["accuracy"], "accuracy": learner.test_accuracy()}
        run.write_result(result)
        self.say(f"{name}: finished, accuracy {result['accuracy']:.4f} (best {result['best_accuracy']:.4f}), {total} epochs")

    def _steps(self, name, learner, total):
        """One epoch, a part at a time, so that a line can be said in a long one."""
        rates, first = learner.rates(total), 0
        turn = max(int(_TURN / learner.seconds_per_step), 1)
        while first < learner.steps:
            last = min(first + turn, learner.steps)
            learner.advance(rates, first, last)
            first = last
            if first < learner.steps and time.monotonic() - self._said > _SAID:
                self.say(f"{name}: epoch {learner.finished + 1} of {total}, step {first} of {learner.steps}")

    def _deliver(self):
        for text in delivery.pack(self.runs, self.facts, self.state, self.out):
            if text not in self._told:
                self.say(text)
                self._told.add(text)

    def _failed(self, name):
        return (self.runs[name].folder / FAILED).exists()

    def _fail(self, name, reason):
        self.say(f"{name} failed: {reason}")
        (self.runs[name].folder / FAILED).write_text(f"{reason}\n")


def _mixed(precision):
    return None if precision == "float32" else precision


def _moved(lowered):
    """How much a lowered function moves, to compare such functions with each other."""
    try:
        analysis = lowered.cost_analysis() or {}
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        # Not every device's compiler has it: then all are alike.
        analysis = {}
    return max(float(analysis.get("bytes accessed", 0.0)), 1.0)


def _seconds(call):
    start = time.monotonic()
    call()
    return time.monotonic() - start
