"""The command line `acdbit`: the roof, which may import every room.

Every command takes --help and --json. Bad input ends with exit status 2 and one line on standard error; set
ACDBIT_DEBUG=1 to see where it came from.
"""

import argparse
import json
import os
import signal
import sys

from acdbit_keras import extras
from acdbit_keras.cli import quiet
from acdbit_keras.version import __version__


def script():
    """What `acdbit` runs: `main` in a process of its own, without the notes of the libraries beneath."""
    # Completing a word is done with when the shell has its answer.
    parser = _parser()
    _complete(parser)
    quiet.start()
    return main(parser=parser)


def main(arguments=None, parser=None):
    """Runs one command; returns the exit status."""
    options = (parser or _parser()).parse_args(arguments)
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Who read the output has what they wanted, `acdbit ... | head`; Python would complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("acdbit: interrupted; what was written before stays complete", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get(quiet.DEBUG):
            raise
        if isinstance(error, ImportError):
            error = extras.missing(error, f"acdbit {options.run.__name__}")
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f"acdbit: {sentence}", file=sys.stderr)
        return 2


def _sentence(error):
    """What to tell of an error that bad input or the machine caused; `None` for one of our own making."""
    text = str(error)
    if type(error).__name__ == "InvalidArgumentError" and "assertion failed:" in text:
        # A check inside a data pipeline, wrapped by TensorFlow.
        return text.split("assertion failed:", 1)[1].strip().splitlines()[0].strip(" []'\"")
    if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError, MemoryError)):
        return " ".join(text.split()) or type(error).__name__
    return None


def emit(options, text, value):
    """Prints `value` as JSON with --json, else `text`."""
    print(json.dumps(value, indent=1) if options.json else text)


def _parser():
    from acdbit_keras.cli import analysis, bench, bundle, data, experiments, files, serve, training, watch, zoo

    parser = argparse.ArgumentParser(
        prog="acdbit", description="Binary vision transformers: train, convert, verify, measure, run."
    )
    parser.add_argument("--version", action="version", version=f"acdbit-keras {__version__}")
    parser.set_defaults(run=lambda options: parser.print_help())
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for room in (training, files, watch, serve, data, bench, experiments, analysis, zoo, bundle):
        for add in room.COMMANDS:
            add(subparsers)
    return parser


def _complete(parser):
    """Answers the shell where it asks to complete a word, with the package argcomplete; see the README for switching it on."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
