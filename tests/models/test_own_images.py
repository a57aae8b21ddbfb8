"""Images of one's own as a dataset: folders, CSV files, arrays, what TensorFlow Datasets prepared; and what is refused."""

import json
import pathlib
import warnings

import numpy as np
import pytest
from outsiders import COLOURS, draw, fill, write_tfds
from PIL import Image

from acdbit_keras import picture
from acdbit_keras.models import data, recipes
from acdbit_keras.models.data import base, pictures, sources
from acdbit_keras.models.data.split import held_out
from acdbit_keras.models.train import _Training
from acdbit_keras.studies.bundle import store

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(autouse=True)
def as_new(monkeypatch):
    """Nothing that another test has registered or read."""
    monkeypatch.setattr(sources.registry, "registered", {})
    monkeypatch.setattr(sources, "_held", type(sources._held)())
    monkeypatch.setattr(sources, "_resolved", {})


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "my_images")


def images_of(batches):
    images, labels = zip(*batches.as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels)


# === One picture ===


def test_a_picture_that_is_not_there_is_told():
    path = pathlib.Path(picture.__file__).parent / "nowhere.png"
    with pytest.raises(ValueError, match="there is no file .*nowhere.png"):
        picture.read(path, 4, 3)


def test_the_central_square_is_kept_pixel_by_pixel(tmp_path):
    pixels = draw(tmp_path / "wide.png", (100, 150, 200), size=(13, 8))
    np.testing.assert_array_equal(picture.read(tmp_path / "wide.png", 8, 3), pixels[:, 2:10])


def test_colour_depth_palette_transparency_and_turns_are_undone(tmp_path):
    grey = np.arange(64, dtype="uint8").reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype("uint16") * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey).save(tmp_path / "grey.bmp")
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    for name in ("grey.png", "deep.png", "palette.png", "grey.bmp"):
        np.testing.assert_array_equal(picture.read(tmp_path / name, 8, 1)[..., 0], grey, err_msg=name)
        np.testing.assert_array_equal(picture.read(tmp_path / name, 8, 3), np.repeat(grey[..., None], 3, -1), err_msg=name)
        assert picture.look(tmp_path / name).grey, name
    np.testing.assert_array_equal(picture.read(tmp_path / "bits.png", 8, 1)[..., 0], 255 * (grey > 100))

    colour = draw(tmp_path / "colour.png", (10, 120, 240), size=(8, 8))
    opaque = np.where(np.arange(8)[:, None, None] < 4, 255, 0) * np.ones((8, 8, 1))
    Image.fromarray(np.concatenate([colour, opaque.astype("uint8")], -1)).save(tmp_path / "alpha.png")
    seen = picture.read(tmp_path / "alpha.png", 8, 3)
    np.testing.assert_array_equal(seen[:4], colour[:4])
    assert (seen[4:] == 255).all(), "what is transparent shows white"
    assert not picture.look(tmp_path / "colour.png").grey

    wide = draw(tmp_path / "upright.png", (100, 100, 100), size=(12, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(wide).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(picture.read_whole(tmp_path / "turned.png", 3), np.rot90(wide, -1))
    look = picture.look(tmp_path / "turned.png")
    assert (look.width, look.height) == (8, 12)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), "uint8")
    large = Image.fromarray(coarse).resize((800, 800), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    exact = np.asarray(large.resize((16, 16), Image.Resampling.BILINEAR), float)
    assert np.abs(picture.read(tmp_path / "large.jpg", 16, 3) - exact).mean() < 3
    look = picture.look(tmp_path / "large.jpg")
    assert (look.width, look.height) == (800, 800)
    np.testing.assert_allclose(look.mean, np.asarray(large).mean((0, 1)) / 255, atol=0.01)


def test_broken_pictures_are_told(tmp_path):
    draw(tmp_path / "cut.jpg", (9, 9, 9), size=(64, 64))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name, reason in (("cut.jpg", "runcated"), ("text.png", "not a picture"), ("empty.png", "not a picture")):
        with pytest.raises(ValueError, match=f"{name} cannot be read: .*{reason}"):
            picture.read(tmp_path / name, 8, 3)
        assert name in picture.look(tmp_path / name).error


# === Folders ===


def test_a_folder_of_class_folders_is_measured(folder):
    draw(folder / "red" / ".hidden.png", (0, 0, 0))
    (folder / "red" / "notes.txt").write_text("no picture")
    facts = data.info(folder)
    assert (facts.name, facts.classes, facts.class_names, facts.channels) == ("my_images", 3, ("blue", "green", "red"), 3)
    assert (facts.train_examples, facts.test_examples, facts.image_size, facts.varying_size) == (12, 3, 9, True)
    train, test = data.load(str(folder), image_size=9, batch_size=4, augment="none")
    images, labels = images_of(train)
    assert images.shape == (12, 9, 9, 3) and sorted(labels) == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=2e-3)
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=2e-3)
    images, labels = images_of(test)
    assert images.shape == (3, 9, 9, 3) and labels.tolist() == [0, 1, 2]
    # A channel is highest in the class of its colour.
    assert images.mean((1, 2)).argmax(1).tolist() == [2, 1, 0]
    assert data.normalize(np.zeros((1, 4, 4, 3)), folder).shape == (1, 4, 4, 3)


def test_grey_pictures_of_one_size_have_one_channel_and_can_be_held_as_arrays(tmp_path):
    fill(tmp_path / "grey", mode="L", size=(8, 8))
    facts = data.info(tmp_path / "grey")
    assert (facts.channels, facts.image_size, facts.varying_size) == (1, 8, False)
    images, labels = data.arrays(tmp_path / "grey", "train")
    assert images.shape == (12, 8, 8, 1) and images.dtype == np.uint8 and not images.flags.writeable
    with pytest.raises(ValueError, match="varying sizes"):
        data.arrays(fill(tmp_path / "colour"), "train")


def test_given_splits_are_kept_and_numbers_are_ordered_as_numbers(tmp_path):
    root = tmp_path / "split"
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for digit in ("0", "9", "10"):
            for index in range(count):
                draw(root / part / digit / f"{index}.png", (int(digit) * 10,) * 3, seed=index)
    report = data.source(root).report()
    assert report["class_names"] == ["0", "9", "10"] and report["split"] == "as given"
    assert (report["train_examples"], report["test_examples"]) == (12, 9) and report["notes"] == ["val/ is not used"]
    (root / "test").rename(tmp_path / "away")
    assert data.info(root).test_examples == 6, "then what is for validation is tested on"


def test_the_held_out_share_is_drawn_from_a_seed_and_may_be_chosen(tmp_path):
    root = fill(tmp_path / "many", count=20, size=(4, 4))

    def test_files(name):
        found = data.source(name)
        return {str(path) for path in found._split("test")[0]}

    assert len(test_files(root)) == 12 and test_files(root) == test_files(root)
    assert len(test_files(f"{root}[holdout=0.5]")) == 30 and test_files(f"{root}[seed=1]") != test_files(root)
    assert not data.info(f"{root}[flip=false]").flip and data.info(root).flip
    before = test_files(root)
    fill(root, count=2, first=20, size=(4, 4))
    assert len(before & test_files(root)) >= 9, "pictures that are added leave most of the others where they were"


def test_the_held_out_share_is_one_of_every_class():
    testing = held_out([str(n) for n in range(23)], [0] * 20 + [1] * 2 + [2], 0.25, 3)
    assert [testing[:20].sum(), testing[20:22].sum(), testing[22]] == [5, 1, 0]


def test_few_broken_pictures_are_left_out_and_named_many_are_refused(tmp_path):
    root = fill(tmp_path / "some", count=9, size=(4, 4))
    (root / "red" / "bad.jpg").write_bytes(b"\xff\xd8\xff and no more")
    with pytest.warns(UserWarning, match="of .*some 1 of 28 pictures are left out: .*bad.jpg cannot be read"):
        facts = data.info(root)
    assert facts.train_examples + facts.test_examples == 27
    (root / "red" / "worse.png").touch()
    with pytest.raises(
        ValueError, match="2 of 29 pictures are left out: .*bad.jpg .*; .*worse.png .*; no more than 5% may be broken"
    ):
        data.info(root)


def test_what_is_too_large_for_memory_is_streamed_and_is_the_same(folder, monkeypatch):
    options = dict(image_size=6, batch_size=3, augment="light", epochs=2, seed=4)
    held = [images_of(pipeline) for pipeline in data.load(folder, **options)]
    read = []
    monkeypatch.setattr(base, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(sources, "held", lambda *arguments: read.append(arguments))
    streamed = [images_of(pipeline) for pipeline in data.load(folder, **options)]
    assert not read
    np.testing.assert_array_equal(held[1][0], streamed[1][0])
    for epoch in range(2):
        assert sorted(streamed[0][1][12 * epoch :][:12]) == sorted(held[0][1][12 * epoch :][:12])
    resumed, _ = images_of(data.load(folder, **options, initial_epoch=1)[0])
    np.testing.assert_array_equal(resumed, streamed[0][0][12:])
    crops, _ = images_of(data.load(folder, **{**options, "augment": data.Augmentation(crop_area=0.2)})[0])
    assert len({crop.tobytes() for crop in crops}) == 24


# === CSV ===


def test_a_csv_with_and_without_header_and_with_a_split(folder, tmp_path):
    rows = [(f"my_images/{name}/{index}.png", name, "test" if index == 4 else "train") for name in COLOURS for index in range(5)]
    plain = "\n".join(f"{path},{label}" for path, label, _ in rows)
    (tmp_path / "plain.csv").write_text(plain)
    (tmp_path / "named.csv").write_text("label;file\n" + "\n".join(f"{label};{path}" for path, label, _ in rows))
    (tmp_path / "split.csv").write_text("path,label,split\n" + "\n".join(map(",".join, rows)))
    (tmp_path / "bare.csv").write_text("\ufeff" + "\n".join(map(",".join, rows)) + "\n\n", encoding="utf-8")
    for name in ("plain", "named"):
        facts = data.info(tmp_path / f"{name}.csv")
        assert (facts.name, facts.class_names, facts.test_examples) == (name, ("blue", "green", "red"), 3)
    for name in ("split", "bare"):
        found = data.source(tmp_path / f"{name}.csv")
        assert {path.name for path in found._split("test")[0]} == {"4.png"} and found.report()["split"] == "as given"
    images, labels = images_of(data.load(tmp_path / "split.csv", image_size=8, batch_size=4)[1])
    assert images.mean((1, 2)).argmax(1).tolist() == [2, 1, 0] and labels.tolist() == [0, 1, 2]


# === Arrays ===


def arrays(count=20, shape=(6, 8), classes=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = np.clip(rng.normal(60, 20, (count, *shape)) + 100 * labels.reshape(-1, *[1] * len(shape)), 0, 255)
    return images.astype("uint8"), labels


def test_arrays_in_a_file_and_in_python(tmp_path):
    images, labels = arrays()
    np.savez(tmp_path / "mine.npz", images=images, labels=labels, class_names=["dark", "light"])
    np.savez(tmp_path / "both.npz", x_train=images, y_train=labels[:, None], x_test=images[:4], y_test=labels[:4, None])
    facts = data.info(tmp_path / "mine.npz")
    assert (facts.class_names, facts.image_size, facts.channels) == (("dark", "light"), 6, 1)
    assert (facts.train_examples, facts.test_examples) == (16, 4)
    assert data.info(tmp_path / "both.npz").train_examples == 20
    read, theirs = data.arrays(tmp_path / "both.npz", "test")
    np.testing.assert_array_equal(read[..., 0], images[:4, :, 1:7])
    np.testing.assert_array_equal(theirs, labels[:4])

    made = data.from_arrays("made", images / 255.0, np.array(["no", "yes"])[labels], holdout=0.5, flip=False)
    facts = made.info()
    assert (facts.class_names, facts.flip, facts.test_examples) == (("no", "yes"), False, 10)
    normal, _ = images_of(data.load(made, batch_size=10, augment="none")[0])
    assert abs(normal.mean()) < 1e-2 and abs(normal.std() - 1) < 1e-2
    assert data.register(made) is made and data.info("made") is facts and "made" in data.names()
    with pytest.raises(ValueError, match="there is a dataset 'digits' already"):
        data.register(data.from_arrays("digits", images, labels))


# === TensorFlow Datasets ===


def test_any_prepared_dataset_of_images_and_labels(tmp_path):
    features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(names=["low", "high"])}
    images, labels = arrays(40, shape=(8, 8))
    examples = [{"image": image[..., None], "label": int(label)} for image, label in zip(images, labels)]
    write_tfds(tmp_path, "strange", features, {"train": examples})
    for name in ("strange", "tfds:strange"):
        facts = data.info(name, tmp_path)
        assert (facts.name, facts.class_names, facts.channels, facts.image_size) == ("strange", ("low", "high"), 1, 8)
        assert (facts.train_examples, facts.test_examples) == (32, 8)
    train, test = (images_of(part) for part in data.load("strange", batch_size=8, data_dir=tmp_path, augment="none"))
    assert abs(train[0].mean()) < 1e-2 and abs(train[0].std() - 1) < 1e-2
    assert len(test[0]) == 8 and ((test[0].mean((1, 2, 3)) > 0) == test[1]).all()
    hidden = [{**example, "label": -1} for example in examples[:4]]
    write_tfds(tmp_path, "hidden", features, {"train": examples, "test": hidden})
    assert len(data.arrays("hidden", "train", tmp_path)[0]) == 40
    with pytest.raises(ValueError, match=r"the split 'test' of hidden cannot be used: labels\[0\]=-1 is outside \[0, 2\)"):
        data.load("hidden", batch_size=8, data_dir=tmp_path)
    write_tfds(tmp_path, "texts", {"text": tfds.features.Text()}, {"train": [{"text": "a"}]})
    with pytest.raises(ValueError, match="texts has the features text; image and label are needed"):
        data.info("tfds:texts", tmp_path)
    with pytest.raises(ValueError, match="TensorFlow Datasets has prepared no 'nothing' in"):
        data.info("tfds:nothing", tmp_path)


# === What a run keeps ===


def kept(found, path):
    data.write_stored(path, found)
    return data.read_stored(path)


def test_a_run_finds_the_same_images_again_without_looking_at_them(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder / "red" / "x").mkdir()
    found = data.source("./my_images[seed=5,flip=false]")
    again = kept(found, tmp_path / "data.json")
    monkeypatch.chdir("/")
    monkeypatch.setattr(picture, "look", None)
    assert again.info() == found.info() and not again.info().flip and again.key() == found.key()
    first, second = (images_of(data.pipeline(each, "test", image_size=6)) for each in (found, again))
    np.testing.assert_array_equal(first[0], second[0])
    assert data.info(str(tmp_path / "data.json")) == data.info(tmp_path) == found.info()
    assert data.short_name(tmp_path / "data.json") == "my_images"


def test_a_folder_that_changed_is_noticed(folder, tmp_path):
    again = kept(data.source(folder), tmp_path / "data.json")
    again.check()
    fill(folder, count=1, first=5)
    again = data.read_stored(tmp_path / "data.json")
    assert again.has_changed()
    with pytest.warns(UserWarning, match="my_images has changed since .*: 15 pictures then, 18 now"):
        images, _ = images_of(data.pipeline(again, "test", image_size=6))
    assert len(images) == again.info().test_examples
    draw(folder / "violet" / "0.png", (200, 0, 200))
    with pytest.raises(ValueError, match="holds a class that the run was not trained on: violet"):
        data.read_stored(tmp_path / "data.json").check()


@pytest.mark.parametrize("in_memory", [base.IN_MEMORY_BYTES, 100])
def test_images_that_were_added_are_counted_before_they_are_loaded(in_memory, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "IN_MEMORY_BYTES", in_memory)
    data.write_stored(tmp_path / "data.json", data.source(folder))
    fill(folder, count=5, first=5)
    with pytest.warns(UserWarning, match="15 pictures then, 30 now"):
        train, _ = data.load(tmp_path / "data.json", image_size=6, batch_size=4, augment="none")
    # Of the 15 pictures there were 12 for training, three batches.
    assert train.cardinality() == len(list(train)) == 6
    with pytest.warns(UserWarning, match="15 pictures then, 30 now"):
        assert len(images_of(data.pipeline(tmp_path / "data.json", "train", image_size=6, batch_size=24))[0]) == 24
    with pytest.warns(UserWarning, match="15 pictures then, 30 now"):
        assert len(images_of(data.calibration(tmp_path / "data.json", 6))[0]) == 24
    with pytest.warns(UserWarning, match="15 pictures then, 30 now"):
        assert _Training(recipes.get(f"digits_teacher@{tmp_path / 'data.json'}")).batch_size == 24
    with pytest.warns(UserWarning, match="15 pictures then, 30 now"):
        store.write(tmp_path / "carried", data.source(tmp_path / "data.json"))
    assert store.read(tmp_path / "carried")[0].train_examples == 24


def test_what_is_no_longer_there_is_told_but_its_facts_are_known(folder, tmp_path):
    again = kept(data.source(folder), tmp_path / "data.json")
    folder.rename(tmp_path / "elsewhere")
    assert again.info().class_names == ("blue", "green", "red")
    with pytest.raises(ValueError, match="the pictures that the run was trained on are not at .*my_images; name the place"):
        data.pipeline(again, "test", image_size=6)

    registered = data.register(data.from_arrays("mine", *arrays()))
    again = kept(registered, tmp_path / "data.json")
    assert again is registered
    sources.registry.registered.clear()
    absent = data.read_stored(tmp_path / "data.json")
    assert absent.info() == registered.info()
    with pytest.raises(ValueError, match="the run was trained on the arrays 'mine', which are not here; register them first"):
        data.pipeline(absent, "test")
    data.register(data.from_arrays("mine", *arrays(seed=1)))
    with pytest.raises(ValueError, match="the arrays 'mine' are not those that the run was trained on"):
        data.read_stored(tmp_path / "data.json")


def test_a_folder_of_prepared_datasets_that_is_named_wins_over_the_one_that_a_run_kept(tmp_path):
    features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
    images, labels = arrays(10, shape=(8, 8))
    examples = [{"image": image[..., None], "label": int(label)} for image, label in zip(images, labels)]
    write_tfds(tmp_path / "before", "moved", features, {"train": examples})
    (tmp_path / "run").mkdir()
    data.write_stored(tmp_path / "run" / "data.json", data.source("tfds:moved", tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "now")
    for place in (tmp_path / "run", tmp_path / "run" / "data.json"):
        assert len(data.arrays(place, "train", tmp_path / "now")[0]) == 8
        with pytest.raises(ValueError, match="before' is not a folder"):
            data.arrays(place, "train")


def test_what_a_run_keeps_may_be_broken(tmp_path):
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ValueError, match="data.json does not say which data a run was trained on"):
        data.source(tmp_path)
    data.write_stored(tmp_path / "data.json", data.source("digits"))
    assert (tmp_path / "data.json").read_text() == "{}", "a name says it all"
    (tmp_path / "data.json").write_text(json.dumps({"format": 99, "kind": "folder", "where": "/", "options": {}}))
    with pytest.raises(ValueError, match="has version 99 of its format"):
        data.source(tmp_path)


# === What is refused, each in a sentence ===


def csv_of(text):
    def write(place):
        (place / "list.csv").write_text(text)
        return place / "list.csv"

    return write


def npz_of(**content):
    def write(place):
        np.savez(place / "some.npz", **content)
        return place / "some.npz"

    return write


IMAGES, LABELS = arrays()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda place: "cifar_10", "unknown dataset 'cifar_10'; known: .*; did you mean 'cifar10'"),
        (lambda place: place / "nowhere", "there is no folder or file .*nowhere"),
        (lambda place: "./nowhere", "there is no folder or file ./nowhere"),
        (lambda place: 3, "unknown dataset 3"),
        (lambda place: f"{place / 'my_images'}[flips=true]", "unknown option of a dataset 'flips'; .*did you mean 'flip'"),
        (lambda place: f"{place / 'my_images'}[holdout=2]", "holdout must be above 0 and below 1, not 2.0"),
        (lambda place: f"{place / 'my_images'}[flip=perhaps]", "flip must be true or false, not 'perhaps'"),
        (lambda place: f"{place / 'my_images'}[seed=x]", "seed must be of type int, not 'x'"),
        (lambda place: place / "my_images" / "red", "red holds 5 pictures but no class folders"),
        (lambda place: fill(place / "one", names=["red"]), "one holds one class, 'red'; telling apart takes two at least"),
        (lambda place: fill(place / "few", count=1), "few has no test image that can be read; every class needs two"),
        (
            lambda place: (fill(place / "s/train", names=["red", "blue"]), fill(place / "s/test", names=["red", "green"]))
            and place / "s",
            "s has test images of the class 'green', of which there is none for training",
        ),
        (lambda place: fill(place / "t/test") and place / "t", "t holds test/ but no train/ with class folders"),
        (
            csv_of("my_images/red/0.png,red\nmy_images/red/9.png,red\nmy_images/blue/8.png,blue\n"),
            "2 of the 3 files that .*list.csv lists are missing; the first is my_images/red/9.png in line 2",
        ),
        (csv_of("path,labl\nmy_images/red/0.png,red\n"), "list.csv has no column of labels; it must list path,label"),
        (csv_of("my_images/red/0.png,\n"), "list.csv has no label in line 1"),
        (csv_of("path,label,split\nmy_images/red/0.png,red,tset\n"), "split in line 2 of .* must be train or test, not 'tset'"),
        (csv_of(""), "list.csv is empty"),
        (csv_of("my_images/red/0.png,red\nmy_images/red/1.png,red\n"), "list.csv holds one class, 'red'"),
        (npz_of(pictures=IMAGES), "must hold images and labels, or x_train, y_train, x_test and y_test; it holds pictures"),
        (npz_of(images=IMAGES), "some.npz has images but no labels"),
        (npz_of(images=IMAGES, labels=LABELS[:3]), r"labels of shape \(3,\) must be one for each of the 20 images"),
        (npz_of(images=IMAGES[0, 0], labels=LABELS), r"of shape \(8,\) must have the shape \(N, height, width\)"),
        (npz_of(images=IMAGES * 300.0, labels=LABELS), "must have pixels from 0 to 1 or from 0 to 255"),
        (npz_of(images=IMAGES, labels=LABELS / 2), "labels of type float64 must be integers or texts"),
        (npz_of(images=IMAGES, labels=LABELS * 0), "some holds one class, '0'"),
        (npz_of(images=IMAGES, labels=LABELS + 1, class_names=["a", "b"]), "has the label '2', which is none of the 2 classes"),
        (
            npz_of(x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS + 1),
            "some has test images of the class '2', of which there is none for training",
        ),
        (npz_of(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:, :4], y_test=LABELS), r"training images of shape \(6, 6, 1\)"),
        (lambda place: (place / "bad.npz").write_text("no zip") and place / "bad.npz", "bad.npz cannot be read as arrays"),
        (lambda place: (place / "a.txt").write_text("x") and place / "a.txt", "a.txt is no dataset: it must be a folder, a .csv"),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_refused_in_a_sentence(make, message, folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message) as refusal:
            data.info(make(tmp_path))
    assert "\n" not in str(refusal.value)


def test_pictures_are_looked_at_once_as_long_as_they_stay_what_they_are(folder, monkeypatch):
    data.info(folder)
    looked = []
    monkeypatch.setattr(picture, "look", lambda path: looked.append(path) or pictures.picture.Look(error="x"))
    data.info(folder)
    assert not looked
