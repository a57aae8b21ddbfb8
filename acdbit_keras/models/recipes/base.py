"""What a recipe is: an experiment as code, every choice of a training run in one flat record."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from acdbit_keras import checks, schemes
from acdbit_keras.models import data, optimization
from acdbit_keras.registry import unknown
from acdbit_keras.typing import Path

# A recipe and, behind "@", the data it is trained on in place of its own; the recipe may be one of a file, `path.py:NAME`.
_IDENTIFIER = re.compile(r"(?P<recipe>.+?\.py(?::[^@]*)?|[^@]+)(?:@(?P<data>.+))?", re.DOTALL)

_AT_LEAST_ZERO = ("learning_rate", "warmup_epochs", "weight_decay", "label_weight", "query_key_weight")
_RANGES = (
    ("clip_norm", lambda value: 0 < value < math.inf, "a positive number or None"),
    ("floor", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("minutes", lambda value: 0 < value < math.inf, "a positive number or None"),
    ("label_smoothing", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    ("ema", lambda value: 0 < value < 1, "above 0 and below 1, or None"),
    ("validation_share", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    ("drop_path", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    ("warmup_share", lambda value: 0 <= value <= 1, "from 0 to 1, or None"),
    *((field, lambda value: 0 <= value < math.inf, "a number of at least 0") for field in _AT_LEAST_ZERO),
)
_LEAST = {"epochs": 1, "batch_size": 1, "accumulate": 1, "steps_per_execution": 1, "statistics_batches": 0, "seed": 0}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: how it is asked for.
        dataset: a name of `acdbit_keras.models.data.names()`, or where your own images are; see `data.sources`.
        preset: a name of `acdbit_keras.models.presets()`.
        scheme: a name of `acdbit_keras.schemes.names()`, a variant of one, `"acd_bit[threshold=mean]"`, or a `Scheme`.
        teacher: the recipe whose result is the teacher, as `recipes.get` takes it; `None`, the default: the labels alone.
        label_teacher: another model whose logits the label term follows, where the other terms follow the teacher: the file of
            any Keras model, a run's folder, a name of the zoo, or a recipe whose run is made where it is not there. Without a
            teacher beside it, the label term is the only one. `None`, the default: the teacher teaches the labels, too.
        epochs: passes over the training set; default 10.
        batch_size: images per step; incomplete batches are dropped; default 128.
        learning_rate: peak of the cosine schedule of AdamW; default 1e-3.
        warmup_epochs: epochs of the linear warm-up to the peak; default 1.
        warmup_share: the same as a share of the epochs, for recipes that are run for any number of them; `None`, the
            default, for what `warmup_epochs` says.
        schedule: how the learning rate rises and falls: `"cosine"`, the default, `"one_cycle"` or `"linear"`; see
            `acdbit_keras.models.optimization.Schedule`.
        floor: the last learning rate as a share of the peak, in [0, 1]; default 0.
        minutes: a budget of time in place of `epochs`: as many as fit, after a step was timed on the machine that trains. The
            time of a teacher that has to be trained first is not in it. `None`, the default, for `epochs`.
        weight_decay: weight decay of AdamW, on kernels and positions only; default 0.
        augment: `"none"`, `"light"`, the default, `"mirror"` or `"strong"`, or one of them with changes in brackets,
            `"mirror[cutmix=1,erasing=0.25]"`; see `acdbit_keras.models.data.Augmentation`.
        label_smoothing: share of each true label that is spread over all classes, in [0, 1); default 0.
        ema: momentum of the moving averages of the weights that are validated and kept in place of them, in (0, 1); `None`,
            the default, for none.
        accumulate: number of batches whose gradients make one step of the optimizer; default 1.
        validation_share: share of the training images of each class, in [0, 1), that is held out and validated on in place of
            the test images, which are then looked at once, by the final model; default 0.
        statistics_batches: number of training batches on which BatchNorm's statistics are measured anew, with weights that stand
            still, before every validation, see `acdbit_keras.models.norms`; default 0: moving averages, as Keras has them.
        image_size: side in pixels; `None`, the default, is that of the preset.
        drop_path: stochastic-depth rate of the last block, in [0, 1); default 0.
        label_weight, query_key_weight, query_key_form: weights and form of the distillation terms; `None`, the default, is
            what the scheme brings. A query-key weight adds the term where the scheme has none; a weight of 0 removes a term.
        clip_norm: global norm to which gradients are clipped; `None`, the default, for not.
        mixed_precision: `"float16"`, or `"bfloat16"` on accelerators that prefer it: what training computes in, with float32
            weights; `None`, the default, is what the scheme asks for.
        jit_compile: whether the step is compiled with XLA; default True. Without it, equal seeds give equal curves on
            TensorFlow only with TF_NUM_INTEROP_THREADS=1 in the environment: its sums of gradients depend on the scheduling.
        kernels: whether binary blocks are trained on the compiled kernels of `acdbit_keras.training`, where they are there and
            know every block; default True. On TensorFlow the rest of such a step is not compiled with XLA, whatever
            `jit_compile` says.
        steps_per_execution: steps per call of the compiled function; default 1.
        seed: the one seed of initial weights, order, augmentation and stochastic depth; default 0.
        start: the trained model whose weights the training begins with, all but those of the head: a name of the zoo, a run's
            folder or a file, or a recipe whose run is made where it is not there, of the recipe's preset; `None`, the default:
            random ones.
        freeze: whether the body stands still and the head alone is trained; default False.
    """

    name: str
    dataset: str
    preset: str
    scheme: str | schemes.Scheme
    teacher: str | None = None
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    warmup_share: float | None = None
    schedule: str = "cosine"
    floor: float = 0.0
    minutes: float | None = None
    weight_decay: float = 0.0
    augment: str = "light"
    label_smoothing: float = 0.0
    ema: float | None = None
    accumulate: int = 1
    validation_share: float = 0.0
    image_size: int | None = None
    drop_path: float = 0.0
    label_weight: float | None = None
    query_key_weight: float | None = None
    query_key_form: str | None = None
    clip_norm: float | None = None
    mixed_precision: str | None = None
    jit_compile: bool = True
    kernels: bool = True
    steps_per_execution: int = 1
    seed: int = 0
    start: str | None = None
    freeze: bool = False
    label_teacher: str | None = None
    statistics_batches: int = 0

    def __post_init__(self):
        if isinstance(self.scheme, dict):
            # As `to_dict` wrote it.
            object.__setattr__(self, "scheme", schemes.get(self.scheme))
        checks.choice("schedule of a recipe", self.schedule, optimization.SCHEDULES)
        for field, least in _LEAST.items():
            checks.integer(f"{field} of a recipe", getattr(self, field), least)
        for field, holds, allowed in _RANGES:
            value = getattr(self, field)
            if value is not None and not holds(value):
                raise ValueError(f"{field} of a recipe must be {allowed}, not {value!r}")

    @property
    def scheme_name(self) -> str:
        """Name of the scheme, be it a `Scheme` itself."""
        return self.scheme.name if isinstance(self.scheme, schemes.Scheme) else self.scheme

    def replace(self, **changes: Any) -> Recipe:
        """A recipe with some fields changed."""
        return dataclasses.replace(self, **changes)

    def on(self, dataset: Path) -> Recipe:
        """The same training on other data, with teachers and a start of its own that are trained on them, too.

        A label teacher or a start that is there already - a file, a run's folder, a name of the zoo - stays what it is.

        It is called `NAME@DATA`, and so is its run: never is a run on other data taken for it.

        Args:
            dataset: name of the data, or where they are; see `acdbit_keras.models.data.sources`.

        Example:
            >>> import acdbit_keras as acd
            >>> acd.models.recipes.get("cifar10_small_acd_bit").on("./my_images").teacher
            'cifar10_small_teacher@./my_images'
        """
        dataset = _written_alike(os.fspath(dataset))
        if dataset == self.dataset:
            return self
        name, teacher = self.name.partition("@")[0], self.teacher and parts(self.teacher)[0]
        return self.replace(
            name=f"{name}@{data.short_name(dataset)}",
            dataset=dataset,
            teacher=teacher and f"{teacher}@{dataset}",
            **{field: _trained_on(getattr(self, field), dataset) for field in ("label_teacher", "start")},
        )

    def to_dict(self) -> dict[str, Any]:
        """The recipe in plain types: `Recipe(**recipe.to_dict())` trains alike."""
        said = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if isinstance(self.scheme, schemes.Scheme):
            said["scheme"] = self.scheme.get_config(training=True)
        return said

    def differences(self, other: Recipe) -> list[str]:
        """Names of the fields in which another recipe differs; equal schemes need not be one object."""
        names = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != getattr(other, f.name)]
        if "scheme" in names and isinstance(self.scheme, schemes.Scheme) and isinstance(other.scheme, schemes.Scheme):
            return [name for name in names if name != "scheme" or self.scheme.definition() != other.scheme.definition()]
        return names

    def with_settings(self, settings: Iterable[str]) -> Recipe:
        """A recipe changed by `key=value` strings, as given to `--set`; another dataset is what `on` makes of it.

        Args:
            settings: the strings; the keys are fields of a recipe, all but `name`.

        Raises:
            ValueError: for an unknown key (listing the known ones and the nearest) or a value of the wrong type.
        """
        changes = {}
        hints = typing.get_type_hints(type(self))
        for setting in settings:
            key, separator, text = setting.partition("=")
            if not separator:
                raise ValueError(f"a setting must have the form key=value, not {setting!r}")
            if key not in hints or key == "name":
                known = [field for field in hints if field != "name"]
                raise unknown("setting", key, known)
            changes[key] = _parse(key, text, hints[key])
        dataset = changes.pop("dataset", self.dataset)
        return self.on(dataset).replace(**changes)


def parts(identifier):
    """The recipe and the data that `"RECIPE"` or `"RECIPE@DATA"` names; the data are None where they are the recipe's own."""
    match = _IDENTIFIER.fullmatch(identifier)
    return (match["recipe"], match["data"]) if match else (identifier, None)


def _trained_on(model, dataset):
    """What a recipe begins with or learns from, on other data: of another recipe its run on them, of a model the model."""
    from acdbit_keras.models import recipes
    from acdbit_keras.models.zoo import zoo_names

    if model is None or os.path.exists(model) or model in zoo_names():
        return model
    recipe, _ = parts(model)
    return f"{recipe}@{dataset}" if recipes.is_one(model) else model


def _written_alike(dataset):
    """One way to write the place of a dataset that lies in a folder, so that equal ones are equal texts."""
    place, bracket, options = (dataset, "", "") if os.path.exists(dataset) else dataset.partition("[")
    if not os.path.exists(place) or place in data.names():
        return dataset
    place = os.path.normpath(place)
    # A name alone is that of a known dataset.
    return (place if os.path.isabs(place) or place.startswith("..") else os.path.join(".", place)) + bracket + options


def at_paper_scale(prefix, dataset, preset):
    """Teacher, ACD-BiT and BinaryViT at the paper's budget: 300 epochs, batches of 512, AdamW, cosine schedule.

    Args:
        prefix: of their names, `<prefix>_teacher`, `<prefix>_acd_bit`, `<prefix>_binary_vit`.
        dataset, preset: as of `Recipe`.

    Source: BinaryViT for the student's recipe, DeiT (arXiv:2012.12877) for the teacher's.
    """
    teacher = Recipe(
        name=f"{prefix}_teacher",
        dataset=dataset,
        preset=preset,
        scheme="float32",
        epochs=300,
        batch_size=512,
        learning_rate=5e-4,
        warmup_epochs=5,
        weight_decay=0.05,
        augment="strong",
        drop_path=0.1,
    )
    student = dict(teacher=teacher.name, warmup_epochs=0, weight_decay=0.0, augment="light", drop_path=0.0)
    return (
        teacher,
        *(teacher.replace(name=f"{prefix}_{scheme}", scheme=scheme, **student) for scheme in ("acd_bit", "binary_vit")),
    )


def _parse(key, text, hint):
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if text.lower() in ("none", "null") and type(None) in kinds:
        return None
    kind = next(k for k in kinds if k is not type(None))
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError(f"{key} must be true or false, not {text!r}")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} must be of type {kind.__name__}, not {text!r}") from None
