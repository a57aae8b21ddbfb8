"""Runs a recipe: data, model, distillation, stages, checkpoints, logs; resumes what was killed.

What it leaves in the run's folder, `acdbit_keras.models.run` says.
"""

import contextlib
import dataclasses
import math
import pathlib
import time

import keras

from acdbit_keras import execution, replicas, schemes
from acdbit_keras.distillation import Distiller, LabelDistillation, QueryKeyDistillation
from acdbit_keras.files import read_json, write_beside, write_json
from acdbit_keras.models import budget, data, distribution, hosts, norms, optimization, recipes, views
from acdbit_keras.models.callbacks import (
    Checkpoints,
    Speed,
    StopOnNonFinite,
    TestAveragedWeights,
    read_progress,
    restore_state,
)
from acdbit_keras.models.data.validation import HeldOut
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Busy, Run
from acdbit_keras.models.sizes import build
from acdbit_keras.models.zoo import from_zoo, zoo_names
from acdbit_keras.models.zoo.transfer import copy_body
from acdbit_keras.text import noun
from acdbit_keras.training import executor_for

CALIBRATION_BATCHES = 10


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
        devices: number of devices that share every batch, of this host where several have joined (`acdbit_keras.models.hosts`);
            see `acdbit_keras.models.distribution`.
        progress: called at the end of every epoch with the recipe's name, the number of epochs done, their total, and a dict
            of the epoch's metrics.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: if the folder belongs to another recipe, its images are no longer those that it was begun with, or on
            anything the recipe asks for that does not exist.
        Busy: another process trains in the folder, or in that of a recipe that this one needs; a `ValueError`, too.
        OSError: if the folder cannot be written; what was written before stays complete.
        FloatingPointError: if the loss stops being finite, naming the step.
        ConnectionError: if another host is lost; started again, all go on from the last finished epoch.
    """
    recipe, run = recipes.get(recipe), Run(folder)
    _check_same_recipe(recipe, run)
    if run.is_finished:
        return run.result
    try:
        # Host 0 holds the lock for all, before any of them looks into the folder.
        with run.locked() if hosts.index() == 0 else contextlib.nullcontext():
            hosts.barrier(f"locked {run.folder}")
            if run.is_finished:
                # By a process that ended between the two looks.
                return run.result
            training = _Training(recipe, run, data_dir, teacher, runs, verbose, devices, progress)
            training.begin()
            if training.scheme.post_training:
                result = training.calibrate()
            else:
                with distribution.using(devices, training.batch_size):
                    result = training.train()
            if training.writes:
                run.write_result(result)
            hosts.barrier(f"finished {run.folder}")
            return result
    except Exception as error:
        if hosts.lost(error):
            raise ConnectionError(
                f"another host was lost ({str(error).strip().splitlines()[0]}); start all of them again: "
                f"the run in {run.folder} goes on after epoch {run.finished_epochs}"
            ) from error
        raise


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
    elif terms := terms_of(training.recipe, training.scheme):
        Distiller(teacher, network, terms)


@dataclasses.dataclass
class _Assembled:
    """What a stage is trained with."""

    network: keras.Model
    model: keras.Model
    previous: keras.Model | None
    train_set: object
    test_set: object
    steps: int
    executor: execution.KerasExecutor


class _Training:
    """A recipe on its way into a `Run`'s folder; the other arguments are those of `train`."""

    def __init__(self, recipe, run=None, data_dir=None, teacher=None, runs="runs", verbose="auto", devices=1, progress=None):
        self.recipe = recipe
        self.run = run
        self.data_dir = data_dir
        self.teacher = teacher
        self.runs = runs
        # Of several hosts, the first writes and speaks.
        self.writes = hosts.index() == 0
        self.verbose = verbose if self.writes else 0
        self.devices = devices
        self.all_devices = devices * hosts.count()
        self.progress = progress if self.writes else None
        self.scheme = schemes.get(recipe.scheme)
        self.data = self._find_data()
        # Before the facts: of pictures that have changed since they were stored it counts anew.
        self.data.check()
        # What it is trained and validated on.
        self.shown = HeldOut(self.data, recipe.validation_share, recipe.seed) if recipe.validation_share else self.data
        self.facts = self.shown.info()
        # Your own images may be fewer than a recipe's batch.
        self.batch_size = min(recipe.batch_size, self.facts.train_examples)
        self.has_teacher = bool(recipe.teacher or teacher)

    def _find_data(self):
        """The recipe's data; of a run that was begun, those that it was begun with."""
        if self.run is None or not self.run.data_path.exists():
            return data.source(self.recipe.dataset, self.data_dir)
        found = data.read_stored(self.run.data_path, self.data_dir)
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
                hosts.save(self.run.model_path if is_last else left, network)
                hosts.barrier(f"stage {index} of {self.run.folder}")
        result = result_of(self.recipe, self.run, first)
        if self.recipe.validation_share:
            # Looked at once, by the model that is kept.
            result |= {
                "validation_accuracy": result["accuracy"],
                "accuracy": evaluate(load_model(self.run.model_path), self.data)["accuracy"],
            }
        return result

    def begin(self):
        """Settles the number of epochs, and says what is to come."""
        if self.recipe.statistics_batches and self.all_devices > 1:
            raise ValueError("statistics_batches of a recipe is for one device; pass --set statistics_batches=0 with several")
        if self.scheme.post_training and hosts.count() > 1:
            raise ValueError(f"the scheme {self.scheme.name!r} is not trained, so it is made on one host")
        distribution.check_recipe(self.recipe, self.all_devices)
        self.planned = self.plan()
        # Each host measured for itself where the epochs follow from a budget; and none writes before all have read.
        self.planned = dataclasses.replace(self.planned, epochs=hosts.agreed(self.planned.epochs))
        self.recipe = self.recipe.replace(epochs=self.planned.epochs)
        if self.verbose:
            print(budget.describe(self.planned, self.recipe, self.run.finished_epochs, self.run.seconds_per_epoch), flush=True)

    def plan(self):
        """The `Plan` of the run: that of its folder, or a new one, for which a budget has a step measured."""
        recipe, run = self.recipe, self.run
        if run.plan_path.exists():
            kept = budget.Plan(**read_json(run.plan_path))
            if kept.devices != self.all_devices:
                raise ValueError(
                    f"the run in {run.folder} was begun on {kept.devices} {noun(kept.devices, 'device')}, not on "
                    f"{self.all_devices}; pass --devices {kept.devices}, or as many over all hosts, or another folder"
                )
            return kept
        if recipe.minutes is None or self.scheme.post_training:
            return budget.Plan(self.all_devices, recipe.epochs)
        stage, scheme, _, _ = self.scheme.schedule(recipe.epochs)[0]
        batches = -(-self.facts.test_examples // self.batch_size)
        with distribution.using(self.devices, self.batch_size):
            assembled = self._assemble(0, stage, scheme, 0, recipe.epochs, 0)
            with execution.using(assembled.executor):
                measured = budget.measure(assembled.model, assembled.train_set, assembled.test_set, batches)
        return budget.plan(recipe, self.all_devices, measured, assembled.steps, self.batch_size)

    def _assemble(self, index, stage, scheme, first, end, epoch):
        """A stage's network, what trains it, compiled, and its data from an epoch on."""
        recipe = self.recipe
        with self._precision():
            keras.utils.set_random_seed(recipe.seed)
            network = model = self.network(scheme)
            if recipe.start and epoch == 0:
                self._start_from(recipe.start, network)
            if recipe.freeze:
                network.freeze_body()
            previous = load_model(self.run.stage_path(index - 1)) if index else None
            terms = terms_of(recipe, scheme)
            if terms and (self.has_teacher or recipe.label_teacher):
                model = self._distiller(lambda: previous if stage.teacher == "previous" else self._teacher(), network, terms)
            train_set, test_set = data.load(
                self.shown,
                image_size=network.image_size,
                batch_size=self.batch_size,
                seed=recipe.seed,
                augment=recipe.augment,
                epochs=recipe.epochs,
                initial_epoch=min(epoch, end - 1),
            )
            if self.all_devices > 1:
                test_set = self._test_set(network.image_size, one_hot=len(train_set.element_spec[1].shape) == 2)
                train_set = hosts.own_part(train_set)
            steps = self.facts.steps_per_epoch(self.batch_size)
            executor = self._executor(network)
            distils_labels = model is not network and scheme.distillation
            mixed = len(train_set.element_spec[1].shape) == 2
            loss = None if distils_labels else optimization.label_loss(mixed, self.facts.classes, recipe.label_smoothing)
            model.compile(
                optimizer=optimization.optimizer(recipe, optimization.learning_rates(recipe, end - first, steps)),
                loss=loss,
                metrics=["accuracy"],
                # A step on several devices is none of XLA's on TensorFlow.
                jit_compile=recipe.jit_compile and executor.allows_xla and replicas.number() == 1,
                steps_per_execution=recipe.steps_per_execution,
            )
        return _Assembled(network, model, previous, train_set, test_set, steps, executor)

    def _stage(self, index, stage, scheme, first, end):
        """The network as it is at the end of a stage, whose finished epochs, if any, are in the state file."""
        recipe = self.recipe
        epoch, best = read_progress(self.run.state_path)
        if epoch <= first:
            # That state, if any, is the end of the stage before.
            epoch, best = first, -math.inf
        made = self._assemble(index, stage, scheme, first, end, epoch)
        network, model = made.network, made.model
        self._write_recipe()
        if epoch > first:
            restore_state(self.run.state_path, network, model.optimizer)
        elif made.previous is not None:
            copy_weights(made.previous, network)
        if epoch and self.writes:
            self.run.forget_epochs_from(epoch)
        if epoch < end:
            with execution.using(made.executor):
                model.fit(
                    made.train_set,
                    validation_data=made.test_set,
                    epochs=end,
                    initial_epoch=epoch,
                    steps_per_epoch=made.steps,
                    shuffle=False,
                    verbose=self.verbose,
                    callbacks=[
                        hosts.Settled(),
                        StopOnNonFinite(),
                        Speed(made.steps * self.batch_size),
                        TestAveragedWeights(),
                        *self._statistics(network),
                        *self._log(epoch),
                        Checkpoints(self.run, network, best=best),
                        *self._told(),
                    ],
                )
        elif recipe.ema is not None:
            # As Keras leaves them at the end of `fit`.
            optimization.keep_averages(model.optimizer)
        return network

    def _distiller(self, teacher, network, terms):
        """The student in the hands of its teachers: of one, or the labels from one and everything else from another."""
        if self.recipe.label_teacher is None:
            return Distiller(teacher(), network, terms)
        labels = [term for term in terms if isinstance(term, LabelDistillation)]
        if not labels:
            raise ValueError(
                f"label_teacher={self.recipe.label_teacher} has nothing to teach: "
                f"the scheme {self.scheme.name!r} has no label term, or the recipe takes it away"
            )
        try:
            label_teacher = self._found(self.recipe.label_teacher)
        except Busy:
            raise
        except (ValueError, OSError) as error:
            raise ValueError(f"cannot learn the labels from {self.recipe.label_teacher}: {error}") from error
        views.check(self.recipe.label_teacher, self.facts)
        # The student's random numbers must not depend on what was loaded or trained for it.
        keras.utils.set_random_seed(self.recipe.seed)
        if not self.has_teacher or len(labels) == len(terms):
            return Distiller(label_teacher, network, labels)
        weights = {term.name: [1, 0] if term in labels else [0, 1] for term in terms}
        return Distiller([label_teacher, teacher()], network, terms, weights)

    def _start_from(self, start, network):
        """Gives a network the body of a trained model."""
        try:
            copy_body(self._found(start), network)
        except Busy:
            raise
        except (ValueError, OSError) as error:
            raise ValueError(f"cannot start from {start}: {error}") from error

    def _found(self, name):
        """The trained model that a name of the zoo, a run's folder, a file, or a recipe stands for."""
        if pathlib.Path(name).exists():
            return load_model(name)
        if name in zoo_names():
            return from_zoo(name)
        if recipes.is_one(name):
            return self._of_recipe(name)
        return load_model(name)

    def _executor(self, network):
        """Compiled kernels, where the recipe wants them and they know the network; they do not share a batch between devices."""
        if not self.recipe.kernels or self.all_devices > 1:
            return execution.KerasExecutor()
        return executor_for(network.blocks)

    def _statistics(self, network):
        """Of the averaged weights, where there are some: behind what puts them in place."""
        count = self.recipe.statistics_batches
        if not count:
            return []
        # The same batches each time, so that a resumed run measures what an unbroken one does.
        options = dict(image_size=network.image_size, batch_size=self.batch_size, seed=self.recipe.seed, epochs=1)
        batches, _ = data.load(self.shown, augment=self.recipe.augment, **options)
        return [norms.StandingStatistics(network, lambda: (images for images, *_ in batches.take(count).as_numpy_iterator()))]

    def _log(self, epoch):
        """Before the state: a row too many is dropped when the run is resumed, a missing one would stay missing."""
        if not self.writes:
            return []
        rows = keras.callbacks.CSVLogger(str(self.run.history_path), append=epoch > 0)
        return [rows, *_tensorboard(self.run.tensorboard_path)]

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
        return network_of(self.recipe, scheme, self.facts)

    def _teacher(self):
        if self.teacher is not None:
            views.check(self.teacher, self.facts)
            return load_model(self.teacher)
        teacher = self._of_recipe(self.recipe.teacher)
        # The teacher's own run consumed random numbers; the student's must not depend on whether it was there.
        keras.utils.set_random_seed(self.recipe.seed)
        return teacher

    def _of_recipe(self, identifier):
        """What a recipe's run has trained, which is gone on with, or begun, if it is not finished."""
        recipe = recipes.get(identifier)
        folder = pathlib.Path(self.runs) / recipe.name
        options = dict(data_dir=self.data_dir, runs=self.runs, verbose=self.verbose, devices=self.devices, progress=self.progress)
        train(recipe, folder, **options)
        return load_model(folder)

    def _test_set(self, image_size, one_hot):
        """Test images in batches that the devices can share."""
        size = distribution.test_batch_size(self.facts.test_examples, self.batch_size, self.all_devices)
        batches = data.pipeline(self.shown, "test", image_size=image_size, batch_size=size, one_hot=one_hot)
        # Batches that do not divide go to every device whole.
        return batches if size % self.all_devices else hosts.own_part(batches)

    def _write_recipe(self):
        if not self.writes:
            return
        self.run.write_recipe(self.recipe)
        if not self.run.plan_path.exists():
            write_json(self.run.plan_path, dataclasses.asdict(self.planned))
        data.write_stored(self.run.data_path, self.data)

    @contextlib.contextmanager
    def _precision(self):
        previous = keras.config.dtype_policy()
        mixed = self.recipe.mixed_precision or ("float16" if self.scheme.precision == "float16" else None)
        # A teacher is trained within its student's training, and has its own recipe's.
        keras.config.set_dtype_policy(f"mixed_{mixed}" if mixed else "float32")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(previous)


def network_of(recipe, scheme, facts):
    """The untrained network of a recipe.

    Args:
        recipe: `Recipe`.
        scheme: its scheme, or that of a stage.
        facts: the `DatasetInfo` of the images.
    """
    size = {} if recipe.image_size is None else {"image_size": recipe.image_size}
    return build(recipe.preset, scheme, facts.classes, drop_path=recipe.drop_path, channels=facts.channels, **size)


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
    if not run.exists:
        return
    kept = run.recipe
    if recipe.minutes is not None and recipe.minutes == kept.minutes:
        # As they were planned for these minutes.
        recipe = recipe.replace(epochs=kept.epochs)
    if changed := recipe.differences(kept):
        raise ValueError(
            f"{run.folder} holds a run with other settings ({', '.join(changed)} differ); choose another folder or remove it"
        )


def terms_of(recipe, scheme):
    """The distillation terms of a recipe: the scheme's, weighted as it says; a query-key weight adds the term, 0 removes one."""
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


def _tensorboard(path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return []
    return [keras.callbacks.TensorBoard(str(path), write_graph=False)]


def result_of(recipe, run, first=0):
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
