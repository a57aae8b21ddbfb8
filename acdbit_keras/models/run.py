"""What a run's folder holds.

    recipe.json       the recipe as it was run
    plan.json         how many epochs, on how many devices, and, of a run with a budget, in how many minutes
    data.json         of images of your own: where they are, their classes, split and normalisation
    history.csv       one row per epoch, of all stages
    tensorboard/      the same for TensorBoard
    stage_0.keras     the model at the end of the first stage, of a scheme with several; it is the start of the next
    best.keras        the model of the best epoch by validation accuracy, of the stage at hand
    model.keras       the model of the last epoch, once the run is finished
    result.json       final and best accuracy, time, images per second, once the run is finished
    state.npz         what a resumed run needs: weights, optimizer and random states after the last epoch
    state_before.npz  the same after the epoch before, for the case that the other one is damaged
    lock              while a process trains: which one

A run of a scheme without training (`Scheme.post_training`) has no history and no state.
"""

import contextlib
import csv
import fcntl
import os
import pathlib
import socket
import statistics

from acdbit_keras.files import read_json, remove_leftovers, write_beside, write_json
from acdbit_keras.models import data
from acdbit_keras.models.recipes import Recipe


class Busy(BlockingIOError, ValueError):
    """Another process trains in the folder of a run, `run`."""

    def __init__(self, message, run):
        super().__init__(message)
        self.run = run


def previous_state(path):
    """Path of the state of the epoch before, beside that of the last one."""
    return path.with_name(f"{path.stem}_before{path.suffix}")


class Run:
    """The folder of a training run, which need not be there yet.

    Args:
        folder: path of the folder.

    Attributes:
        folder: `pathlib.Path`.
        recipe_path, plan_path, data_path, history_path, best_path, model_path, result_path, state_path, tensorboard_path: of
            what is in it.

    Example:
        >>> from acdbit_keras.models.run import Run
        >>> run = Run("runs/digits_acd_bit")
        >>> run.model_path.as_posix(), run.is_finished
        ('runs/digits_acd_bit/model.keras', False)
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.recipe_path = self.folder / "recipe.json"
        self.plan_path = self.folder / "plan.json"
        self.data_path = self.folder / data.STORED
        self.history_path = self.folder / "history.csv"
        self.best_path = self.folder / "best.keras"
        self.model_path = self.folder / "model.keras"
        self.result_path = self.folder / "result.json"
        self.state_path = self.folder / "state.npz"
        self.previous_state_path = previous_state(self.state_path)
        self.lock_path = self.folder / "lock"
        self.tensorboard_path = self.folder / "tensorboard"

    @classmethod
    def around(cls, path):
        """The run whose folder a path is, or whose folder the file at that path lies in."""
        path = pathlib.Path(path)
        return cls(path if path.is_dir() else path.parent)

    def stage_path(self, index):
        """Path of the model at the end of a stage, counted from 0."""
        return self.folder / f"stage_{index}.keras"

    @property
    def exists(self):
        """Whether the folder holds a run, finished or not."""
        return self.recipe_path.exists()

    @property
    def is_finished(self):
        return self.exists and self.result_path.exists()

    @property
    def trained_path(self):
        """Path of the model to take: that of the last epoch, before the end of the run that of the best one; or `None`."""
        return next((path for path in (self.model_path, self.best_path) if path.exists()), None)

    @property
    def recipe(self):
        """The `Recipe` that the run is made with.

        Raises:
            ValueError: the folder holds no run, or one whose recipe this version cannot read.
        """
        if not self.exists:
            name = self.recipe_path.name
            raise ValueError(f"{self.folder} is not a run: it has no {name}; `acdbit train RECIPE --out {self.folder}` makes one")
        try:
            return Recipe(**read_json(self.recipe_path))
        except TypeError as error:
            raise ValueError(f"{self.recipe_path} is not a recipe of this version of acdbit-keras: {error}") from error

    @property
    def dataset(self):
        """What `data.source` takes for the data that the run was trained on, as it found them.

        Raises:
            ValueError: the folder holds no run.
        """
        return str(self.data_path) if self.data_path.exists() else self.recipe.dataset

    @property
    def result(self):
        """What the finished run gave: a dict of accuracies, epochs, seconds, images per second, backend.

        Raises:
            ValueError: the folder holds no run, or one that is not finished.
        """
        recipe = self.recipe
        if not self.is_finished:
            raise ValueError(
                f"the run in {self.folder} is not finished; `acdbit train {recipe.name} --out {self.folder}` goes on with it"
            )
        return read_json(self.result_path)

    @property
    def history(self):
        """The rows of the history so far, dicts from column to text; empty before the first epoch's end."""
        try:
            with self.history_path.open(newline="") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    @property
    def finished_epochs(self):
        """Number of epochs in the history."""
        return len(self.history)

    @property
    def seconds_per_epoch(self):
        """Median of the seconds that an epoch's training steps took so far; `None` before the first epoch's end."""
        seconds = [float(row["seconds"]) for row in self.history]
        return statistics.median(seconds) if seconds else None

    @contextlib.contextmanager
    def locked(self):
        """Keeps every other process, of any machine that sees the folder, from training in it; a folder is made if there is none.

        The system lets go of the lock when its process ends, however it ends. What killed writes left in the folder is removed.

        Raises:
            Busy: another process trains there; it is named.
            OSError: the folder cannot be written.
        """
        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self._make_folder()
        descriptor = self._lock()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            for path in (self.best_path, self.model_path, self.state_path, self.previous_state_path, self.result_path):
                remove_leftovers(path)
            yield self
        finally:
            self.lock_path.unlink(missing_ok=True)
            os.close(descriptor)
            # Where nothing came of it, nothing is left: folders that hold something stay.
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def wait(self):
        """Waits until no other process trains in the folder."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.lock_path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            finally:
                os.close(descriptor)

    def _lock(self):
        while True:
            try:
                descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise OSError(f"cannot write {self.lock_path}: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                os.close(descriptor)
                raise Busy(
                    f"{holder} is training in {self.folder}; wait until it ends, or choose another folder with --out", self
                ) from None
            # Its holder may have removed the file between the two calls: then the lock is one of no file.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.lock_path).st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            os.close(descriptor)

    def _make_folder(self):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the run's folder {self.folder}: {error.strerror}") from error

    def write_recipe(self, recipe):
        """Writes the recipe, into a folder that is made where there is none.

        Raises:
            OSError: the folder or the file cannot be written.
        """
        self._make_folder()
        write_json(self.recipe_path, recipe.to_dict())

    def write_result(self, result):
        """Writes the result, which makes the run a finished one.

        Raises:
            OSError: the file cannot be written.
        """
        write_json(self.result_path, result)

    def forget_epochs_from(self, epoch):
        """Drops the rows of the history from an epoch on, counted from 0.

        A run killed between its log and its checkpoint has a row that will be written again.
        """
        rows = self.history
        if not rows:
            return

        def write(path):
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(row for row in rows if int(row["epoch"]) < epoch)

        write_beside(self.history_path, write)
