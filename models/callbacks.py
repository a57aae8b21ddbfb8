"""Callbacks of a training run: checkpoints that survive a kill, a guard against NaN, speed in the log."""

import json
import math
import os
import pathlib
import time

import keras


def write_beside(path, write):
    """Writes a file under a temporary name of the same suffix and renames it, so that `path` is never half-written.

    Args:
        path: the file.
        write: called with the temporary path.

    Raises:
        OSError: naming the file and the reason; an older file at `path` is untouched.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{''.join(path.suffixes[-2:])}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; what was there before is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


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


class Checkpoints(keras.callbacks.Callback):
    """Keeps in the run's folder what a resumed run needs (`last.weights.h5`, `state.json`) and the best model.

    Args:
        folder: the run's folder.
        keep: the model whose best state is saved as `best.keras`: the model itself, or the student of a distiller.
        monitor: validation metric, larger is better.
        best: best value so far, of a resumed run.
    """

    def __init__(self, folder, keep, monitor="val_accuracy", best=-math.inf):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self.monitor = monitor
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        value = float(logs[self.monitor])
        if value > self.best:
            self.best = value
            write_beside(self.folder / "best.keras", self.keep.save)
        write_beside(self.folder / f"epoch{epoch + 1}.weights.h5", self.model.save_weights)
        # The state is the last thing written: it names a set of weights that is complete.
        state = {"finished_epochs": epoch + 1, "best": self.best, "weights": f"epoch{epoch + 1}.weights.h5"}
        write_beside(self.folder / "state.json", lambda path: path.write_text(json.dumps(state)))
        for old in self.folder.glob("epoch*.weights.h5"):
            if old.name != state["weights"]:
                old.unlink()
