"""`acdbit watch`: frames of folders, streams and cameras, and what is told of each. Cameras are played by fake packages."""

import io
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from acdbit_keras import frames
from acdbit_keras.cli import main
from acdbit_keras.convert import Interpreter, to_tflite
from acdbit_keras.models import build

CARD = {"classes": [f"class {i}" for i in range(10)], "mean": [0.3], "std": [0.4], "image_size": 8, "channels": 1}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "digits.tflite"
    to_tflite(build("vit_nano_patch2_8", depth=1), path, card=CARD)
    return path


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    # Smooth, so that JPEG keeps them apart.
    return [np.array(Image.fromarray(rng.integers(0, 256, (4, 5, 3), "uint8")).resize((50, 40))) for _ in range(4)]


def jpeg(pixels, **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", **options)
    return content.getvalue()


def lines(capsys):
    return capsys.readouterr().out.splitlines()


# === Folders ===


@pytest.fixture
def folder(tmp_path, pixels):
    for index, image in enumerate(pixels[:3]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_every_picture_of_a_folder_gets_a_line_with_what_classify_says(folder, file, pixels, capsys):
    assert main(["watch", str(file), "--folder", str(folder), "--top", "2"]) == 0
    told = lines(capsys)
    assert [line.split()[0] for line in told] == ["0.png", "1.png", "2.png"]
    interpreter = Interpreter(file)
    for line, image in zip(told, pixels):
        first, second = interpreter.classify(image, 2)
        assert f"  {first.name} {first.probability:.3f}  {second.name} {second.probability:.3f}  " in line
        assert line.endswith(" ms")


def test_json_lines_say_the_same(folder, file, pixels, capsys):
    before = time.time()
    assert main(["watch", str(file), "--folder", str(folder), "--json", "--count", "2"]) == 0
    told = [json.loads(line) for line in lines(capsys)]
    assert [line["frame"] for line in told] == ["0.png", "1.png"]
    [best] = Interpreter(file).classify(pixels[0], 1)
    assert told[0]["classes"] == [{"name": best.name, "probability": pytest.approx(best.probability)}]
    assert told[0]["time"] >= round(before, 3) - 1e-3 and told[0]["milliseconds"] > 0


def test_new_pictures_are_waited_for_and_taken_once_they_are_whole(folder, pixels):
    found = frames.folder(folder, follow=True)
    assert [next(found).name for _ in range(3)] == ["0.png", "1.png", "2.png"]

    def write():
        content = io.BytesIO()
        Image.fromarray(pixels[3]).save(content, "PNG")
        content = content.getvalue()
        with open(folder / "3.png", "wb", buffering=0) as file:
            for part in (content[:100], content[100:200], content[200:]):
                file.write(part)
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    frame = next(found)
    writer.join()
    assert frame.name == "3.png"
    np.testing.assert_array_equal(frame.pixels, pixels[3])


def test_pictures_of_a_folder_are_all_told_however_seldom_one_looks(folder, file, capsys):
    start = time.monotonic()
    assert main(["watch", str(file), "--folder", str(folder), "--every", "0.2"]) == 0
    assert len(lines(capsys)) == 3 and time.monotonic() - start > 0.4


# === Streams ===


def test_a_stream_of_jpegs_is_read_frame_by_frame_with_thumbnails_and_noise_between(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x010E] = "a camera"
    thumbnail = jpeg(pixels[3])
    with_thumbnail = jpeg(pixels[1], exif=exif.tobytes() + thumbnail)
    assert with_thumbnail.count(b"\xff\xd9") > 1
    parts = [jpeg(pixels[0]), with_thumbnail, b"--boundary\r\n", jpeg(pixels[2], restart_marker_blocks=1)]
    path = tmp_path / "stream.mjpeg"
    path.write_bytes(b"".join(parts))
    found = list(frames.stream(path))
    assert [frame.name for frame in found] == ["0", "1", "2"]
    for frame, image in zip(found, pixels):
        assert np.abs(frame.pixels.astype(int) - image).mean() < 12
    path.write_bytes(b"".join(parts)[:-10])
    assert len(list(frames.stream(path))) == 2


def test_a_stream_comes_through_the_standard_input(file, pixels, capsys, monkeypatch):
    content = b"".join(map(jpeg, pixels))

    class Trickle(io.RawIOBase):
        position = 0

        def read(self, count):
            part = content[self.position : self.position + min(count, 100)]
            self.position += len(part)
            return part

    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Trickle()))
    assert main(["watch", str(file), "--stream", "-"]) == 0
    assert [line.split()[0] for line in lines(capsys)] == ["0", "1", "2", "3"]


# === Cameras ===


class Capture:
    """OpenCV's camera: blue first, of as many frames as it was given."""

    def __init__(self, what):
        self.frames = list(Capture.shown.get(what, []))
        self.opened = what in Capture.shown

    def isOpened(self):
        return self.opened

    def set(self, name, value):
        return True

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self):
        Capture.released += 1


@pytest.fixture
def cv2(monkeypatch, pixels):
    Capture.shown, Capture.released = {0: [image[..., ::-1] for image in pixels]}, 0
    fake = types.SimpleNamespace(VideoCapture=Capture, CAP_PROP_FRAME_WIDTH=3, CAP_PROP_FRAME_HEIGHT=4, CAP_PROP_BUFFERSIZE=38)
    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setitem(sys.modules, "picamera2", None)
    return Capture


def test_frames_of_opencv_are_red_first_and_the_camera_is_given_back(cv2, pixels, file, capsys):
    found = frames.camera(0)
    np.testing.assert_array_equal(next(found).pixels, pixels[0])
    found.close()
    assert cv2.released == 1
    assert main(["watch", str(file), "--count", "3"]) == 0
    assert len(lines(capsys)) == 3 and cv2.released == 2


def test_frames_between_two_looks_are_left_out(cv2, pixels, file, capsys, monkeypatch):
    clock = iter([0.0, 0.4, 0.8, 1.2])
    from acdbit_keras.cli import watch

    fake = types.SimpleNamespace(monotonic=lambda: next(clock), sleep=None, perf_counter=time.perf_counter, time=time.time)
    monkeypatch.setattr(watch, "time", fake)
    assert main(["watch", str(file), "--every", "1", "--count", "2"]) == 0
    assert [line.split()[0] for line in lines(capsys)] == ["0", "3"]


def test_frames_of_picamera2_are_taken_as_they_are(monkeypatch, pixels):
    asked, closed = [], []

    class Picamera2:
        def __init__(self, number):
            pass

        @staticmethod
        def global_camera_info():
            return [{"Num": 0}]

        def create_video_configuration(self, main):
            asked.append(main)

        def configure(self, configuration):
            pass

        def start(self):
            self.left = list(pixels)

        def capture_array(self):
            return self.left.pop(0)

        def close(self):
            closed.append(True)

    monkeypatch.setitem(sys.modules, "picamera2", types.SimpleNamespace(Picamera2=Picamera2))
    found = frames.camera(0, (320, 240))
    for image in pixels[:2]:
        np.testing.assert_array_equal(next(found).pixels, image)
    found.close()
    assert asked == [{"size": (320, 240), "format": "BGR888"}] and closed
    with pytest.raises(ValueError, match="there is no camera 1; there is 1, counted from 0"):
        next(frames.camera(1))


# === What cannot be looked at ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--folder", "{tmp}/nowhere"], "there is no folder .*nowhere"),
        (["--folder", "{tmp}/empty"], "empty holds no picture"),
        (["--stream", "{tmp}/nowhere"], "cannot open the stream .*nowhere: No such file"),
        (["--stream", "{tmp}/nothing"], "nothing is empty"),
        (["--stream", "{tmp}/cut.jpg"], "cut.jpg ends within its first picture"),
        (["--stream", "{tmp}/broken.jpg"], "picture 0 of .*broken.jpg is broken: "),
        (["--stream", "{tmp}/text"], "the stream .*text cannot be opened: it is no video that OpenCV reads"),
        (["--camera", "7"], "camera 7 cannot be opened: it is not there, or another program has it"),
        (["--camera", "-1"], "--camera must be an integer of at least 0, not -1"),
        (["--camera", "1"], "camera 1 gives no frame"),
        (["--camera", "2"], r"camera 2 gives frames of shape \(4, 5, 4\) and type uint8; they must be uint8 of shape"),
        (["--camera", "3"], "camera 3 gives frames of shape .* and type float32"),
        (["--count", "0"], "--count must be an integer of at least 1, not 0"),
        (["--every", "-1"], "--every must be seconds, 0 or more, not -1"),
        (["--follow"], "--follow waits for new pictures in the folder that --folder names"),
    ],
)
def test_what_cannot_be_looked_at_is_said_in_one_sentence(arguments, message, tmp_path, cv2, file, pixels, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").write_bytes(b"")
    (tmp_path / "text").write_text("no stream")
    (tmp_path / "cut.jpg").write_bytes(jpeg(pixels[0])[:-20])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x04aa\xff\xd9")
    cv2.shown |= {1: [], 2: [np.zeros((4, 5, 4), "uint8")], 3: [np.zeros((4, 5, 3), "float32")]}
    status = main(["watch", str(file), *(argument.format(tmp=tmp_path) for argument in arguments)])
    [line] = capsys.readouterr().err.splitlines()
    import re

    assert status == 2 and re.search(message, line), line


def test_without_a_package_for_cameras_it_is_said_which_is_missing(monkeypatch, file, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "picamera2", None)
    assert main(["watch", str(file)]) == 2
    said = capsys.readouterr().err
    assert "reading camera 0 needs the package opencv-python-headless or picamera2, which is not installed" in said
