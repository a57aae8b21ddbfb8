"""The recipes: teacher and student fit each other, and those of the paper's scale are what they say."""

import json

import pytest

from acdbit_keras import schemes
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
    channels = data.info(recipe.dataset).channels
    assert presets.get(recipe.preset).sizes.get("channels", channels) == channels, (
        "a preset that says none takes those of the data"
    )
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


# === The same on other data ===


def test_a_recipe_on_other_data_has_a_teacher_and_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images").mkdir()
    recipe = recipes.get("cifar10_small_acd_bit@./my_images/")
    assert (recipe.name, recipe.dataset) == ("cifar10_small_acd_bit@my_images", "./my_images")
    assert recipe.replace(name="a", dataset="b", teacher="c") == recipes.get("cifar10_small_acd_bit").replace(
        name="a", dataset="b", teacher="c"
    )
    teacher = recipes.get(recipe.teacher)
    assert teacher == recipes.get("cifar10_small_teacher").replace(name="cifar10_small_teacher@my_images", dataset="./my_images")
    assert recipe == recipes.get("cifar10_small_acd_bit").with_settings(["dataset=my_images"]) == recipe.on("my_images")
    assert recipe.on("cifar100").teacher == "cifar10_small_teacher@cifar100", "never one data behind the other"
    assert recipes.get("cifar10_small_acd_bit@cifar10") == recipes.get("cifar10_small_acd_bit")
    with pytest.raises(ValueError, match="unknown recipe 'cifar10_smal_acd_bit'.*did you mean 'cifar10_small_acd_bit'"):
        recipes.get("cifar10_smal_acd_bit@./my_images")
    # Options belong to the data, not to their name.
    assert recipes.get("digits_teacher@my_images[holdout=0.1]").name == "digits_teacher@my_images"
    assert recipes.get("digits_teacher@tfds:stl10/one").name == "digits_teacher@stl10_one"


def test_what_a_recipe_starts_from_and_learns_its_labels_from_goes_to_other_data_unless_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipes.get("cifar10_midi")
    moved = recipe.on("cifar100")
    assert (recipe.label_teacher, recipe.start) == ("cifar10_cnn", "cifar10_midi_acd_bit")
    assert (moved.label_teacher, moved.start) == ("cifar10_cnn@cifar100", "cifar10_midi_acd_bit@cifar100")
    assert moved.on("digits").label_teacher == "cifar10_cnn@digits", "never one data behind the other"
    (tmp_path / "cnn.keras").touch()
    there = recipe.replace(label_teacher="cnn.keras", start="cifar10_edge").on("cifar100")
    assert (there.label_teacher, there.start) == ("cnn.keras", "cifar10_edge")


# === Recipes of files ===

FILE = """
from acdbit_keras import schemes
from acdbit_keras.models.recipes import Recipe
from acdbit_keras.models.recipes.cifar10 import SMALL_TEACHER
TEACHER = Recipe("my_teacher", "digits", "vit_nano_patch2_8", "float32", epochs=3)
OURS = schemes.get("acd_bit").replace(name="ours")
STUDENT = TEACHER.replace(name="my_student", scheme=OURS, teacher="my_teacher", label_teacher="TEACHER", start="cifar10_edge")
NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return str(tmp_path / "mine.py")


def test_a_recipe_of_a_file_by_its_variable_or_its_name_and_its_teacher_beside_it(file):
    student = recipes.get(f"{file}:STUDENT")
    assert student.name == "my_student" and student.scheme.name == "ours" and recipes.get(f"{file}:my_student") == student
    assert student.teacher == f"{file}:my_teacher" and recipes.get(student.teacher).epochs == 3
    moved = recipes.get(f"{file}:STUDENT@fashion_mnist")
    assert moved.name == "my_student@fashion_mnist" and moved.teacher == f"{file}:my_teacher@fashion_mnist"
    assert recipes.get(moved.teacher).name == "my_teacher@fashion_mnist"
    assert (student.label_teacher, student.start) == (f"{file}:TEACHER", "cifar10_edge")
    assert (
        moved.label_teacher == f"{file}:TEACHER@fashion_mnist"
        and recipes.get(moved.label_teacher).name == recipes.get(moved.teacher).name
    )
    assert recipes.get(f"{file}:SMALL_TEACHER") is recipes.get("cifar10_small_teacher")


def test_a_file_of_one_recipe_needs_no_name(tmp_path):
    (tmp_path / "beside.py").write_text("EPOCHS = 7\n")
    text = "from beside import EPOCHS\nfrom acdbit_keras.models.recipes.digits import RECIPES as KNOWN\n"
    path = tmp_path / "one.py"
    path.write_text(text + "RECIPES = (KNOWN[0].replace(name='longer', epochs=EPOCHS),)\n")
    assert recipes.get(str(path)).epochs == 7 and recipes.get(f"{path}:longer").name == "longer"


@pytest.mark.parametrize(
    "text, name, message",
    [
        (FILE, "", "mine.py holds 2 recipes, my_teacher, my_student; name one, .*mine.py:NAME"),
        (
            FILE,
            ":STUDNET",
            "unknown recipe of .*mine.py 'STUDNET'; known: STUDENT, TEACHER, my_student, .*did you mean 'STUDENT'",
        ),
        (FILE, ":NUMBER", "NUMBER of .*mine.py is no Recipe, but of the type int"),
        ("a = 1\n", ":B", "mine.py holds no recipe$"),
        ("a = 1\n", "", "mine.py holds no recipe of its own"),
        ("RECIPES = [3]\n", "", "RECIPES of .*mine.py must hold recipes, not int"),
        ("a = 1\n\nb = a +\n", "", "mine.py cannot be imported: SyntaxError in line 3: invalid syntax"),
        ("a = 1\nb = c\n", "", "mine.py cannot be imported: NameError in line 2: name 'c' is not defined"),
        ("import nowhere_at_all\n", "", "mine.py cannot be imported: ModuleNotFoundError in line 1: No module named"),
        (None, "", "there is no file .*mine.py"),
    ],
)
def test_files_without_such_a_recipe(text, name, message, tmp_path):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=message) as refusal:
        recipes.get(f"{tmp_path / 'mine.py'}{name}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", schemes.names())
def test_a_recipe_that_holds_a_scheme_survives_json(name):
    scheme = schemes.get(name).replace(name="ours")
    recipe = recipes.get("digits_acd_bit").replace(scheme=scheme)
    again = recipes.Recipe(**json.loads(json.dumps(recipe.to_dict())))
    assert again.differences(recipe) == [] and again.scheme.definition() == scheme.definition()
    assert again.scheme_name == "ours" and again.scheme.post_training == scheme.post_training
    assert [stage.changes.keys() for stage in again.scheme.stages] == [stage.changes.keys() for stage in scheme.stages]
    other = recipe.replace(scheme=scheme.replace(branches=not scheme.branches), epochs=1)
    assert recipe.differences(other) == ["scheme", "epochs"]
