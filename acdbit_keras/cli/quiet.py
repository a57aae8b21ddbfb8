"""Keeps the start-up notes of C++ libraries out of a command's lines.

TensorFlow, XLA, the converter and LiteRT write to the file descriptor of standard error, some before any setting could quiet
them. So that descriptor leads through a process of its own that drops their notes and passes everything else on, fatal errors
above all, even where the command itself is aborted. What Python writes goes straight through.
"""

import os
import re
import signal
import sys

_NOTES = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:|[IWE]0000 00:00:|"  # absl and glog, below fatal
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |"  # TensorFlow's own form of them
    rb"WARNING: All log messages before absl|"
    rb"To enable the following instructions: |"
    rb"(INFO|WARNING): .*(delegate|XNNPACK|TensorFlow Lite)|"
    rb"(Estimated count of|Summary on|Your model contains|cuInit|Skipping registering GPU)"
)
DEBUG = "ACDBIT_DEBUG"  # set: every note is shown


def start():
    """Filters standard error from here on. Called once, before any library starts a thread; not on Windows, nor to debug."""
    # What these settings reach need not be filtered.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GLOG_minloglevel", "3")
    if os.environ.get(DEBUG) or not hasattr(os, "fork"):
        return
    real = os.dup(2)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        _pass_on(reading, real)
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = os.fdopen(real, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def _pass_on(reading, real):
    """The other process: every line but the notes, until the last writer has gone."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A reader of the command's output must not wait for this process, too.
        for descriptor in (0, 1):
            os.close(descriptor)
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if line.strip() and not _NOTES.match(line):
                    os.write(real, line)
    finally:
        os._exit(0)
