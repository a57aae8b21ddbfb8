"""`acdbit bench`: files, engines or kernels timed side by side in one run."""

import pathlib

from acdbit_keras import checks
from acdbit_keras.cli import emit
from acdbit_keras.cli.common import command, model_of
from acdbit_keras.machine import write_measurement


def add_bench(subparsers):
    parser = command(subparsers, "bench", bench, "Time files side by side in one run: latency, memory, size, per-node profile.")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help=".tflite, .onnx or OpenVINO's .xml files; times are compared with the first one's",
    )
    parser.add_argument(
        "--model",
        help="instead of files a binary run folder, .keras file, name of `acdbit zoo`, or PRESET:SCHEME[:CLASSES] for an "
        "untrained model: it and its float twin on every engine",
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="instead of files the two products of a binary transformer and their float32 twins, each alone",
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="with --model: the float model to compare with (default: an untrained one of the same sizes)",
    )
    parser.add_argument(
        "--engine",
        action="append",
        help="auto, acdbit, acdbit:PATH, lce, litert, onnx or openvino; for all files or one per file; with --model: only these",
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1],
        help="threads of every engine; of several numbers each in turn (default: 1)",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=50,
        help="timed inferences of each file (default: %(default)s); with --kernels turns of 10 calls each",
    )
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--no-profile", action="store_true", help="do not time each node alone")
    parser.add_argument("--plot", help="write a bar chart PNG")
    parser.add_argument(
        "--out", help="also write the results without the single times, and what they were measured on, to this JSON file"
    )


def bench(options):
    import dataclasses
    import tempfile

    if bool(options.files) + bool(options.model) + options.kernels != 1:
        raise ValueError("bench needs either files, --model or --kernels")
    if options.teacher and not options.model:
        raise ValueError("--teacher goes with --model")
    # Before minutes of converting and timing.
    for name, least in (("runs", 1), ("warmup", 0)):
        checks.integer(f"--{name}", getattr(options, name), least)
    for threads in options.threads:
        checks.integer("--threads", threads, 1)
    for path in (options.plot, options.out):
        if path and not pathlib.Path(path).absolute().parent.is_dir():
            raise ValueError(f"there is no folder {pathlib.Path(path).absolute().parent} to write {pathlib.Path(path).name} to")
    if options.kernels:
        return _bench_kernels(options)
    from acdbit_keras.convert import benchmarking as room

    with tempfile.TemporaryDirectory() as folder:
        if options.model:
            paths, engines = _contenders(options, folder)
        else:
            paths = options.files
            engines = options.engine if not options.engine or len(options.engine) > 1 else options.engine[0]
        results = room.benchmark(
            paths,
            engines=engines,
            num_threads=options.threads,
            runs=options.runs,
            warmup=options.warmup,
            profile=not options.no_profile,
        )
    if options.model:
        # The folder is gone; what is left of a path is what the file holds.
        results = [dataclasses.replace(result, path=pathlib.Path(result.path).name) for result in results]
    emit(options, room.table(results), [result.to_dict() for result in results])
    if options.plot:
        room.plot(results, options.plot)
    if options.out:
        _write_timings(results, options)


def _contenders(options, folder):
    from acdbit_keras.studies import contenders

    def load(text):
        model = model_of(text)
        return model if pathlib.Path(text).exists() else contenders.perturbed(model)

    model = load(options.model)
    twin = load(options.teacher) if options.teacher else contenders.float_twin(model)
    return contenders.make(model, twin, folder, options.engine)


def _bench_kernels(options):
    if options.engine or options.plot or options.threads != [1]:
        raise ValueError(
            "--kernels times every kernel path on one thread, without a picture; leave out --engine, --threads and --plot"
        )
    from acdbit_keras.convert import kernel_benchmark as room

    result = room.kernel_benchmark(options.runs)
    emit(options, room.table(result), result.to_dict())
    if options.out:
        write_measurement(options.out, {"runs": options.runs, **result.to_dict()})


def _write_timings(results, options):
    timings = [{key: part for key, part in result.to_dict().items() if key != "samples_ms"} for result in results]
    write_measurement(options.out, {"model": options.model, "runs": options.runs, "results": timings})


COMMANDS = (add_bench,)
