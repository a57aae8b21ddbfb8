"""`acdbit serve`: the page that runs models in a browser, from this machine."""

import contextlib
import pathlib
import sys
import tempfile

from acdbit_keras import checks
from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command


def add_serve(subparsers):
    parser = command(
        subparsers,
        "serve",
        serve,
        "Serve the page that classifies pictures and the camera in a browser: of the zoo, of one flat file, or of a folder.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="FILE|FOLDER",
        help="a flat file (.acdm), whose page is served, or a folder, served as it is (default: the zoo, converted first)",
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines in, whose browsers give no camera without https "
        "(default: %(default)s, this machine alone)",
    )
    parser.add_argument("--out", metavar="FOLDER", help="write the page there, for any static server, instead of serving it")


def serve(options):
    from acdbit_keras.studies import page

    checks.integer("--port", options.port, 0, 65535)
    what = pathlib.Path(options.what) if options.what else None
    if options.out:
        if what is not None and what.is_dir():
            raise ValueError("--out writes a page of the zoo or of a flat file; a folder is served as it is")
        _write(what, options.out, options)
        emit(options, f"a page for any static server: {options.out}", {"page": options.out})
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = what
        if what is None or not what.is_dir():
            folder = scratch
            _write(what, folder, options)
        with page.server(folder, options.host, options.port) as server:
            host, port = server.server_address[:2]
            first = page.ZOO_PAGE if (pathlib.Path(folder) / page.ZOO_PAGE).is_file() else ""
            address = f"http://{'localhost' if host == '127.0.0.1' else host}:{port}/{first}"
            emit(options, f"{address}  (Ctrl-C ends it)", {"address": address})
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


def _write(what, folder, options):
    from acdbit_keras.studies import page

    if what is None:
        page.write_zoo(folder)
    else:
        page.write_model(folder, what)


COMMANDS = (add_serve,)
