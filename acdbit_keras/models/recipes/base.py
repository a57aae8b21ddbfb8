"""What a recipe is: an experiment as code, every choice of a training run in one flat record."""

import dataclasses
import difflib
import types
import typing


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: how it is asked for.
        dataset: a name of `acdbit_keras.models.data.names()`.
        preset: a name of `acdbit_keras.models.presets()`.
        scheme: a name of `acdbit_keras.schemes.names()`, or a variant of one, `"acd_bit[threshold=mean]"`.
        teacher: name of the recipe whose result is the teacher; `None` trains on the labels alone.
        epochs: passes over the training set.
        batch_size: images per step; incomplete batches are dropped.
        learning_rate: peak of the cosine schedule of AdamW.
        warmup_epochs: linear warm-up to the peak.
        warmup_share: the same as a share of the epochs, for recipes that are run for any number of them; `None` for what
            `warmup_epochs` says.
        weight_decay: of AdamW, on kernels and positions only.
        augment: `"none"`, `"light"`, `"mirror"` or `"strong"`.
        image_size: side in pixels; `None` is that of the preset.
        drop_path: stochastic depth of the last block.
        label_weight, query_key_weight, query_key_form: of the distillation; `None` is what the scheme brings. A query-key
            weight adds the term where the scheme has none; a weight of 0 removes a term.
        clip_norm: global norm to which gradients are clipped; `None` for not.
        mixed_precision: train in float16 (or bfloat16 on accelerators that prefer it) with float32 weights; `None` is
            what the scheme asks for.
        jit_compile: compile the step with XLA. Without it, equal seeds give equal curves on TensorFlow only with
            TF_NUM_INTEROP_THREADS=1 in the environment: its sums of gradients depend on the scheduling.
        kernels: train binary blocks on the compiled kernels of `acdbit_keras.training`, where they are there and know every
            block. On TensorFlow the rest of such a step is not compiled with XLA, whatever `jit_compile` says.
        steps_per_execution: steps per call of the compiled function.
        seed: the one seed of initial weights, order, augmentation and stochastic depth.
    """

    name: str
    dataset: str
    preset: str
    scheme: str
    teacher: str | None = None
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    warmup_share: float | None = None
    weight_decay: float = 0.0
    augment: str = "light"
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

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)

    def with_settings(self, settings):
        """A recipe changed by `key=value` strings, as given to `--set`.

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
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown setting {key!r}; known: {', '.join(known)}{hint}")
            changes[key] = _parse(key, text, hints[key])
        return self.replace(**changes)


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
