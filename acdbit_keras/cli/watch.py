"""The command that runs on a device: `watch`."""

import itertools
import json
import pathlib
import tempfile
import time

from acdbit_keras import checks
from acdbit_keras.cli.common import command


def add_watch(subparsers):
    parser = command(subparsers, "watch", watch, "Classify what a camera, a stream or a folder shows, one line a picture.")
    parser.add_argument("file", help="the .tflite or flat (.acdm) file, converted from a run, or a name of `acdbit zoo`")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--camera", type=int, metavar="N", help="number of a camera (default: 0), by picamera2 or OpenCV")
    source.add_argument("--folder", metavar="DIR", help="the pictures in a folder, by name")
    source.add_argument(
        "--stream",
        metavar="FILE",
        help="JPEG pictures one behind the other, as rpicam-vid --codec mjpeg writes them, or a video; -: stdin",
    )
    parser.add_argument("--follow", action="store_true", help="with --folder: wait for new pictures")
    parser.add_argument("--every", type=float, default=0.0, metavar="SECONDS", help="look that often (default: at every picture)")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many pictures")
    parser.add_argument("--top", type=int, default=1, help="classes to tell per picture (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)


def watch(options):
    from acdbit_keras.convert import Interpreter

    for name in ("count", "top", "threads"):
        if getattr(options, name) is not None:
            checks.integer(f"--{name}", getattr(options, name), 1)
    if not 0 <= options.every < float("inf"):
        raise ValueError(f"--every must be seconds, 0 or more, not {options.every:g}")
    if options.follow and not options.folder:
        raise ValueError("--follow waits for new pictures in the folder that --folder names")
    with tempfile.TemporaryDirectory() as scratch:
        interpreter = Interpreter(_file(options.file, scratch), options.threads)
    for frame in itertools.islice(_paced(_source(options), options.every), options.count):
        start = time.perf_counter()
        answers = interpreter.classify(frame.pixels, options.top)
        milliseconds = (time.perf_counter() - start) * 1e3
        # Who reads them through a pipe wants them now.
        print(_line(options, frame.name, answers, milliseconds), flush=True)


def _line(options, name, answers, milliseconds):
    if options.json:
        said = {"frame": name, "time": round(time.time(), 3), "milliseconds": round(milliseconds, 3)}
        return json.dumps({**said, "classes": [answer._asdict() for answer in answers]})
    classes = "  ".join(f"{answer.name} {answer.probability:.3f}" for answer in answers)
    return f"{name}  {classes}  {milliseconds:.2f} ms"


def _file(file, scratch):
    if pathlib.Path(file).suffix or pathlib.Path(file).exists():
        return file
    from acdbit_keras.studies import zoo

    return pathlib.Path(zoo.converted(file, scratch)).read_bytes()


def _source(options):
    from acdbit_keras import frames

    if options.folder:
        return frames.folder(options.folder, options.follow)
    if options.stream:
        return frames.stream(options.stream)
    number = options.camera or 0
    checks.integer("--camera", number, 0)
    return frames.camera(number)


def _paced(frames, every):
    """The frames that come at least so many seconds after the one before; of a folder, which waits, every one, but later."""
    due = -float("inf")
    for frame in frames:
        now = time.monotonic()
        if now < due:
            if not frame.name.isdecimal():
                time.sleep(due - now)
                now = due
            else:
                continue
        due = now + every
        yield frame


COMMANDS = (add_watch,)
