"""The app's screen in Robolectric: what is pressed, what is seen, what is said; and pictures of it."""

import harness
import numpy as np
import pytest
from PIL import Image

DEMO = "org.acdbit.demo"


@pytest.fixture(scope="module")
def properties(jvm, signed, files, tmp_path_factory):
    """What the Java tests are told: where Android's resources, pictures and models are, and where screens go."""
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    config = harness.BUILD / "classes" / "tests" / "com" / "android" / "tools"
    config.mkdir(parents=True, exist_ok=True)
    (config / "test_config.properties").write_text(
        f"android_resource_apk={signed}\n"
        f"android_merged_manifest={harness.BUILD / 'AndroidManifest.xml'}\n"
        f"android_custom_package={DEMO}\n"
    )
    return {"pictures": folder, "models": files, "screens": harness.BUILD / "screens"}


# In a full run CIFAR-10's test images of a horse and of a sailing ship; else made ones, of which the student of CIFAR-10 is sure
# of the first (97 %), and takes it for something else when it lies.
PICTURE, CAMERA = 6 if harness.FULL else 13, 27


def write_pictures(folder):
    """A picture that is upright, and the same lying, with a note that says how it is to be turned; one for the camera."""
    tall, seen = (upright(harness.pictures(CAMERA + 1)[number]) for number in (PICTURE, CAMERA))
    tall.save(folder / "tall.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    tall.transpose(Image.Transpose.ROTATE_90).save(folder / "tall.jpg", exif=exif, quality=97, subsampling=0)
    seen.save(folder / "seen.png")


def upright(picture):
    """480 x 640 pixels with a picture in the middle, and its reflections above and below."""
    square = np.asarray(Image.fromarray(picture).resize((480, 480), Image.Resampling.BICUBIC))
    return Image.fromarray(np.pad(square, ((80, 80), (0, 0), (0, 0)), mode="reflect"))


def test_the_app_from_its_start_to_its_end(jvm, properties):
    passed, printed = jvm.robolectric(f"{DEMO}.ScreenTest", f"{DEMO}.OldestTest", properties=properties)
    assert passed >= (23 if harness.SDKS == (34,) else 48)
    print(printed[-1000:])


def test_the_screens_are_pictures_of_a_screen(jvm, properties):
    names = {path.stem for path in (harness.BUILD / "screens").glob("*.png")}
    assert names >= {
        "camera",
        "float",
        "compare",
        "picture",
        "german_dark",
        "landscape",
        "permission",
        "camera_in_use",
        "bad_model",
    }
    for name in names:
        seen = np.asarray(Image.open(harness.BUILD / "screens" / f"{name}.png").convert("RGB"))
        assert min(seen.shape[:2]) >= 800 and len(np.unique(seen.reshape(-1, 3)[::7], axis=0)) > 20, name
