"""Latency, memory and size of ``.tflite`` files and those of other engines side by side, measured in one run.

The files take turns, one inference each (A B C A B C ...), so a machine that warms up, throttles or is shared slows
all of them alike and the ratios stay fair. One sample is one call of the engine: input copied in, inference, outputs
copied out, in the model's stored types; converting images to int8 and back is not part of it.

Two memory figures, because no engine reports one through Python:

arena_bytes
    The activation arena, planned from the tensors' lifetimes (`flatbuffer.arena_bytes`). Depends on the file alone.
    None for other files.
heap_bytes
    What the C allocator handed out from just before the engine was started until its first inference was done
    (glibc's ``mallinfo2``: blocks in use, all arenas, mapped ones included). This is what this engine really took on
    this machine: arena, kernel scratch buffers, packed copies of weights, the graph's structures and about 0.1 MB of
    op table. It leaves out a ``.tflite`` file's bytes, from which constants are read in place (ONNX Runtime copies
    them, so there they count), the code of the libraries, and what a kernel took and gave back within the inference.
    None where the allocator is not glibc's (macOS, musl).

The profile times each node alone: a model of that one node is cut out of the file and run on the same engine with
the values the node receives in the whole model. It works for every engine; it does not see what an engine gains by
treating nodes together, and each time includes one call of the engine (some microseconds), so the times need not add
up to the latency.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from acdbit_keras import checks, figures, text
from acdbit_keras.convert import flatbuffer
from acdbit_keras.convert.interpreter import choose_engine, start_engine
from acdbit_keras.typing import Path

ONNX, OPENVINO = "onnx", "openvino"  # the engines of .onnx files; OpenVINO has a format of its own, .xml, as well
_LOGARITHMIC_FROM = 30  # ratio of latencies from which the shortest bar of a chart could not be read


@dataclasses.dataclass(frozen=True)
class NodeTime:
    """One node run alone.

    Attributes:
        index: position in the execution order.
        op: op name.
        output: name of the node's first output tensor.
        median_ms: median latency in milliseconds, None where the node cannot run alone.
        note: why not, otherwise empty.
    """

    index: int
    op: str
    output: str
    median_ms: float | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured for one file.

    Attributes:
        path: as given.
        engine, num_threads: how it ran.
        median_ms, p90_ms, min_ms: latency of one inference in milliseconds.
        iqr_ms: the spread, 75th minus 25th percentile, in milliseconds.
        ratio: median_ms over that of the first file.
        arena_bytes, heap_bytes: see the module's text; either may be None.
        file_bytes: size of the file in bytes.
        samples_ms: every latency, in the order measured.
        nodes: `NodeTime`s in execution order, empty without a profile and for ``.onnx`` files.
    """

    path: str
    engine: str
    num_threads: int
    median_ms: float
    p90_ms: float
    min_ms: float
    iqr_ms: float
    ratio: float
    arena_bytes: int | None
    heap_bytes: int | None
    file_bytes: int
    samples_ms: tuple[float, ...]
    nodes: tuple[NodeTime, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result in plain types, as ``json.dumps`` takes them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class _Contender:
    path: str
    engine: str
    file_bytes: int
    inputs: list
    start: Callable  # num_threads -> session
    model: object = None  # a .tflite file's
    session: object = None
    heap_bytes: int | None = None
    num_threads: int = 1


def benchmark(
    paths: Path | Sequence[Path],
    engines: str | Sequence[str] | None = None,
    num_threads: int | Sequence[int] = 1,
    runs: int = 50,
    warmup: int = 5,
    seed: int = 0,
    profile: bool = True,
) -> list[Result]:
    """Measures several files in turns.

    Args:
        paths: ``.tflite``, ``.onnx`` and OpenVINO's ``.xml`` files; ratios refer to the first. A file may occur twice, with two
            engines.
        engines: engine name for all, a list with one per file, or None, the default, for "auto". An ``.onnx`` file runs on
            "onnx" or "openvino", an ``.xml`` file on "openvino".
        num_threads: threads each engine may use; default 1. Of several numbers each file is measured with each, in turns too.
        runs: timed inferences per file, at least 1; default 50.
        warmup: untimed inferences per file before, in turns too; default 5.
        seed: integer that the random inputs are drawn from (standard normal where the input is float); default 0.
        profile: whether to time each node alone, which costs about as much again as the measurement itself; default True.

    Returns:
        list of `Result`, in the order of `paths`, for the first number of threads, then for the next.

    Raises:
        FileNotFoundError: no such file.
        ImportError: an engine's package is not installed.
        ValueError: a damaged file, an unknown engine, one that cannot run its file, or an argument out of range.

    Example:
        >>> import acdbit_keras as acd
        >>> best, plain = acd.convert.benchmark(["student.tflite"] * 2, ["acdbit", "acdbit:portable"], runs=3)
        >>> best.engine, best.ratio, plain.engine, len(plain.samples_ms)
        ('acdbit', 1.0, 'acdbit:portable', 3)
        >>> 0 < best.min_ms <= best.median_ms
        True
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not paths:
        raise ValueError("paths must name at least one .tflite, .onnx or .xml file, got none")
    if engines is None or isinstance(engines, str):
        engines = [engines or "auto"] * len(paths)
    if len(engines) != len(paths):
        raise ValueError(f"engines must name one engine per file: {len(engines)} for {len(paths)} files")
    counts = list(num_threads) if isinstance(num_threads, (list, tuple)) else [num_threads]
    for argument, value, least in (("runs", runs, 1), ("warmup", warmup, 0), *(("num_threads", count, 1) for count in counts)):
        checks.integer(argument, value, least)

    entered = [_enter(path, engine, seed) for path, engine in zip(paths, engines, strict=True)]
    contenders = [dataclasses.replace(contender, num_threads=int(count)) for count in counts for contender in entered]
    for contender in contenders:
        _start(contender)
    times = take_turns([lambda c=c: c.session.run(c.inputs) for c in contenders], runs, warmup)
    nodes = [_profile(c, c.num_threads, runs, warmup) if profile and c.model is not None else () for c in contenders]

    reference = float(np.median(times[0]))
    results = []
    for contender, samples, node_times in zip(contenders, times, nodes, strict=True):
        low, median, high, p90 = (float(v) for v in np.percentile(samples, [25, 50, 75, 90]))
        results.append(
            Result(
                path=contender.path,
                engine=contender.engine,
                num_threads=contender.num_threads,
                median_ms=median,
                p90_ms=p90,
                min_ms=float(min(samples)),
                iqr_ms=high - low,
                ratio=median / reference,
                arena_bytes=None if contender.model is None else flatbuffer.arena_bytes(contender.model),
                heap_bytes=contender.heap_bytes,
                file_bytes=contender.file_bytes,
                samples_ms=tuple(samples),
                nodes=node_times,
            )
        )
    return results


def table(results):
    """The results as text: one line per file, then for each profiled file its time by op.

    Args:
        results: list of `Result`.

    Returns:
        str without a trailing newline. Times in ms, memory and sizes in KiB (1024 bytes).
    """
    header = ["file", "engine", "threads", "median ms", "p90", "min", "IQR", "ratio"]
    header += ["arena KiB", "heap KiB", "size KiB"]
    rows = [
        [
            os.path.basename(r.path), r.engine, str(r.num_threads), f"{r.median_ms:.3f}", f"{r.p90_ms:.3f}",
            f"{r.min_ms:.3f}", f"{r.iqr_ms:.3f}", f"{r.ratio:.2f}", _kib(r.arena_bytes), _kib(r.heap_bytes),
            _kib(r.file_bytes),
        ]
        for r in results
    ]  # fmt: skip
    parts = [text.table(header, rows, text_columns=2)]
    parts += _best_peers(results)
    for r in results:
        if r.nodes:
            parts.append(_by_op(r))
    return "\n\n".join(parts)


def _best_peers(results):
    """For each number of threads a line: which engine but our own is the fastest, and by how much our fastest file is faster."""
    lines = []
    for threads in dict.fromkeys(r.num_threads for r in results):
        rows = [r for r in results if r.num_threads == threads]
        own = [r for r in rows if r.engine.partition(":")[0] == "acdbit"]
        others = [r for r in rows if r not in own]
        if own and others:
            best, ours = (min(group, key=lambda r: r.median_ms) for group in (others, own))
            lines.append(
                f"{threads} thread(s): best other {os.path.basename(best.path)} on {best.engine}, {best.median_ms:.3f} ms, "
                f"{best.median_ms / ours.median_ms:.2f} times {os.path.basename(ours.path)} on {ours.engine}"
            )
    return ["\n".join(lines)] if lines else []


def plot(results, path):
    """Draws the latencies as bars (median; the line spans the quartiles) into a PNG file.

    Args:
        results: list of `Result`.
        path: of the PNG.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    medians = np.array([r.median_ms for r in results])
    quartiles = np.array([np.percentile(r.samples_ms, [25, 75]) for r in results])
    figure, [[axes]] = figures.new(size=(7, 1.2 + 0.5 * len(results)))
    families = list(dict.fromkeys(r.engine.partition(":")[0] for r in results))
    colors = [f"C{families.index(r.engine.partition(':')[0])}" for r in results]
    bars = axes.barh(np.arange(len(results)), medians, xerr=np.abs(quartiles.T - medians), capsize=3, color=colors, height=0.6)
    axes.bar_label(bars, [f" {r.median_ms:.3g} ms ({r.ratio:.2f}x)" for r in results], padding=4)
    axes.set_yticks(
        np.arange(len(results)), [f"{os.path.basename(r.path)}\n{r.engine}, {r.num_threads} thread(s)" for r in results]
    )
    axes.invert_yaxis()
    logarithmic = medians.max() > _LOGARITHMIC_FROM * medians.min()
    if logarithmic:
        axes.set_xscale("log")
    axes.margins(x=0.4)
    if logarithmic:
        axes.set_xlim(left=medians.min() / 2)
    unit = "ms, logarithmic" if logarithmic else "ms"
    axes.set_xlabel(f"latency of one inference, {unit}")
    figures.save(figure, path, dots_per_inch=150)


class _OnnxEngine:
    """ONNX Runtime on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the package is not installed.
        ValueError: ONNX Runtime refuses the file, or random inputs.
    """

    def __init__(self, path, num_threads=1):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"engine {ONNX!r} needs the package onnxruntime: pip install onnxruntime") from error
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no such .onnx file: {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(num_threads)
        # Threads that spin on after a run would take the processor from whoever has the next turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no other class
            raise ValueError(f"engine {ONNX!r} cannot load {path}: {_first_line(error)}") from error
        self._path, self._names = path, [value.name for value in self._session.get_inputs()]

    def inputs(self):
        """Yields (shape, name of the type) of each input; an axis of free size is 1."""
        for value in self._session.get_inputs():
            dtype = value.type.removeprefix("tensor(").removesuffix(")")
            shape = tuple(size if isinstance(size, int) else 1 for size in value.shape)
            yield shape, "float32" if dtype == "float" else dtype

    def run(self, inputs):
        try:
            return self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        except Exception as error:
            raise ValueError(f"engine {ONNX!r} cannot run {self._path}: {_first_line(error)}") from error


class _OpenvinoEngine:
    """OpenVINO on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the package is not installed.
        ValueError: OpenVINO refuses the file, or random inputs.
    """

    def __init__(self, path, num_threads=1):
        try:
            import openvino
        except ImportError as error:
            raise ImportError(f"engine {OPENVINO!r} needs the package openvino: pip install openvino") from error
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no such file of OpenVINO: {path}")
        options = {"INFERENCE_NUM_THREADS": int(num_threads), "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        try:
            self._model = openvino.Core().compile_model(path, "CPU", options)
            self._request = self._model.create_infer_request()
        except Exception as error:  # its errors share no other class
            raise ValueError(f"engine {OPENVINO!r} cannot load {path}: {_first_line(error)}") from error
        self._path = path

    def inputs(self):
        """Yields (shape, name of the type) of each input; an axis of free size is 1."""
        for value in self._model.inputs:
            shape = tuple(axis.get_length() if axis.is_static else 1 for axis in value.partial_shape)
            yield shape, np.dtype(value.element_type.to_dtype()).name

    def run(self, inputs):
        try:
            return list(self._request.infer(list(inputs)).values())
        except Exception as error:
            raise ValueError(f"engine {OPENVINO!r} cannot run {self._path}: {_first_line(error)}") from error


# What runs files that are no .tflite files, by their ending; the first is what "auto" takes.
_OTHER_FORMATS = {".onnx": {ONNX: _OnnxEngine, OPENVINO: _OpenvinoEngine}, ".xml": {OPENVINO: _OpenvinoEngine}}


def _enter(path, engine, seed):
    rng = np.random.default_rng(seed)
    others = _OTHER_FORMATS.get(os.path.splitext(str(path))[1])
    if others:
        path = str(path)
        engine = next(iter(others)) if engine == "auto" else engine
        if engine not in others:
            raise ValueError(f"{path} runs on the engine {' or '.join(map(repr, others))}, not on {engine!r}")
        start = others[engine]
        inputs = [_random_values(*each, rng, path) for each in start(path).inputs()]
        size = sum(os.path.getsize(part) for part in {path, path.removesuffix(".xml") + ".bin"} if os.path.isfile(part))
        return _Contender(path, engine, size, inputs, lambda threads: start(path, threads))
    content, name = flatbuffer.contents(path)
    model = flatbuffer.parse(content, name)
    inputs = [_random_values(each.shape, each.dtype, rng, name) for each in flatbuffer.inputs(model)]
    engine = choose_engine(model, engine)
    return _Contender(name, engine, len(content), inputs, lambda threads: start_engine(engine, content, threads, name), model)


def _start(contender):
    # The first start imports the engine's package and fills its process-wide tables; the second is what a model costs.
    for _ in range(2):
        contender.session = None
        gc.collect()
        before = _heap_in_use()
        contender.session = contender.start(contender.num_threads)
        contender.session.run(contender.inputs)
        after = _heap_in_use()
    contender.heap_bytes = None if before is None else after - before


def take_turns(calls, runs, warmup, repeats=None):
    """Calls each in turn, `warmup` rounds untimed, then `runs` rounds.

    Args:
        calls: functions without arguments.
        runs, warmup: numbers of rounds.
        repeats: timed calls in a turn, after one that is not timed; None: one, at once.

    Returns:
        list of a list per function: milliseconds of each timed call.
    """
    times = [[] for _ in calls]
    collecting = gc.isenabled()
    gc.disable()  # a collection would land on whichever call happens to run
    try:
        for round_number in range(warmup + runs):
            for samples, call in zip(times, calls, strict=True):
                if repeats:
                    call()
                for _ in range(repeats or 1):
                    start = time.perf_counter_ns()
                    call()
                    elapsed = time.perf_counter_ns() - start
                    if round_number >= warmup:
                        samples.append(elapsed / 1e6)
    finally:
        if collecting:
            gc.enable()
    return times


def _profile(contender, num_threads, runs, warmup):
    nodes = [operator for operator in flatbuffer.operators(contender.model) if operator.subgraph == 0]
    values, note = {}, ""
    try:
        values = _activations(contender, nodes, num_threads)
    except (RuntimeError, ValueError) as error:
        note = f"the engine cannot hand out intermediate tensors: {_first_line(error)}"
    measured = []
    for node in nodes:
        median, reason = None, note
        if not note:
            try:
                content = flatbuffer.pack(flatbuffer.single_operator(contender.model, node.index))
                session = start_engine(contender.engine, content, num_threads, f"node {node.index}")
                inputs = [values[tensor.index] for tensor in node.activations]
                [samples] = take_turns([lambda s=session, i=inputs: s.run(i)], runs, warmup)
                median = float(np.median(samples))
            except (RuntimeError, ValueError, KeyError) as error:
                reason = _first_line(error)
        output = node.outputs[0].name if node.outputs else ""
        measured.append(NodeTime(node.index, node.name, output, median, reason))
    return tuple(measured)


def _activations(contender, nodes, num_threads):
    """What each node receives in the whole model: a dict from tensor index to array."""
    needed = {tensor.index: tensor for node in nodes for tensor in node.activations}
    fed = [tensor.index for tensor in flatbuffer.inputs(contender.model)]
    produced = {tensor.index for node in nodes for tensor in node.outputs}
    exposed = flatbuffer.expose_tensors(contender.model, [i for i in needed if i in produced])
    session = start_engine(contender.engine, flatbuffer.pack(exposed), num_threads, contender.path)
    names = [tensor.index for tensor in flatbuffer.outputs(exposed)]
    values = dict(zip(names, session.run(contender.inputs), strict=True))
    return {**values, **dict(zip(fed, contender.inputs, strict=True))}


def _random_values(shape, dtype, rng, name):
    if dtype == "bool":
        return rng.random(shape) < 0.5
    try:
        stored = np.dtype(dtype)
    except TypeError:
        raise ValueError(f"{name} takes {dtype}, for which no random input can be made") from None
    if stored.kind == "f":
        return rng.standard_normal(shape).astype(stored)
    limits = np.iinfo(stored)
    return rng.integers(limits.min, limits.max, shape, stored, endpoint=True)


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _heap_in_use():
    """Bytes the C allocator has handed out, None where it cannot tell. Python's small objects are not among them."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    mallinfo2.restype = _MallInfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def _by_op(result):
    totals = {}
    for node in result.nodes:
        count, total, missing = totals.get(node.op, (0, 0.0, 0))
        missed = node.median_ms is None
        totals[node.op] = (count + 1, total + (0.0 if missed else node.median_ms), missing + missed)
    whole = sum(total for _, total, _ in totals.values())
    rows = [
        [op, str(count), f"{total:.3f}", f"{total / whole:.0%}" if whole else "-", str(missing) if missing else ""]
        for op, (count, total, missing) in sorted(totals.items(), key=lambda item: -item[1][1])
    ]
    title = f"{os.path.basename(result.path)}: each node alone, {whole:.3f} ms in sum"
    return title + "\n" + text.table(["op", "nodes", "ms", "share", "not timed"], rows)


def _kib(size):
    return "-" if size is None else f"{size / 1024:.1f}"


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
