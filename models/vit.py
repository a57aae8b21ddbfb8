"""The isotropic vision transformer, built for any scheme."""

import keras
from keras import layers

from acdbit_keras import schemes
from acdbit_keras.layers.attention import check_heads
from acdbit_keras.layers.stem import ConvolutionalStem
from acdbit_keras.models.blocks import BLOCKS

STEMS = ("patch", "convolutional")


@keras.saving.register_keras_serializable(package="acdbit")
class VisionTransformer(keras.Model):
    """Vision transformer without a class token: patches, positions, blocks, mean over tokens, norm, classifier.

    Float in every scheme: patch embedding, positions, norms, classifier. Built on construction.

    Args:
        scheme: scheme, its name or config.
        classes: number of classes.
        image_size: side of the square image in pixels; divisible by `patch_size`.
        patch_size: side of a patch in pixels.
        channels: image channels.
        width: channels of a token; divisible by `num_heads`.
        depth: number of blocks.
        num_heads: attention heads; for a binary scheme width / num_heads is a multiple of 32.
        mlp_ratio: hidden width of the feed-forward part over `width`.
        stem: `"patch"`, one convolution per patch, or `"convolutional"`, 3x3 convolutions of stride 2.
        drop_path: stochastic-depth rate of the last block; it grows linearly from 0.

    Call arguments:
        images: `(batch, image_size, image_size, channels)`, normalised.
        return_taps: also return what every block hands out.

    Returns:
        Logits `(batch, classes)`; with `return_taps`, `{"logits": ..., "taps": [dict per block]}`.

    Raises:
        ValueError: on sizes that do not fit.

    Source: DeiT (arXiv:2012.12877) for the sizes and the float block, BinaryViT for the binary block.
    """

    # === Config ===
    def __init__(
        self,
        scheme="acd_bit",
        classes=10,
        image_size=32,
        patch_size=4,
        channels=3,
        width=192,
        depth=12,
        num_heads=3,
        mlp_ratio=4,
        stem="patch",
        drop_path=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = dict(classes=classes, image_size=image_size, patch_size=patch_size, channels=channels, width=width)
        for name, value in {**sizes, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} is not divisible by patch_size={patch_size}")
        if stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(map(repr, STEMS))}, not {stem!r}")
        self.scheme = schemes.get(scheme)
        check_heads(width, num_heads, self.scheme.is_binary)
        self.classes = classes
        self.image_size = image_size
        self.patch_size = patch_size
        self.channels = channels
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.stem = stem
        self.drop_path_rate = drop_path

        block = BLOCKS[self.scheme.block]
        if stem == "patch":
            self.patch_embedding = layers.Conv2D(width, patch_size, strides=patch_size, name="patch_embedding")
        else:
            self.patch_embedding = ConvolutionalStem(width, patch_size, name="patch_embedding")
        self.blocks = [
            block(
                width,
                num_heads,
                mlp_ratio,
                self.scheme,
                drop_path=drop_path * index / max(depth - 1, 1),
                name=f"block_{index}",
            )
            for index in range(depth)
        ]
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        if self.scheme.block == "float":
            self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")
        else:
            self.norm = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="norm")
        self.classifier = layers.Dense(classes, name="classifier", dtype="float32")
        self.build((None, image_size, image_size, channels))

    @property
    def grid(self):
        """Tokens per side."""
        return self.image_size // self.patch_size

    @property
    def input_shape_of_images(self):
        """Shape of one image, `(height, width, channels)`."""
        return (self.image_size, self.image_size, self.channels)

    def build(self, input_shape):
        tokens = (input_shape[0], self.grid, self.grid, self.width)
        self.patch_embedding.build(input_shape)
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        self.positions = self.add_weight(name="positions", shape=(1, *tokens[1:]), initializer=initializer)
        for block in self.blocks:
            block.build(tokens)
        self.norm.build((input_shape[0], self.width))
        self.classifier.build((input_shape[0], self.width))
        self.input_spec = keras.layers.InputSpec(shape=(None, *self.input_shape_of_images))
        self.built = True

    def call(self, images, training=None, return_taps=False):
        options = {} if self.stem == "patch" else {"training": training}
        x = self.patch_embedding(images, **options) + self.positions
        taps = []
        for block in self.blocks:
            x, tap = block(x, training=training)
            taps.append(tap)
        logits = self.classifier(self.norm(self.pool(x), training=training))
        return {"logits": logits, "taps": taps} if return_taps else logits

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.classes)

    def get_config(self):
        # Without the precision it was trained in: weights are float32, and a loaded model runs as its surroundings say.
        return {
            "name": self.name,
            "scheme": self.scheme.get_config(),
            "classes": self.classes,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "channels": self.channels,
            "width": self.width,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "stem": self.stem,
            "drop_path": self.drop_path_rate,
        }
