"""The recipes: teacher and student fit each other, and those of the paper's scale are what they say."""

import pytest

from acdbit_keras.models import data, recipes
from acdbit_keras.models.sizes import registry as presets

pytestmark = pytest.mark.any_backend

AT_PAPER_SCALE = {
    "cifar10": ("cifar10", 32, 64),
    "cifar10_224": ("cifar10", 224, 196),
    "cifar100": ("cifar100", 32, 64),
    "cifar100_224": ("cifar100", 224, 196),
    "tiny_imagenet": ("tiny_imagenet", 64, 64),
    "imagenet": ("imagenet2012", 224, 196),
}


@pytest.mark.parametrize("name", recipes.names())
def test_a_student_and_its_teacher_are_of_one_kind(name):
    recipe = recipes.get(name)
    assert presets.get(recipe.preset).sizes.get("channels", 3) == data.info(recipe.dataset).channels
    assert recipe.warmup_epochs < recipe.epochs and data.info(recipe.dataset).steps_per_epoch(recipe.batch_size) > 0
    if recipe.teacher:
        teacher = recipes.get(recipe.teacher)
        shared = ("dataset", "preset", "image_size")
        assert [getattr(recipe, key) for key in shared] == [getattr(teacher, key) for key in shared]


@pytest.mark.parametrize("prefix", AT_PAPER_SCALE)
def test_the_paper_s_scale(prefix):
    dataset, image_size, tokens = AT_PAPER_SCALE[prefix]
    for system in ("teacher", "acd_bit", "binary_vit"):
        recipe = recipes.get(f"{prefix}_{system}")
        sizes = presets.get(recipe.preset).sizes
        assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (300, 512, 5e-4)
        assert (sizes["width"], sizes["depth"], sizes["num_heads"]) == (384, 12, 6), "DeiT-S"
        assert (recipe.dataset, sizes["image_size"]) == (dataset, image_size)
        assert (sizes["image_size"] // sizes["patch_size"]) ** 2 == tokens
        assert recipe.batch_size % 8 == 0, "several devices share a batch"
        assert recipe.weight_decay == (0.05 if system == "teacher" else 0.0)


@pytest.mark.parametrize("size, systems", [("small", ["teacher", "acd_bit", "binary_vit"]), ("compare", ["teacher", "acd_bit"])])
def test_the_cpu_recipes_of_both_cifars_differ_in_the_data_alone(size, systems):
    for system in systems:
        ten, hundred = recipes.get(f"cifar10_{size}_{system}"), recipes.get(f"cifar100_{size}_{system}")
        assert hundred.replace(name=ten.name, dataset="cifar10", teacher=ten.teacher) == ten
        assert hundred.teacher == (ten.teacher and f"cifar100_{size}_teacher")
