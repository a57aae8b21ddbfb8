"""Pictures one after another: from a camera, a stream, a folder. Each is RGB, whatever it comes from.

Nothing here needs Keras. A camera is read by picamera2, where it is installed, as on a Raspberry Pi, or else by OpenCV; a stream
of JPEG pictures and a folder need neither.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from acdbit_keras import picture
from acdbit_keras.typing import Path

# How often a folder is looked at, in seconds.
_LOOK_AGAIN = 0.2
_JPEG_BEGIN = b"\xff\xd8\xff"
# A stream without a picture in so many bytes is none of JPEG pictures.
_LONGEST_JPEG = 1 << 25
_READ = 1 << 16


class Frame(NamedTuple):
    """One picture.

    Attributes:
        name: of the file, or the number of the frame, from 0.
        pixels: uint8 (height, width, 3), RGB, or (height, width, 1).
    """

    name: str
    pixels: np.ndarray


def check(pixels: np.ndarray, source: str) -> np.ndarray:
    """What a camera gave, if it is a picture.

    Args:
        pixels: array.
        source: what gave it, for messages.

    Raises:
        ValueError: not uint8 of shape (height, width), (height, width, 1) or (height, width, 3).
    """
    pixels = np.asarray(pixels)
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))
    if pixels.dtype != np.uint8 or not is_picture or 0 in pixels.shape:
        raise ValueError(
            f"{source} gives frames of shape {pixels.shape} and type {pixels.dtype}; "
            "they must be uint8 of shape (height, width, 3), in the order red, green, blue, or (height, width, 1)"
        )
    return pixels[..., None] if pixels.ndim == 2 else pixels


def folder(path: Path, follow: bool = False) -> Iterator[Frame]:
    """The pictures in a folder, by name; of other files nothing is said.

    Args:
        path: of the folder.
        follow: whether to wait for new ones once those that are there were given; a file counts once its size stands still.

    Raises:
        ValueError: there is no such folder, it holds no picture and none is waited for, or a picture cannot be read.
    """
    where = pathlib.Path(path)
    if not where.is_dir():
        raise ValueError(f"there is no folder {path}")
    given: set[str] = set()
    sizes: dict[str, int] = {}
    while True:
        found = sorted(entry for entry in where.iterdir() if entry.suffix.lower() in picture.SUFFIXES and entry.name not in given)
        for entry in found:
            if follow and sizes.get(entry.name) != (size := entry.stat().st_size):
                sizes[entry.name] = size
                continue
            given.add(entry.name)
            yield Frame(entry.name, picture.read_whole(entry))
        if not follow:
            break
        time.sleep(_LOOK_AGAIN)
    if not given:
        raise ValueError(f"{path} holds no picture ({', '.join(picture.SUFFIXES)})")


def stream(path: Path) -> Iterator[Frame]:
    """The pictures of a stream of JPEG pictures, as `rpicam-vid --codec mjpeg -o -` writes them, or of a video by OpenCV.

    Args:
        path: of a file, a pipe or a device; "-" is the standard input.

    Raises:
        ValueError: there is no such file, or nothing in it can be read as pictures.
        ImportError: a video, and OpenCV is not installed.
    """
    name = "the standard input" if str(path) == "-" else str(path)
    with contextlib.ExitStack() as stack:
        try:
            file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(open(path, "rb", buffering=0))
        except OSError as error:
            raise ValueError(f"cannot open the stream {name}: {error.strerror}") from error
        first = file.read(len(_JPEG_BEGIN)) or b""
        if first == _JPEG_BEGIN:
            yield from _jpegs(file, first, name)
            return
    if str(path) == "-" or not first:
        raise ValueError(f"{name} is {'empty' if not first else 'no stream of JPEG pictures'}")
    yield from _captured(os.fspath(path), f"the stream {name}")


def camera(number: int = 0, size: tuple[int, int] = (640, 480)) -> Iterator[Frame]:
    """The pictures of a camera, the newest one each time.

    Args:
        number: of the camera, from 0, the default.
        size: width and height to ask for; default 640 x 480.

    Raises:
        ValueError: there is no such camera, another program has it, or it stops giving frames.
        ImportError: neither picamera2 nor OpenCV is installed.
    """
    try:
        from picamera2 import Picamera2
    except ImportError:
        yield from _captured(number, f"camera {number}", size)
        return
    known = Picamera2.global_camera_info()
    if number >= len(known):
        raise ValueError(f"there is no camera {number}; there {'are' if len(known) != 1 else 'is'} {len(known)}, counted from 0")
    with contextlib.closing(Picamera2(number)) as device:
        # What picamera2 calls BGR888 has red first in memory.
        device.configure(device.create_video_configuration({"size": size, "format": "BGR888"}))
        device.start()
        index = 0
        while True:
            yield Frame(str(index), check(device.capture_array(), f"camera {number}"))
            index += 1


def _captured(what, name, size=None):
    try:
        import cv2
    except ImportError as error:
        needed = "the package opencv-python-headless" + (" or picamera2" if isinstance(what, int) else "")
        raise ImportError(f"reading {name} needs {needed}, which is not installed: pip install opencv-python-headless") from error
    device = cv2.VideoCapture(what)
    try:
        if not device.isOpened():
            reason = "it is not there, or another program has it" if isinstance(what, int) else "it is no video that OpenCV reads"
            raise ValueError(f"{name} cannot be opened: {reason}")
        if size is not None:
            device.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            device.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
            # Older frames are of no use to whoever looks at what is there now.
            device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        index = 0
        while True:
            read, pixels = device.read()
            if not read:
                if index and not isinstance(what, int):
                    return
                raise ValueError(f"{name} gives no {'more frames' if index else 'frame'}")
            pixels = check(pixels, name)
            yield Frame(str(index), pixels[..., ::-1] if pixels.shape[2] == 3 else pixels)
            index += 1
    finally:
        device.release()


def _jpegs(file, content, name):
    index = 0
    while True:
        end = _end_of_jpeg(content)
        if end is None:
            if len(content) > _LONGEST_JPEG:
                raise ValueError(f"{name} holds no end of a JPEG picture within {_LONGEST_JPEG} bytes")
            more = file.read(_READ)
            if more:
                content += more
                continue
            # What a recording was cut off in is left out.
            if not index:
                raise ValueError(f"{name} ends within its first picture")
            return
        try:
            pixels = picture.read_whole(io.BytesIO(content[:end]))
        except ValueError as error:
            raise ValueError(f"picture {index} of {name} is broken: {str(error).partition(': ')[2]}") from None
        yield Frame(str(index), pixels)
        index += 1
        begin = content.find(_JPEG_BEGIN, end)
        content = content[begin:] if begin >= 0 else content[max(end, len(content) - len(_JPEG_BEGIN) + 1) :]


def _end_of_jpeg(content):
    """Where the first picture ends, or None if that is yet to come; segments, which may hold a thumbnail, are stepped over."""
    position = 2
    while position + 2 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF:
            # Within the data that follow a scan's header: a marker ends them, but for a stuffed zero and restarts.
            position = content.find(b"\xff", position)
            if position < 0:
                return None
        elif marker == 0xD9:
            return position + 2
        elif marker == 0xFF:
            position += 1
        elif marker == 0 or 0xD0 <= marker <= 0xD7:
            position += 2
        elif position + 4 <= len(content):
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        else:
            return None
    return None
