"""Runs a recipe: data, model, distillation, stages, checkpoints, logs; resumes what was killed.

What it leaves in the run's folder, `acdbit_keras.models.run` says.
"""

import contextlib
import math
import pathlib
import time

import keras

from acdbit_keras import execution, schemes
from acdbit_keras.distillation import Distiller, LabelDistillation, QueryKeyDistillation
from acdbit_keras.files import write_beside
from acdbit_keras.models import data, distribution, recipes
from acdbit_keras.models.callbacks import Checkpoints, Speed, StopOnNonFinite, read_progress, restore_state
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.sizes import build
from acdbit_keras.models.zoo import from_zoo, zoo_names
from acdbit_keras.models.zoo.transfer import copy_body
from acdbit_keras.training import executor_for

CALIBRATION_BATCHES = 10
# Kernels decay; what follows is shifts, gains and scales, which weight decay would only bias.
_WITHOUT_DECAY = ["bias", "gamma", "beta", "shift_in", "shift_out", "slope", "gain", "shift", "scale", "threshold", "factor"]


def train(recipe, folder, data_dir=None, teacher=None, runs="runs", verbose="auto", devices=1, progress=None):
    """Trains a recipe into a folder; a folder that holds an unfinished run of it is resumed.

    Where the scheme has stages they run one after the other, each with a learning-rate schedule of its own and from the
    weights of the one before. A scheme without distillation is trained on the labels, whether or not the recipe has a
    teacher. One without training takes over the teacher's weights and is calibrated.

    Args:
        recipe: `Recipe`, or what `recipes.get` takes.
        folder: the run's folder.
        data_dir: where the datasets are prepared; see `acdbit_keras.models.data.load`.
        teacher: run folder or `.keras` file; by default the recipe's teacher, looked for in `runs` and trained there
            if it is not finished.
        runs: folder of the runs of other recipes.
        verbose: as in `keras.Model.fit`.
        devices: number of devices that share every batch; more than one on JAX only. See `acdbit_keras.models.distribution`.
        progress: called at the end of every epoch with the recipe's name, the number of epochs done, their total, and a dict
            of the epoch's metrics.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: if the folder belongs to another recipe, its images are no longer those that it was begun with, or on
            anything the recipe asks for that does not exist.
        OSError: if the folder cannot be written; what was written before stays complete.
        FloatingPointError: if the loss stops being finite, naming the step.
    """
    recipe, run = recipes.get(recipe), Run(folder)
    _check_same_recipe(recipe, run)
    if run.is_finished:
        return run.result
    training = _Training(recipe, run, data_dir, teacher, runs, verbose, devices, progress)
    if training.scheme.post_training:
        result = training.calibrate()
    else:
        with distribution.using(devices, training.batch_size):
            result = training.train()
    run.write_result(result)
    return result


def check_teacher(recipe, teacher):
    """Whether the student of a recipe can learn from a teacher, or be made from its weights; nothing is trained.

    Args:
        recipe: `Recipe` or its name.
        teacher: loaded backbone.

    Raises:
        ValueError: if it cannot, or on anything the recipe asks for that does not exist.
    """
    training = _Training(recipes.get(recipe))
    training.scheme.schedule(training.recipe.epochs)
    network = training.network(training.scheme)
    if training.scheme.post_training:
        _take_over(teacher, network)
    elif terms := _terms(training.recipe, training.scheme):
        Distiller(teacher, network, terms)


class _Training:
    """A recipe on its way into a `Run`'s folder; the other arguments are those of `train`."""

    def __init__(self, recipe, run=None, data_dir=None, teacher=None, runs="runs", verbose="auto", devices=1, progress=None):
        self.recipe = recipe
        self.run = run
        self.data_dir = data_dir
        self.teacher = teacher
        self.runs = runs
        self.verbose = verbose
        self.devices = devices
        self.progress = progress
        self.scheme = schemes.get(recipe.scheme)
        self.data = self._find_data()
        self.facts = self.data.info()
        # Your own images may be fewer than a recipe's batch.
        self.batch_size = min(recipe.batch_size, self.facts.train_examples)
        self.has_teacher = bool(recipe.teacher or teacher)

    def _find_data(self):
        """The recipe's data; of a run that was begun, those that it was begun with."""
        if self.run is None or not self.run.data_path.exists():
            return data.source(self.recipe.dataset, self.data_dir)
        found = data.read_stored(self.run.data_path)
        if found.has_changed():
            raise ValueError(
                f"{self.recipe.dataset} has changed since the run in {self.run.folder} began; a new run needs another folder"
            )
        return found

    def train(self):
        """Every stage, from where the folder left off."""
        schedule = self.scheme.schedule(self.recipe.epochs)
        for index, (stage, scheme, first, end) in enumerate(schedule):
            left = self.run.stage_path(index)
            is_last = index == len(schedule) - 1
            if is_last or not left.exists():
                network = self._stage(index, stage, scheme, first, end)
                write_beside(self.run.model_path if is_last else left, network.save)
        return _result(self.recipe, self.run, first)

    def _stage(self, index, stage, scheme, first, end):
        """The network as it is at the end of a stage, whose finished epochs, if any, are in the state file."""
        recipe = self.recipe
        epoch, best = read_progress(self.run.state_path)
        if epoch <= first:
            # That state, if any, is the end of the stage before.
            epoch, best = first, -math.inf
        with self._precision():
            keras.utils.set_random_seed(recipe.seed)
            network = model = self.network(scheme)
            if recipe.start and epoch == 0:
                _start_from(recipe.start, network)
            if recipe.freeze:
                network.freeze_body()
            previous = load_model(self.run.stage_path(index - 1)) if index else None
            terms = _terms(recipe, scheme)
            if terms and self.has_teacher:
                model = Distiller(previous if stage.teacher == "previous" else self._teacher(), network, terms)
            train_set, test_set = data.load(
                self.data,
                image_size=network.image_size,
                batch_size=self.batch_size,
                seed=recipe.seed,
                augment=recipe.augment,
                epochs=recipe.epochs,
                initial_epoch=min(epoch, end - 1),
            )
            if self.devices > 1:
                test_set = self._test_set(network.image_size, one_hot=len(train_set.element_spec[1].shape) == 2)
            steps = self.facts.steps_per_epoch(self.batch_size)
            executor = self._executor(network)
            distils_labels = model is not network and scheme.distillation
            model.compile(
                optimizer=_optimizer(recipe, end - first, steps),
                loss=None if distils_labels else _label_loss(train_set),
                metrics=["accuracy"],
                jit_compile=recipe.jit_compile and executor.allows_xla,
                steps_per_execution=recipe.steps_per_execution,
            )
        self._write_recipe()
        if epoch > first:
            restore_state(self.run.state_path, network, model.optimizer)
        elif previous is not None:
            copy_weights(previous, network)
        if epoch:
            self.run.forget_epochs_from(epoch)
        if epoch < end:
            with execution.using(executor):
                model.fit(
                    train_set,
                    validation_data=test_set,
                    epochs=end,
                    initial_epoch=epoch,
                    steps_per_epoch=steps,
                    shuffle=False,
                    verbose=self.verbose,
                    callbacks=[
                        StopOnNonFinite(),
                        Speed(steps * self.batch_size),
                        # Before the state: a row too many is dropped when the run is resumed, a missing one would stay missing.
                        keras.callbacks.CSVLogger(str(self.run.history_path), append=epoch > 0),
                        Checkpoints(self.run, network, best=best),
                        *_tensorboard(self.run.tensorboard_path),
                        *self._told(),
                    ],
                )
        return network

    def _executor(self, network):
        """Compiled kernels, where the recipe wants them and they know the network; they do not share a batch between devices."""
        if not self.recipe.kernels or self.devices > 1:
            return execution.KerasExecutor()
        return executor_for(network.blocks)

    def _told(self):
        if self.progress is None:
            return []
        name, total = self.recipe.name, self.recipe.epochs
        return [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: self.progress(name, epoch + 1, total, dict(logs or {}))
            )
        ]

    def calibrate(self):
        """The teacher's weights in a scheme without training."""
        recipe = self.recipe
        if not self.has_teacher:
            name = self.scheme.name
            raise ValueError(f"the scheme {name!r} is not trained: it takes a teacher's weights, and the recipe has no teacher")
        teacher = self._teacher()
        keras.utils.set_random_seed(recipe.seed)
        network = self.network(self.scheme)
        _take_over(teacher, network)
        options = dict(image_size=network.image_size, batch_size=self.batch_size, seed=recipe.seed)
        images, _ = data.load(self.data, augment="none", **options)
        self._write_recipe()
        start = time.perf_counter()
        with execution.using(execution.CalibrationExecutor()):
            for batch, *_ in images.take(CALIBRATION_BATCHES).as_numpy_iterator():
                network(batch, training=False)
        seconds = time.perf_counter() - start
        write_beside(self.run.model_path, network.save)
        accuracy = evaluate(network, self.data)["accuracy"]
        return {
            "recipe": recipe.name,
            "epochs": 0,
            "accuracy": accuracy,
            "best_accuracy": accuracy,
            "best_epoch": 0,
            "training_seconds": seconds,
            "images_per_second_median": None,
            "backend": keras.config.backend(),
        }

    def network(self, scheme):
        """The untrained student, or what becomes it in a stage."""
        recipe, facts = self.recipe, self.facts
        size = {} if recipe.image_size is None else {"image_size": recipe.image_size}
        return build(recipe.preset, scheme, facts.classes, drop_path=recipe.drop_path, channels=facts.channels, **size)

    def _teacher(self):
        teacher = self.teacher
        if teacher is None:
            teacher = pathlib.Path(self.runs) / recipes.get(self.recipe.teacher).name
            options = dict(
                data_dir=self.data_dir, runs=self.runs, verbose=self.verbose, devices=self.devices, progress=self.progress
            )
            train(self.recipe.teacher, teacher, **options)
            # The teacher's own run consumed random numbers; the student's must not depend on whether it was there.
            keras.utils.set_random_seed(self.recipe.seed)
        return load_model(teacher)

    def _test_set(self, image_size, one_hot):
        """Test images in batches that the devices can share."""
        size = distribution.test_batch_size(self.facts.test_examples, self.batch_size, self.devices)
        return data.pipeline(self.data, "test", image_size=image_size, batch_size=size, one_hot=one_hot)

    def _write_recipe(self):
        self.run.write_recipe(self.recipe)
        data.write_stored(self.run.data_path, self.data)

    @contextlib.contextmanager
    def _precision(self):
        previous = keras.config.dtype_policy()
        mixed = self.recipe.mixed_precision or ("float16" if self.scheme.precision == "float16" else None)
        if mixed:
            keras.config.set_dtype_policy(f"mixed_{mixed}")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(previous)


def _start_from(start, network):
    """Gives a network the body of a trained model, which is a name of the zoo, a run's folder or a file."""
    try:
        source = from_zoo(start) if not pathlib.Path(start).exists() and start in zoo_names() else load_model(start)
        copy_body(source, network)
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot start from {start}: {error}") from error


def copy_weights(source, network):
    """Gives a network the weights of another that have the same place, name and shape.

    Returns:
        List of the names, relative to the model, of those that the source does not have.
    """
    theirs, missing = _by_name(source, source.variables), []
    for name, variable in _by_name(network, network.variables).items():
        if name in theirs and tuple(theirs[name].shape) == tuple(variable.shape):
            variable.assign(theirs[name].value)
        else:
            missing.append(name)
    return missing


def _take_over(teacher, network):
    """Gives a network that is not trained all the weights of its teacher."""
    missing = copy_weights(teacher, network)
    for name in _by_name(network, network.trainable_variables):
        if name in missing:
            raise ValueError(f"the teacher has no weight {name} of the network's shape; both must be of one preset")


def _by_name(model, variables):
    """Variables by their path in the model; the states of random generators have none."""
    parts = ((variable.path.partition("/"), variable) for variable in variables)
    return {name: variable for (root, _, name), variable in parts if root == model.name}


def evaluate(model, dataset, data_dir=None, batch_size=256):
    """Top-1 and top-5 accuracy and cross-entropy of a backbone on the test images of a dataset.

    Args:
        model: backbone.
        dataset: its name, or where it is; see `acdbit_keras.models.data.sources`.
        data_dir: where the datasets are prepared.
        batch_size: images at once.

    Raises:
        ValueError: if the model's classes or image channels are not those of the dataset.
    """
    found = data.source(dataset, data_dir)
    found.check()
    facts = found.info()
    if (model.classes, model.channels) != (facts.classes, facts.channels):
        raise ValueError(
            f"the model has {model.classes} classes and {model.channels} image channels, "
            f"{found.name} has {facts.classes} and {facts.channels}"
        )
    test = data.pipeline(found, "test", image_size=model.image_size, batch_size=batch_size)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(k=min(5, facts.classes), name="top5"),
        ],
        # On TensorFlow, compiling takes longer than it saves in one pass.
        jit_compile=False if keras.config.backend() == "tensorflow" else "auto",
    )
    values = model.evaluate(test, verbose=0, return_dict=True)
    return {"images": facts.test_examples, **{key: float(value) for key, value in values.items()}}


def _check_same_recipe(recipe, run):
    if run.exists and (changed := recipe.differences(run.recipe)):
        raise ValueError(
            f"{run.folder} holds a run with other settings ({', '.join(changed)} differ); choose another folder or remove it"
        )


def _terms(recipe, scheme):
    """The scheme's terms with the recipe's weights; a query-key weight adds the term, a weight of 0 removes one."""
    terms = list(scheme.distillation)
    if recipe.query_key_weight and not any(isinstance(term, QueryKeyDistillation) for term in terms):
        terms.append(QueryKeyDistillation())
    weighted = []
    for term in terms:
        config = term.get_config()
        if isinstance(term, LabelDistillation) and recipe.label_weight is not None:
            config["weight"] = recipe.label_weight
        if isinstance(term, QueryKeyDistillation):
            if recipe.query_key_weight is not None:
                config["weight"] = recipe.query_key_weight
            config["form"] = recipe.query_key_form or config["form"]
        weighted.append(type(term).from_config(config))
    return [term for term in weighted if term.weight]


def learning_rates(recipe, epochs, steps):
    """The schedule of a stage: linear warm-up to the recipe's learning rate, then half a cosine down to 0.

    Args:
        recipe: `Recipe`.
        epochs: of the stage.
        steps: per epoch.
    """
    warmup_epochs = recipe.warmup_epochs if recipe.warmup_share is None else recipe.warmup_share * epochs
    total, warmup = epochs * steps, int(warmup_epochs * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 100 if warmup else recipe.learning_rate,
        decay_steps=max(total - warmup, 1),
        warmup_target=recipe.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _optimizer(recipe, epochs, steps):
    schedule = learning_rates(recipe, epochs, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip_norm)
    optimizer.exclude_from_weight_decay(var_names=_WITHOUT_DECAY)
    return optimizer


def _label_loss(train_set):
    if len(train_set.element_spec[1].shape) == 2:
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _tensorboard(path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return []
    return [keras.callbacks.TensorBoard(str(path), write_graph=False)]


def _result(recipe, run, first):
    """The result of a run whose last stage began with the epoch `first`, counted from 0."""
    rows = run.history
    accuracy = [float(row["val_accuracy"]) for row in rows[first:]]
    speed = sorted(float(row["images_per_second"]) for row in rows)
    return {
        "recipe": recipe.name,
        "epochs": len(rows),
        "accuracy": accuracy[-1],
        "best_accuracy": max(accuracy),
        "best_epoch": first + accuracy.index(max(accuracy)) + 1,
        "training_seconds": sum(float(row["seconds"]) for row in rows),
        "images_per_second_median": speed[len(speed) // 2],
        "backend": keras.config.backend(),
    }
