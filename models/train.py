"""Runs a recipe: data, model, distillation, checkpoints, logs; resumes what was killed.

A run's folder holds:
    recipe.json       the recipe as it was run
    history.csv       one row per epoch
    tensorboard/      the same for TensorBoard
    best.keras        the model of the best epoch by validation accuracy
    model.keras       the model of the last epoch, once the run is finished
    result.json       final and best accuracy, time, images per second, once the run is finished
    state.npz         what a resumed run needs: weights, optimizer and random states after the last epoch
"""

import contextlib
import csv
import dataclasses
import json
import pathlib

import keras

from acdbit_keras.distillation import Distiller, LabelDistillation, QueryKeyDistillation
from acdbit_keras.files import write_beside
from acdbit_keras.models import data, recipes
from acdbit_keras.models.callbacks import Checkpoints, Speed, StopOnNonFinite, read_progress, restore_state
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.presets import build

# Kernels decay; what follows is shifts, gains and scales, which weight decay would only bias.
_WITHOUT_DECAY = ["bias", "gamma", "beta", "shift_in", "shift_out", "slope", "gain", "shift", "scale", "threshold"]


def train(recipe, folder, data_dir=None, teacher=None, runs="runs", verbose="auto"):
    """Trains a recipe into a folder; a folder that holds an unfinished run of it is resumed.

    Args:
        recipe: `Recipe` or its name.
        folder: the run's folder.
        data_dir: where the datasets are prepared; see `acdbit_keras.models.data.load`.
        teacher: run folder or `.keras` file; by default the recipe's teacher, looked for in `runs` and trained there
            if it is not finished.
        runs: folder of the runs of other recipes.
        verbose: as in `keras.Model.fit`.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: if the folder belongs to another recipe, or on anything the recipe asks for that does not exist.
        OSError: if the folder cannot be written; what was written before stays complete.
        FloatingPointError: if the loss stops being finite, naming the step.
    """
    recipe, folder = recipes.get(recipe), pathlib.Path(folder)
    finished = _finished(recipe, folder)
    if finished:
        return finished
    epoch, best = read_progress(folder / "state.npz")
    facts = data.info(recipe.dataset)
    with _precision(recipe):
        keras.utils.set_random_seed(recipe.seed)
        network = build(
            recipe.preset, recipe.scheme, facts.classes, drop_path=recipe.drop_path, channels=facts.channels, **_image_size(recipe)
        )
        model = network
        if recipe.teacher:
            model = Distiller(_teacher(recipe, teacher, runs, data_dir, verbose), network, _terms(recipe, network))
        train_set, test_set = data.load(
            recipe.dataset,
            image_size=network.image_size,
            batch_size=recipe.batch_size,
            data_dir=data_dir,
            seed=recipe.seed,
            augment=recipe.augment,
            epochs=recipe.epochs,
            initial_epoch=min(epoch, recipe.epochs - 1),
        )
        steps = facts.steps_per_epoch(recipe.batch_size)
        model.compile(
            optimizer=_optimizer(recipe, steps),
            loss=None if recipe.teacher else _label_loss(train_set),
            metrics=["accuracy"],
            jit_compile=recipe.jit_compile,
            steps_per_execution=recipe.steps_per_execution,
        )
    _make_folder(folder)
    write_beside(folder / "recipe.json", lambda path: path.write_text(json.dumps(dataclasses.asdict(recipe), indent=1)))
    if epoch:
        restore_state(folder / "state.npz", network, model.optimizer)
        _drop_unfinished_rows(folder / "history.csv", epoch)
    if epoch < recipe.epochs:
        model.fit(
            train_set,
            validation_data=test_set,
            epochs=recipe.epochs,
            initial_epoch=epoch,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=verbose,
            callbacks=[
                StopOnNonFinite(),
                Speed(steps * recipe.batch_size),
                Checkpoints(folder, network, best=best),
                keras.callbacks.CSVLogger(str(folder / "history.csv"), append=epoch > 0),
                *_tensorboard(folder),
            ],
        )
    write_beside(folder / "model.keras", network.save)
    result = _result(recipe, folder)
    write_beside(folder / "result.json", lambda path: path.write_text(json.dumps(result, indent=1)))
    return result


def recipe_of(folder):
    """The recipe that a run's folder was made with.

    Raises:
        ValueError: if the folder holds no run.
    """
    path = pathlib.Path(folder) / "recipe.json"
    if not path.exists():
        raise ValueError(f"{folder} is not a run: it has no recipe.json; `acdbit train RECIPE --out {folder}` makes one")
    return recipes.Recipe(**json.loads(path.read_text()))


def evaluate(model, dataset, data_dir=None, batch_size=256):
    """Top-1 and top-5 accuracy and cross-entropy of a backbone on the test images of a dataset.

    Raises:
        ValueError: if the model's classes or image channels are not those of the dataset.
    """
    facts = data.info(dataset)
    if (model.classes, model.channels) != (facts.classes, facts.channels):
        raise ValueError(
            f"the model has {model.classes} classes and {model.channels} image channels, "
            f"{dataset} has {facts.classes} and {facts.channels}"
        )
    test = data.pipeline(dataset, "test", image_size=model.image_size, batch_size=batch_size, data_dir=data_dir)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(k=min(5, facts.classes), name="top5")],
    )
    values = model.evaluate(test, verbose=0, return_dict=True)
    return {"images": facts.test_examples, **{key: float(value) for key, value in values.items()}}


def _finished(recipe, folder):
    if not (folder / "recipe.json").exists():
        return None
    other = recipe_of(folder)
    if other != recipe:
        changed = [f.name for f in dataclasses.fields(recipe) if getattr(recipe, f.name) != getattr(other, f.name)]
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(changed)} differ); choose another folder or remove it"
        )
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


@contextlib.contextmanager
def _precision(recipe):
    previous = keras.config.dtype_policy()
    if recipe.mixed_precision:
        keras.config.set_dtype_policy(f"mixed_{recipe.mixed_precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def _image_size(recipe):
    return {} if recipe.image_size is None else {"image_size": recipe.image_size}


def _teacher(recipe, teacher, runs, data_dir, verbose):
    if teacher is None:
        teacher = pathlib.Path(runs) / recipe.teacher
        train(recipe.teacher, teacher, data_dir=data_dir, runs=runs, verbose=verbose)
        # The teacher's own run consumed random numbers; the student's must not depend on whether it was there.
        keras.utils.set_random_seed(recipe.seed)
    return load_model(teacher)


def _terms(recipe, network):
    terms = []
    for term in network.scheme.distillation:
        config = term.get_config()
        if isinstance(term, LabelDistillation) and recipe.label_weight is not None:
            config["weight"] = recipe.label_weight
        if isinstance(term, QueryKeyDistillation):
            if recipe.query_key_weight is not None:
                config["weight"] = recipe.query_key_weight
            config["form"] = recipe.query_key_form or config["form"]
        terms.append(type(term).from_config(config))
    return terms


def _optimizer(recipe, steps):
    total, warmup = recipe.epochs * steps, int(recipe.warmup_epochs * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 100 if warmup else recipe.learning_rate,
        decay_steps=max(total - warmup, 1),
        warmup_target=recipe.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip_norm)
    optimizer.exclude_from_weight_decay(var_names=_WITHOUT_DECAY)
    return optimizer


def _label_loss(train_set):
    if len(train_set.element_spec[1].shape) == 2:
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _tensorboard(folder):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return []
    return [keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False)]


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the run's folder {folder}: {error.strerror}") from error


def _drop_unfinished_rows(path, finished_epochs):
    """A run killed between its log and its checkpoint has a row that will be written again."""
    if not path.exists():
        return
    header, *rows = list(csv.reader(path.open(newline="")))

    def write(temporary):
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows([header, *[row for row in rows if int(row[0]) < finished_epochs]])

    write_beside(path, write)


def _result(recipe, folder):
    rows = list(csv.DictReader((folder / "history.csv").open(newline="")))
    accuracy = [float(row["val_accuracy"]) for row in rows]
    speed = sorted(float(row["images_per_second"]) for row in rows)
    return {
        "recipe": recipe.name,
        "epochs": len(rows),
        "accuracy": accuracy[-1],
        "best_accuracy": max(accuracy),
        "best_epoch": accuracy.index(max(accuracy)) + 1,
        "training_seconds": sum(float(row["seconds"]) for row in rows),
        "images_per_second_median": speed[len(speed) // 2],
        "backend": keras.config.backend(),
    }
