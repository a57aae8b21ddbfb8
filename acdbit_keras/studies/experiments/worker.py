"""One task of a table in a process of its own.

Every run starts in a fresh process. So it is the run that `acdbit train` would make, whatever ran before; its memory, of
graphs and compiled steps too, goes back to the machine; and if it crashes or is killed, the table is still there.

The task is one line of JSON on standard input, the answer a JSON file: `{"value": ...}`, or `{"error": sentence}`.
Standard input stays open as a lifeline: when it closes, the one who asked is gone, and the process ends.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import traceback

from acdbit_keras.files import read_json, write_json
from acdbit_keras.models.run import Busy, Run
from acdbit_keras.studies import deployed

COMPARED_IMAGES = 1000  # test images on which a file is compared with Keras; its own accuracy is of all
TIMED_RUNS = 100
_PROGRAM = "import sys; from acdbit_keras.studies.experiments import worker; worker.main(sys.argv[1])"


def in_subprocess(task, tick=lambda: None, share=(0, 1)):
    """Performs a task in a fresh process.

    Args:
        task: dict of plain values, see `perform`.
        tick: called about once per second while it runs.
        share: `(number, of)`: which part of the machine the process gets, of so many that run at a time.

    Returns:
        The answer: `{"value": ...}`, `{"error": sentence}`, or `{"busy": True}` where another process does the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer, log = pathlib.Path(folder) / "answer.json", pathlib.Path(folder) / "log.txt"
        command = [sys.executable, "-c", _PROGRAM, str(answer)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment_of(*share)},
            )
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(task).encode() + b"\n")
                    process.stdin.flush()
                while process.poll() is None:
                    tick()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=1)
            finally:
                process.kill()
                process.wait()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        if answer.exists():
            return read_json(answer)
        return {"error": _death(process.returncode, log.read_text(errors="replace"))}


def environment_of(number, of):
    """Environment variables that give a process its part of the machine.

    Args:
        number: of the process, from 0.
        of: how many run at a time. Where there are fewer GPUs, several share one; without any they share the processor.
    """
    if of == 1:
        return {}
    if gpus := _gpus():
        together = -(-of // len(gpus))
        return {
            "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)],
            # JAX takes so much of the memory at its start, TensorFlow what it needs.
            "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / together:.2f}",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }
    threads = str(max(1, len(os.sched_getaffinity(0)) // of))
    return dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), threads)


def _gpus():
    """What CUDA calls the GPUs that this process may use."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(listed.splitlines()))]


def is_complete(teacher):
    """Whether a run folder or file holds a finished teacher."""
    return Run(teacher).is_finished or teacher.is_file()


def digest(teacher):
    """SHA-256 of the file that `load_model` takes from a run's folder, or of the file itself."""
    return hashlib.sha256((Run(teacher).trained_path or teacher).read_bytes()).hexdigest()


def perform(task):
    """Performs a task in this process: `task["task"]` names one of `_TASKS`, the rest are its arguments."""
    import keras

    keras.backend.clear_session()
    arguments = {key: value for key, value in task.items() if key != "task"}
    try:
        return {"value": _TASKS[task["task"]](**arguments)}
    except BlockingIOError:
        return {"busy": True}
    except Exception as error:  # Whatever it is, the other rows of the table go on.
        text = " ".join(str(error).split())
        if isinstance(error, (ValueError, OSError, FloatingPointError)) and text:
            return {"error": text}
        place = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{type(error).__name__} in {pathlib.Path(place.filename).name}, line {place.lineno}: {text}"}


def _prepare(recipe, rows, teacher, runs, data_dir):
    """Checks that every row can learn from the teacher, trains it if it is not finished, and evaluates it.

    Args:
        recipe: of the student, which names the teacher.
        rows: dict from key to the recipe of a row.
        teacher: run folder or file, or `None` for the run of the recipe's teacher in `runs`.
    """
    from acdbit_keras.models import data, recipes
    from acdbit_keras.models.loading import load_model
    from acdbit_keras.models.train import check_teacher

    recipe = recipes.Recipe(**recipe)
    made_here = teacher is None
    teacher = pathlib.Path(runs) / recipes.get(recipe.teacher).name if made_here else pathlib.Path(teacher)
    finished = not made_here or Run(teacher).is_finished
    model = load_model(teacher) if finished else _untrained(recipes.get(recipe.teacher), data_dir)
    for key, row in rows.items():
        try:
            # It has the data of the recipe alone, which does not say where they are prepared.
            check_teacher(recipes.Recipe(**{**row, "dataset": data.source(row["dataset"], data_dir)}), model)
        except ValueError as error:
            raise ValueError(f"{key} cannot learn from the teacher {teacher}: {error}") from error
    if made_here:
        _train(recipe.teacher, teacher, data_dir=data_dir, runs=runs)
        model = load_model(teacher)
    return {"folder": str(teacher), "sha256": digest(teacher), **_facts(model, recipe.dataset, data_dir)}


def _untrained(recipe, data_dir):
    from acdbit_keras.models import build, data

    facts = data.info(recipe.dataset, data_dir)
    size = {} if recipe.image_size is None else {"image_size": recipe.image_size}
    return build(recipe.preset, recipe.scheme, facts.classes, channels=facts.channels, **size)


def _cell(recipe, folder, teacher, runs, data_dir, waits=True):
    """Trains one run, or goes on with it, and evaluates it.

    Raises:
        BlockingIOError: another process is training it or what it needs, and this one is not to wait for that.
    """
    from acdbit_keras.models import recipes
    from acdbit_keras.models.loading import load_model

    recipe = recipes.Recipe(**recipe)
    result = _train(recipe, folder, waits, data_dir=data_dir, teacher=teacher, runs=runs)
    kept = ("epochs", "best_accuracy", "training_seconds", "backend")
    return {**_facts(load_model(folder), recipe.dataset, data_dir), **{key: result[key] for key in kept if key in result}}


def _train(recipe, folder, waits=True, **options):
    """`train`, which has the folder to itself; a label teacher or a start in the hands of another process is waited for, too."""
    from acdbit_keras.models.train import train

    with _alone(folder, waits):
        while True:
            try:
                return train(recipe, folder, verbose=0, **options)
            except Busy as error:
                if not waits:
                    raise
                busy = error.run
            busy.wait()


def _facts(model, dataset, data_dir):
    from acdbit_keras import cost
    from acdbit_keras.models.train import evaluate

    scores = evaluate(model, dataset, data_dir)
    analysis = cost.analyse(model)
    names = ("parameters", "packed_bytes", "bit_macs", "float_macs")
    return {
        "test": {"images": scores["images"], "top1": scores["accuracy"], "top5": scores["top5"], "loss": scores["loss"]},
        "cost": {name: getattr(analysis, name) for name in names},
    }


def _measure(files, dataset, data_dir):
    """Converts models, compares each file with Keras, and times the files side by side.

    Args:
        files: dict from key to `{"model": run folder or file, "file": path of the .tflite to write}`.

    Returns:
        Dict from key to what was found, or to `{"error": sentence}`.
    """
    found = {}
    for key, paths in files.items():
        try:
            found[key] = _convert(paths["model"], paths["file"], dataset, data_dir)
        except Exception as error:  # One file that cannot be made leaves the others to be timed.
            found[key] = {"error": f"no file: {' '.join(str(error).split()) or type(error).__name__}"}
    good = [key for key, facts in found.items() if "error" not in facts]
    timings = deployed.time_files([files[key]["file"] for key in good], TIMED_RUNS) if good else []
    for key, timing in zip(good, timings, strict=True):
        found[key].update(timing)
    return found


def _convert(model, path, dataset, data_dir):
    from acdbit_keras.models.loading import load_model

    model = load_model(model)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    conversion = deployed.convert(model, path, dataset, data_dir, model.scheme.precision, described=False)
    scores = deployed.evaluate_file(path, dataset, data_dir, model, COMPARED_IMAGES)
    return {
        "precision": conversion.precision,
        "bytes": conversion.bytes,
        "top1": scores["accuracy"],
        "images": scores["compared"],
        "equal_argmax": scores["equal_argmax"],
    }


_TASKS = {"prepare": _prepare, "cell": _cell, "measure": _measure}


@contextlib.contextmanager
def _alone(folder, waits=True):
    """Waits until no other process trains into this folder, or raises BlockingIOError if one does; two tables may share a run."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _death(status, log):
    if status < 0:
        return f"its process was ended by signal {-status}" + (", as a machine without memory left does" if status == -9 else "")
    lines = log.strip().splitlines()
    return f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")


def _leave_with_the_one_who_asked():
    sys.stdin.read()
    os._exit(1)


def main(answer):
    """Performs the task on standard input and writes the answer to a file."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_one_who_asked, daemon=True).start()
    value = perform(task)
    write_json(answer, value)
