"""Callbacks of a training run: checkpoints that survive a kill, a guard against NaN, speed in the log."""

import io
import math
import os
import pathlib
import time
import warnings
import zlib

import keras
import numpy as np

from acdbit_keras.files import write_beside
from acdbit_keras.models import hosts
from acdbit_keras.models.optimization import averaged_weights
from acdbit_keras.models.run import previous_state


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops with a FloatingPointError that names the step as soon as the loss is NaN or infinite.

    The losses are read in groups, so that a step never waits for the host.
    """

    def __init__(self, every=50):
        super().__init__()
        self.every = every
        self.epoch = 0
        self.pending = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.pending.append((batch, (logs or {}).get("loss")))
        if len(self.pending) >= self.every:
            self._check()

    def on_epoch_end(self, epoch, logs=None):
        self._check()

    def _check(self):
        pending, self.pending = self.pending, []
        for batch, loss in pending:
            if loss is not None and not math.isfinite(float(loss)):
                raise FloatingPointError(
                    f"the loss became {float(loss)} at step {batch + 1} of epoch {self.epoch + 1}; "
                    "the last checkpoint is from before that. Lower the learning rate or set clip_norm"
                )


class Speed(keras.callbacks.Callback):
    """Adds `seconds` and `images_per_second` of every epoch's training steps to its logs."""

    def __init__(self, images_per_epoch):
        super().__init__()
        self.images_per_epoch = images_per_epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds = time.perf_counter() - self.start

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = self.seconds
        logs["images_per_second"] = self.images_per_epoch / self.seconds


class TestAveragedWeights(keras.callbacks.Callback):
    """Validates the moving averages of the weights, where the optimizer keeps some."""

    def on_test_begin(self, logs=None):
        self._averaged = averaged_weights(self.model.optimizer)
        self._averaged.__enter__()

    def on_test_end(self, logs=None):
        self._averaged.__exit__(None, None, None)


class Checkpoints(keras.callbacks.Callback):
    """Keeps in the run's folder the best model and what a resumed run needs.

    Args:
        run: `Run`.
        network: the model that is being trained: the model itself, or the student of a distiller.
        monitor: validation metric, larger is better.
        best: best value so far, of a resumed run.
    """

    def __init__(self, run, network, monitor="val_accuracy", best=-math.inf):
        super().__init__()
        self.run = run
        self.network = network
        self.monitor = monitor
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self.monitor])
        if value > self.best:
            self.best = value
            with averaged_weights(self.model.optimizer):
                hosts.save(self.run.best_path, self.network)
        if hosts.index() == 0:
            save_state(self.run.state_path, self.network, self.model.optimizer, epoch + 1, self.best)


def save_state(path, network, optimizer, finished_epochs, best):
    """Writes weights, optimizer and random states into one file, complete or not at all; the one before is kept beside it."""
    path = pathlib.Path(path)
    variables = [*network.variables, *optimizer.variables]
    arrays = {f"variable_{i}": keras.ops.convert_to_numpy(variable) for i, variable in enumerate(variables)}
    arrays |= {"finished_epochs": np.asarray(finished_epochs), "best": np.asarray(best)}
    # Serialised in memory: a full disk then ends in one OSError, not in the middle of an archive.
    content = io.BytesIO()
    np.savez(content, checksum=np.asarray(_checksum(arrays), np.uint32), **arrays)

    def write(temporary):
        temporary.write_bytes(content.getbuffer())
        if path.exists():
            os.replace(path, previous_state(path))

    write_beside(path, write)


def read_progress(path):
    """`(finished_epochs, best)` of a run; `(0, -inf)` if it has none yet.

    Raises:
        ValueError: its state is damaged, and there is none of the epoch before.
    """
    state = _sound_state(path)
    return (0, -math.inf) if state is None else (int(state["finished_epochs"]), float(state["best"]))


def restore_state(path, network, optimizer):
    """Reads what `save_state` wrote into a network and an optimizer of the same recipe.

    Raises:
        ValueError: as `read_progress`.
    """
    optimizer.build(network.trainable_variables)
    state = _sound_state(path)
    for index, variable in enumerate([*network.variables, *optimizer.variables]):
        variable.assign(state[f"variable_{index}"])


def _sound_state(path):
    """The arrays of the state at a path, or if that is damaged or missing those of the one before, `None` if there is none.

    A damaged file is removed, so that it is told of once and does not take the place of the sound one.
    """
    path = pathlib.Path(path)
    before = previous_state(path)
    state, fault = _state(path)
    if fault is None and (state is not None or not before.exists()):
        return state
    previous, other_fault = _state(before)
    if previous is None:
        also = f", and so is the one before ({other_fault})" if other_fault else ", and there is none of the epoch before"
        raise ValueError(f"{path} is damaged ({fault}){also}; remove the folder {path.parent} to begin the run anew")
    if fault:
        epochs = int(previous["finished_epochs"])
        warnings.warn(
            f"{path} is damaged ({fault}); the run goes on from the state before it, after epoch {epochs}", stacklevel=4
        )
        path.unlink()
    return previous


def _state(path):
    """`(arrays, fault)` of a state file: its arrays, `None` where it is damaged or missing, and how it is damaged."""
    if not path.exists():
        return None, None
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        checksum = arrays.pop("checksum", None)  # older versions wrote none
        if checksum is not None and int(checksum) != _checksum(arrays):
            return None, "its checksum is wrong"
        missing = [name for name in ("finished_epochs", "best") if name not in arrays]
        return (None, f"it has no {missing[0]}") if missing else (arrays, None)
    except Exception as error:  # numpy and zipfile raise whatever the broken bytes lead them to
        return None, (str(error).strip().splitlines() or [type(error).__name__])[0]


def _checksum(arrays):
    """CRC-32 over names, types, shapes and values."""
    total = 0
    for name, array in sorted(arrays.items()):
        for part in (f"{name} {array.dtype} {array.shape}".encode(), np.ascontiguousarray(array).tobytes()):
            total = zlib.crc32(part, total)
    return total
