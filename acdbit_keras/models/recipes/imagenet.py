"""ImageNet-1k at the paper's scale: DeiT-S in patches of 16 of 224-pixel images, 196 tokens.

Written for several GPUs and the JAX backend: `acdbit train imagenet_acd_bit --devices 8`. On one GPU it is the same
training, only longer.
"""

from acdbit_keras.models.recipes.base import at_paper_scale

RECIPES = at_paper_scale("imagenet", "imagenet2012", "vit_small_patch16_224")
