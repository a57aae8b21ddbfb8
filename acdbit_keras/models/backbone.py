"""What the backbones share: patches, positions, stages of blocks, mean over tokens, norm, classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import keras
from keras import layers

from acdbit_keras import checks, freezing, replicas, schemes
from acdbit_keras.layers.attention import check_heads
from acdbit_keras.layers.stem import ConvolutionalStem, PatchEmbedding, PooledStem, WidePooledStem
from acdbit_keras.models.blocks import BLOCKS, MIXINGS, BinaryBlock, FloatBlock, PatchMerging
from acdbit_keras.quick_start import QuickStart
from acdbit_keras.typing import SchemeLike, Shape, Tensor

STEMS = {"patch": PatchEmbedding, "convolutional": ConvolutionalStem, "pooled": PooledStem, "wide_pooled": WidePooledStem}


class Stage(NamedTuple):
    """Blocks of one resolution; the other arguments are those of a block.

    Attributes:
        width: channels of a token.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward part over `width`.
        reduction: side of the window of tokens that share a key and a value; default 1.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: int
    reduction: int = 1


class Backbone(QuickStart):
    """Vision transformer without a class token, built on construction. Subclasses name their sizes and make the stages.

    Float in every scheme: patch embedding, positions, norms, classifier.

    Args:
        stages: sequence of `Stage`; from one to the next 2x2 tokens become one.
        scheme: scheme, its name or config, as `acdbit_keras.schemes.get` takes it.
        classes: number of classes, at least 1.
        image_size: side of the square image in pixels, or height and width; divisible by `patch_size`.
        patch_size: side of a square patch in pixels, or height and width.
        channels: number of image channels.
        stem: `"patch"`, one convolution per patch, `"convolutional"`, 3x3 convolutions of stride 2, `"pooled"`, 3x3
            convolutions of stride 1 with max-pooling, or `"wide_pooled"`, the same of twice the width.
        drop_path: stochastic-depth rate of the last block, in [0, 1); it grows linearly from 0.
        mixing: what adds neighbouring tokens in the binary blocks of a scheme with branches: `"pooling"`, the default, scaled
            means over lines of tokens, or `"depthwise"`, a learned 3x3 convolution. Other blocks have neither.
        float_merging: whether the merging of tokens is a float product in a binary scheme, too; default False.
        frozen: names of the parts that stand still while the others are trained, see `frozen`; default: none.

    Call arguments:
        images: `(batch, height, width, channels)`, normalised; integers are taken as numbers.
        return_taps: whether what every block hands out is returned, too; default False.

    Returns:
        Logits `(batch, classes)`; with `return_taps`, `{"logits": ..., "taps": [dict per block]}`.

    Raises:
        ValueError: on sizes that do not fit.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> from acdbit_keras.models.backbone import Stage
        >>> class TwoStages(acd.models.Backbone):
        ...     def __init__(self, scheme="acd_bit", classes=10, image_size=8, channels=1, **kwargs):
        ...         stages = [Stage(32, 1, num_heads=1, mlp_ratio=2), Stage(64, 2, num_heads=2, mlp_ratio=2)]
        ...         super().__init__(stages, scheme, classes, image_size, 2, channels, "patch", 0.0, **kwargs)
        >>> outputs = TwoStages(classes=3)(np.zeros((5, 8, 8, 1), "float32"), return_taps=True)
        >>> print(outputs["logits"].shape)
        (5, 3)
        >>> for tap in outputs["taps"]:
        ...     print(tap["features"].shape)
        (5, 4, 4, 32)
        (5, 2, 2, 64)
        (5, 2, 2, 64)
    """

    # === Config ===
    def __init__(
        self,
        stages: Sequence[Stage],
        scheme: SchemeLike,
        classes: int,
        image_size: int | Sequence[int],
        patch_size: int | Sequence[int],
        channels: int,
        stem: str,
        drop_path: float,
        float_merging: bool = False,
        frozen: Sequence[str] = (),
        mixing: Literal["pooling", "depthwise"] = "pooling",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(classes=classes, image_size=image_size, patch_size=patch_size, channels=channels)
        image_size, patch_size = sides("image_size", image_size), sides("patch_size", patch_size)
        if any(side % part for side, part in zip(_pair(image_size), _pair(patch_size))):
            raise ValueError(f"image_size={image_size} is not divisible by patch_size={patch_size}")
        checks.choice("stem", stem, STEMS)
        checks.choice("mixing", mixing, MIXINGS)
        self.scheme = schemes.get(scheme)
        for stage in stages:
            check_heads(stage.width, stage.num_heads, self.scheme.is_binary)
        self.classes = classes
        self.image_size = image_size
        self.patch_size = patch_size
        self.channels = channels
        self.stem = stem
        self.mixing = mixing
        self.drop_path_rate = drop_path
        if any(side % 2 ** (len(stages) - 1) for side in _pair(self.grid)):
            raise ValueError(
                f"image_size={image_size} and patch_size={patch_size} give {self.grid} tokens per side, "
                f"which {len(stages)} stages cannot halve {len(stages) - 1} times"
            )

        self.patch_embedding = STEMS[stem](stages[0].width, patch_size, name="patch_embedding")
        self.mergings = [
            PatchMerging(stage.width, self.scheme, float_merging, name=f"merging_{index}")
            for index, stage in enumerate(stages[1:], start=1)
        ]
        block, last = BLOCKS[self.scheme.block], sum(stage.depth for stage in stages) - 1
        self.blocks, self._depths = [], tuple(stage.depth for stage in stages)
        for stage in stages:
            for _ in range(stage.depth):
                index = len(self.blocks)
                self.blocks.append(
                    block(
                        stage.width,
                        stage.num_heads,
                        stage.mlp_ratio,
                        self.scheme,
                        drop_path=drop_path * index / max(last, 1),
                        reduction=stage.reduction,
                        mixing=mixing,
                        name=f"block_{index}",
                    )
                )
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        if self.scheme.block == "float":
            self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")
        else:
            self.norm = replicas.batch_normalization(epsilon=1e-5, momentum=0.9, name="norm")
        self.classifier = layers.Dense(classes, name="classifier", dtype="float32")
        self.build((None, *self.input_shape_of_images))
        self._freeze(frozen if self.trainable else self._parts())

    @property
    def frozen(self) -> list[str]:
        """Names of the parts, layers and `"positions"`, whose `trainable` is false."""
        return [name for name, part in self._parts().items() if not part.trainable]

    def freeze_body(self) -> None:
        """Leaves the classifier alone to be trained: all else stands still, and computes as at inference."""
        self._freeze(name for name, part in self._parts().items() if part is not self.classifier)

    def _freeze(self, names):
        parts = self._parts()
        for name in names:
            checks.choice("frozen", name, parts)
            parts[name].trainable = False

    def _parts(self):
        layers_ = (self.patch_embedding, *self.mergings, *self.blocks, self.norm, self.classifier)
        return {**{layer.name: layer for layer in layers_}, "positions": self.positions}

    @property
    def grid(self) -> int | tuple[int, int]:
        """Tokens per side behind the patch embedding; rows and columns where they differ."""
        rows, columns = (side // part for side, part in zip(_pair(self.image_size), _pair(self.patch_size)))
        return rows if rows == columns else (rows, columns)

    @property
    def input_shape_of_images(self) -> tuple[int, ...]:
        """Shape of one image, `(height, width, channels)`."""
        return (*_pair(self.image_size), self.channels)

    @property
    def stages(self) -> list[tuple[PatchMerging | None, list[FloatBlock | BinaryBlock]]]:
        """List of `(merging, blocks)`, the `PatchMerging` in front of a stage, `None` for the first, and its blocks."""
        starts = [sum(self._depths[:index]) for index in range(len(self._depths))]
        return [
            (merging, self.blocks[start : start + depth])
            for merging, start, depth in zip([None, *self.mergings], starts, self._depths)
        ]

    def build(self, input_shape: Shape) -> None:
        grid_shape = (input_shape[0], *_pair(self.image_size), self.channels)
        self.patch_embedding.build(grid_shape)
        tokens = self.patch_embedding.compute_output_shape(grid_shape)
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.positions = self.add_weight(name="positions", shape=(1, *tokens[1:]), initializer=initializer)
        for merging, blocks in self.stages:
            if merging is not None:
                merging.build(tokens)
                tokens = merging.compute_output_shape(tokens)
            for block in blocks:
                block.build(tokens)
        self.norm.build((input_shape[0], tokens[-1]))
        self.classifier.build((input_shape[0], tokens[-1]))
        self.input_spec = keras.layers.InputSpec(shape=(None, *self.input_shape_of_images))
        self.built = True

    def call(self, images: Tensor, training: bool | None = None, return_taps: bool = False) -> Tensor | dict[str, Any]:
        training = freezing.mode(self, training)
        options = {} if self.stem == "patch" else {"training": training}
        if not keras.backend.is_float_dtype(images.dtype):
            images = keras.ops.cast(images, self.compute_dtype)
        x = self.patch_embedding(self.on_grid(images), **options) + self.positions
        taps = []
        for merging, blocks in self.stages:
            if merging is not None:
                x = merging(x, training=training)
            for block in blocks:
                x, tap = block(x, training=training)
                taps.append(tap)
        logits = self.classifier(self.norm(self.pool(x), training=training))
        return {"logits": logits, "taps": taps} if return_taps else logits

    def on_grid(self, images: Tensor) -> Tensor:
        """What the model takes as images `(batch, height, width, channels)`."""
        return images

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.classes)

    def compute_output_spec(self, images: Tensor, training: bool | None = None, return_taps: bool = False) -> Any:
        if return_taps:
            # More than one shape says: taken from a trace.
            return keras.Operation.compute_output_spec(self, images, training=training, return_taps=True)
        return keras.KerasTensor((images.shape[0], self.classes), dtype="float32")

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`, of a model that was never called, too."""
        self(keras.ops.zeros((1, *self.input_shape_of_images)), training=False)
        return super().export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # Without the precision it was trained in: weights are float32, and a loaded model runs as its surroundings say.
        return {
            "name": self.name,
            "scheme": self.scheme.get_config(),
            "classes": self.classes,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "channels": self.channels,
            "stem": self.stem,
            "drop_path": self.drop_path_rate,
            "mixing": self.mixing,
            **self._standing(),
        }

    def _standing(self):
        """What of it is frozen, as its configuration says it; nothing as a rule."""
        if not self.trainable:
            return {"trainable": False}
        return {"frozen": self.frozen} if self.frozen else {}


def sides(name: str, value: int | Sequence[int]) -> int | tuple[int, int]:
    """A side, or height and width where they differ.

    Raises:
        ValueError: neither one positive integer nor two.
    """
    if isinstance(value, (tuple, list)):
        check_positive(**{name: value})
        if len(value) != 2:
            raise ValueError(f"{name} must be one side, or height and width, not {value!r}")
        return value[0] if value[0] == value[1] else tuple(value)
    return value


def _pair(size):
    return size if isinstance(size, tuple) else (size, size)


def check_positive(**sizes):
    """Raises ValueError unless every value is a positive integer, or a sequence of some."""
    for name, value in sizes.items():
        for number in value if isinstance(value, (tuple, list)) else (value,):
            checks.integer(name, number, 1)
