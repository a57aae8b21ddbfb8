"""TinyImageNet, 200 classes of 64-pixel images, at the paper's scale: DeiT-S in patches of 8, 64 tokens.

Written for one GPU and the JAX backend; `--devices N` for several.
"""

from acdbit_keras.models.recipes.base import at_paper_scale

RECIPES = at_paper_scale("tiny_imagenet", "tiny_imagenet", "vit_small_patch8_64")
