"""Fills a table: the teacher, every run, the files; leaves results.json, table.md, table.csv and figure.png.

A table that was interrupted goes on where it was: finished runs are kept in results.json, an unfinished one is resumed by
`train`, one that failed is tried again. Runs live beside each other in `runs/RECIPE.cells/`, named after what they are, so
that several tables share those that they have in common. What another process trains at the moment - of this table made on
another machine that sees the same folder of runs - is left to it and taken over at the end.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import functools
import importlib.metadata
import os
import pathlib
import threading

import keras

from acdbit_keras import checks, schemes
from acdbit_keras.files import write_text
from acdbit_keras.models import recipes
from acdbit_keras.models.run import Run
from acdbit_keras.studies import progress
from acdbit_keras.studies.experiments import figures, plan, tables, worker
from acdbit_keras.studies.experiments import results as results_file

TEACHER, FILES = "teacher", "files"


def run(experiment, out, runs="runs", teacher=None, data_dir=None, made_by=None, stream=None, execute=None, jobs=1):
    """Runs what an experiment still lacks.

    Args:
        experiment: `Experiment`.
        out: folder of the results.
        runs: folder of the runs, where the teacher is found or made too.
        teacher: run folder or `.keras` file of another teacher than the recipe's.
        data_dir: where the datasets are prepared; see `acdbit_keras.models.data.load`.
        made_by: dict of plain values for the results: how and where it was called.
        stream: where the line of progress goes; `None` for nowhere.
        execute: what performs a task, by default `worker.in_subprocess`.
        jobs: number of runs at a time; they share this machine's GPUs, or its processor.

    Returns:
        The content of `results.json`; `results.failures` tells what failed.

    Raises:
        ValueError: results of another version or experiment in `out`, another table being made there, a teacher that does
            not fit a row, or another teacher or other schemes than the results were made with.
    """
    checks.integer("jobs", jobs, 1)
    out, runs = pathlib.Path(out), pathlib.Path(runs)
    earlier = results_file.read(out / "results.json", experiment)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {out}: {error.strerror}") from error
    with _alone(out):
        return _Table(experiment, earlier, out, runs, teacher, data_dir, made_by, stream, execute, jobs).fill()


class _Table:
    def __init__(self, experiment, earlier, out, runs, teacher, data_dir, made_by, stream, execute, jobs):
        self.experiment = experiment
        self.earlier = earlier
        self.out = out
        self.runs = runs
        self.teacher = None if teacher is None else pathlib.Path(teacher)
        self.data_dir = None if data_dir is None else str(data_dir)
        self.stream = stream
        self.execute = execute or worker.in_subprocess
        self.jobs = jobs
        self.executors = [self.execute] * jobs
        if execute is None and jobs > 1:
            # Each with its part of the machine.
            self.executors = [functools.partial(worker.in_subprocess, share=(job, jobs)) for job in range(jobs)]
        self.results = {
            **results_file.start(experiment),
            **(made_by or {}),
            "backend": keras.config.backend(),
            "versions": _versions(),
        }

    def fill(self):
        cells = self.experiment.cells()
        facts = self._prepare(cells)
        folder = self.runs / f"{self.experiment.recipe.name}.cells"
        known = self._known()
        folders = {}
        for cell in cells:
            names = plan.folder_names(cell.recipe, facts["sha256"])
            folders[cell.row.key, cell.seed] = folder / next((name for name in names if name in known), names[0])
        self._take_over(folders, known)
        self._train(cells, folders)
        if self.experiment.measured:
            self._measure(folders, folder)
        self._write()
        try:
            figures.draw(self.results, self.out / "figure.png")
        except ImportError as error:
            self.results["notes"].append(f"There is no figure: {error}.")
            self._write()
        return self.results

    def _prepare(self, cells):
        """Facts about the teacher: from the earlier results if it is still the same and fitted every row then, else anew."""
        recipe = self.experiment.recipe
        where = self.teacher or self.runs / recipes.get(recipe.teacher).name
        earlier = (self.earlier or {}).get("teacher")
        if earlier and worker.is_complete(where):
            if worker.digest(where) != earlier["sha256"]:
                raise ValueError(
                    f"the teacher {where} is not the one that the table in {self.out} was begun with; choose another --out"
                )
            if {cell.row.key for cell in cells} <= {row["key"] for row in self.earlier["rows"]}:
                self.results["teacher"] = {**earlier, "folder": str(where)}
                return self.results["teacher"]
        teacher_recipe = recipes.get(recipe.teacher)
        line = progress.Progress({TEACHER: teacher_recipe.epochs}, {TEACHER: Run(where).finished_epochs}, self.stream)
        task = {
            "task": "prepare",
            "recipe": recipe.to_dict(),
            "rows": {cell.row.key: cell.recipe.to_dict() for cell in cells},
            "teacher": None if self.teacher is None else str(self.teacher),
            "runs": str(self.runs),
            "data_dir": self.data_dir,
        }
        try:
            answer = self.execute(task, lambda: line.show(TEACHER, Run(where).finished_epochs))
        finally:
            line.close()
        if "error" in answer:
            raise ValueError(answer["error"])
        self.results["teacher"] = answer["value"]
        return answer["value"]

    def _known(self):
        """The cells of the earlier results by their folders."""
        return {cell["folder"]: cell for row in (self.earlier or {}).get("rows", ()) for cell in row["cells"] if "folder" in cell}

    def _take_over(self, folders, known):
        """Takes what the earlier results hold of the same runs; never are finished ones given up for others of their name."""
        for row in (self.earlier or {}).get("rows", ()):
            for cell in row["cells"]:
                folder = folders.get((row["key"], cell["seed"]))
                if folder and cell["status"] == results_file.FINISHED and cell.get("folder") != folder.name:
                    raise ValueError(
                        f"the table in {self.out} holds runs of {row['title']} with another teacher or with its scheme as it was "
                        "at the time; choose another --out"
                    )
        for row in self.results["rows"]:
            for cell in row["cells"]:
                cell["folder"] = folders[row["key"], cell["seed"]].name
                before = known.get(cell["folder"], {})
                if before.get("status") == results_file.FINISHED:
                    cell.update({**before, "seed": cell["seed"]})
        self._write()

    def _train(self, cells, folders):
        names = {(cell.row.key, cell.seed): f"{cell.row.title}, seed {cell.seed}" for cell in cells}
        epochs = {name: _epochs(cell.recipe) for name, cell in zip(names.values(), cells, strict=True)}
        done = {name: Run(folders[key]).finished_epochs for key, name in names.items()}
        line = progress.Progress(epochs, done, self.stream)
        pending = collections.deque(
            (cell, False) for cell in cells if self._entry(cell.row.key, cell.seed)["status"] != results_file.FINISHED
        )
        lock, stopped = threading.Lock(), threading.Event()

        def show(name, epoch=None):
            if stopped.is_set():
                raise _Stopped
            with lock:
                line.show(name, epoch)

        def work(execute):
            while pending:
                try:
                    cell, waits = pending.popleft()
                except IndexError:
                    return
                key = (cell.row.key, cell.seed)
                folder, name = folders[key], names[key]
                show(name)
                task = {
                    "task": "cell",
                    "recipe": cell.recipe.to_dict(),
                    "folder": str(folder),
                    "teacher": self.results["teacher"]["folder"],
                    "runs": str(self.runs),
                    "data_dir": self.data_dir,
                    "waits": waits,
                }
                answer = execute(task, lambda f=folder, n=name: show(n, Run(f).finished_epochs))
                if "busy" in answer:
                    # Another process trains it; what nobody does comes first.
                    pending.append((cell, True))
                    continue
                with lock:
                    entry = self._entry(*key)
                    if "value" in answer:
                        entry.update(status=results_file.FINISHED, **answer["value"])
                    else:
                        entry.update(status=results_file.FAILED, error=answer["error"])
                        line.write(f"{name} failed: {answer['error']}")
                    line.show(name, epochs[name])
                    self._write()

        try:
            if self.jobs == 1:
                work(self.executors[0])
                return
            with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
                try:
                    for done in concurrent.futures.as_completed([pool.submit(work, execute) for execute in self.executors]):
                        done.result()
                finally:
                    # What the others began ends with the first that breaks off, and with an interruption.
                    stopped.set()
        finally:
            line.close()

    def _entry(self, key, seed):
        return next(cell for cell in results_file.row(self.results, key)["cells"] if cell["seed"] == seed)

    def _measure(self, folders, files):
        """Converts one run per row and times all of them in one go; not again if these were timed together before."""
        wanted = {}
        for row in self.results["rows"]:
            if row["is_teacher"]:
                teacher = self.results["teacher"]
                wanted[row["key"]] = {
                    "model": teacher["folder"],
                    "file": str(files / f"{TEACHER}-{teacher['sha256'][:8]}.tflite"),
                }
            elif done := results_file.finished(row):
                folder = folders[row["key"], done[0]["seed"]]
                wanted[row["key"]] = {"model": str(folder), "file": f"{folder}.tflite"}
        together = sorted(pathlib.Path(paths["file"]).name for paths in wanted.values())
        if (self.earlier or {}).get("timed_together") == together:
            before = {row["key"]: row["file"] for row in self.earlier["rows"]}
            if all("error" not in before[key] for key in wanted):
                for key in wanted:
                    results_file.row(self.results, key)["file"] = before[key]
                self.results["timed_together"] = together
                return
        if keras.config.backend() != "tensorflow":
            self.results["notes"].append(
                "Files were not made, which takes Keras on TensorFlow: the same command with KERAS_BACKEND=tensorflow adds them "
                "without training again."
            )
            return
        line = progress.Progress({FILES: 0}, stream=self.stream)
        try:
            line.write(f"converting and timing {len(wanted)} files")
            task = {"task": "measure", "files": wanted, "dataset": self.experiment.recipe.dataset, "data_dir": self.data_dir}
            answer = self.execute(task, lambda: None)
        finally:
            line.close()
        for key in wanted:
            results_file.row(self.results, key)["file"] = (
                answer["value"][key] if "value" in answer else {"error": answer["error"]}
            )
        self.results["timed_together"] = together

    def _write(self):
        results_file.write(self.out / "results.json", self.results)
        write_text(self.out / "table.md", tables.markdown(self.results))
        write_text(self.out / "table.csv", tables.comma_separated(self.results))


def _epochs(recipe):
    return 0 if schemes.get(recipe.scheme).post_training else recipe.epochs


def _versions():
    packages = ("acdbit-keras", "keras", "tensorflow", "jax", "larq", "larq-compute-engine", "ai-edge-litert")
    known = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: known[name] for name in packages if name in known}


class _Stopped(Exception):
    """The table is not being made any more."""


@contextlib.contextmanager
def _alone(out):
    """Refuses a second table in the same folder at the same time; the system gives the lock back whatever happens."""
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is making a table in {out}; wait for it or choose another --out") from None
        yield
    finally:
        os.close(descriptor)
