"""The app's classifier on a desktop's Java, with TFLite and the runtime as they are for Android, against Python."""

import harness
import numpy as np
import pytest
from PIL import Image

from acdbit_keras.convert import Interpreter, cards, pictures

CLASSIFIER = "org.acdbit.classifier"


def test_the_parts_that_need_no_model(jvm):
    passed, _ = jvm.junit(f"{CLASSIFIER}.CoreTest", f"{CLASSIFIER}.ViewfinderTest")
    assert passed >= 13


def test_models_good_and_bad_and_no_leak_in_500_cycles_or_in_minutes_of_frames(jvm, files):
    passed, printed = jvm.junit(
        f"{CLASSIFIER}.ModelTest",
        properties={"models": files, "cycles": 500, "frames": 18_000 if harness.FULL else 900},
        heap="256m",
    )
    assert passed >= 12
    print(printed)


@pytest.mark.parametrize("kind", [0, 1], ids=["bits", "float32"])
def test_pictures_get_the_class_that_python_gives_them(jvm, student, tmp_path, kind):
    images, interpreter = harness.pictures(), Interpreter(student[kind])
    harness.write_rgb(tmp_path / "in", images)
    printed = jvm.run(f"{CLASSIFIER}.Batch", student[kind], 2, tmp_path / "in", tmp_path / "out")
    assert "TFLite 2.16.1" in printed
    looked, logits = harness.read_batch(tmp_path / "out", images[0].size, len(interpreter.classes))
    np.testing.assert_array_equal(looked.reshape(images.shape), images)
    offset, factor = cards.normalisation(interpreter.card)
    expected = interpreter.predict((images - offset) * factor)
    assert len(logits) == harness.PICTURES and len(set(expected.argmax(1))) >= 5
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    assert np.median(np.abs(logits - expected).max(1)) < 1e-4


@pytest.mark.parametrize(
    ("width", "height", "rotation", "pixel"),
    [(640, 480, 90, 2), (640, 480, 0, 1), (1280, 720, 270, 2), (352, 288, 180, 1), (479, 321, 90, 1), (480, 640, 270, 2)],
)
def test_frames_of_a_camera_look_as_they_do_to_python(jvm, student, tmp_path, width, height, rotation, pixel):
    """Against numpy: planes with padding and strides become RGB, RGB what the package's own preparation makes of it."""
    images, interpreter = harness.pictures(100 if harness.FULL else 10), Interpreter(student[0])
    expected = []
    with open(tmp_path / "in", "wb") as file:
        for number, image in enumerate(images):
            planes = camera(image, width, height, rotation)
            harness.write_frame(file, *planes, rotation, padding=number % 3 * 8, pixel=pixel)
            sensor = pictures.resized(pictures.central(to_rgb(*planes), 32, 32), 32, 32)
            expected.append(np.rot90(sensor, -rotation // 90))
    jvm.run(f"{CLASSIFIER}.Batch", student[0], 1, tmp_path / "in", tmp_path / "out")
    looked, logits = harness.read_batch(tmp_path / "out", images[0].size, 10)
    # A pixel whose exact value lies in the middle of two is rounded either way, and has a part in an average.
    np.testing.assert_allclose(looked.reshape(images.shape), expected, atol=0.5)
    assert np.abs(looked.reshape(images.shape) - expected).mean() < 1e-3
    # What was looked at is the picture, upright: not only equal to another rotation of the same mistake.
    assert np.abs(looked.reshape(images.shape) - images).mean() < 16
    offset, factor = cards.normalisation(interpreter.card)
    again = interpreter.predict((looked.reshape(images.shape) - offset) * factor)
    np.testing.assert_array_equal(logits.argmax(1), again.argmax(1))


def camera(image, width, height, rotation):
    """What a sensor that is turned makes of a picture: it fills the central square; luma, and chroma of half the size."""
    side = min(width, height)
    seen = Image.new("RGB", (width, height), (90, 120, 30))
    turned = Image.fromarray(np.rot90(image, rotation // 90)).resize((side, side), Image.Resampling.BILINEAR)
    seen.paste(turned, ((width - side) // 2, (height - side) // 2))
    luma, blue, red = (np.asarray(plane) for plane in seen.convert("YCbCr").split())
    return luma, blue[::2, ::2], red[::2, ::2]


def to_rgb(luma, blue, red):
    """JFIF's conversion in double precision."""
    height, width = luma.shape
    u, v = (np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width] - 128.0 for plane in (blue, red))
    rgb = np.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u], -1)
    return np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)
