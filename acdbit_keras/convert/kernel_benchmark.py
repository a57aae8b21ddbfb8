"""The two products of a binary transformer against float32 ones of XNNPACK (in LiteRT), each alone, in one run on one thread.

    acdbit bench --kernels

At the sizes of DeiT-S: a linear layer, 196 tokens of 384 channels to 384 outputs, its epilogue (a multiplier and a bias
per output) included; and attention over 196 tokens in 6 heads of 64, from query, key and value to the context. The 1-bit
ones take packed bits and give floats, as in a file whose layers are ops of their own; inside a fused block there is even
less around them. Float attention is given its operands head by head, which spares it the transpositions of a model.

Every contender is a file in the stock interpreter. A sample is one call of it without the copies of inputs and outputs,
which no model makes between its nodes; `call_us`, the time of a call that does nearly nothing, is part of each. The
contenders take turns; in each the first call, which finds the caches full of another's data, is not counted.
"""

import dataclasses
import os
import statistics

import numpy as np

from acdbit_keras import checks, contract, text
from acdbit_keras.convert import flatbuffer, rewrite, runtime
from acdbit_keras.convert.benchmarking import take_turns
from acdbit_keras.convert.graph import Graph
from acdbit_keras.convert.interpreter import start_engine

TOKENS, CHANNELS, HEADS = 196, 384, 6
HEAD_DIM = CHANNELS // HEADS
OPERATIONS = {"product": 2 * TOKENS * CHANNELS * CHANNELS, "attention": 2 * 2 * HEADS * TOKENS * TOKENS * HEAD_DIM}
_CALLS = 10  # of a contender in its turn
_GRID = 14


@dataclasses.dataclass(frozen=True)
class KernelTime:
    """What was measured of one contender.

    Attributes:
        kernel: "product" or "attention".
        form: "float32", "1 bit", or which statistics the 1-bit attention has.
        engine: how it ran.
        median_us, iqr_us: of one call, in microseconds; the spread is the 75th minus the 25th percentile.
        gops: operations (multiplications and additions of the float kernel) over the median, in billions per second.
        speedup: median of the float32 kernel over this one.
    """

    kernel: str
    form: str
    engine: str
    median_us: float
    iqr_us: float
    gops: float
    speedup: float


@dataclasses.dataclass(frozen=True)
class KernelTimes:
    """One run.

    Attributes:
        times: `KernelTime`s.
        call_us: median time of a call of the interpreter on a node that does nearly nothing, in microseconds.
        load: the machine's load average over the minute before the run.
    """

    times: tuple
    call_us: float
    load: float

    def to_dict(self):
        """The run in plain types, as ``json.dumps`` takes them."""
        return dataclasses.asdict(self)


def kernel_benchmark(runs=200):
    """Times the products of this package's runtime, with every kernel path of this CPU, and those of XNNPACK.

    Args:
        runs: turns of each contender, of 10 calls each.

    Returns:
        `KernelTimes`.

    Raises:
        ImportError: ai-edge-litert or the compiled runtime is missing.
        ValueError: `runs` is no positive integer.
    """
    checks.integer("runs", runs, 1)
    ours = [f"acdbit:{path}" for path in runtime.kernel_paths()]
    rng = np.random.default_rng(0)
    files = [("product", "float32", ["litert"], float_product(rng)), ("product", "1 bit", ours, binary_product(rng))]
    files.append(("attention", "float32", ["litert"], float_attention()))
    for form, options in {"1 bit": {}, "1 bit, key bias": {"key_bias": True}, "1 bit, dynamic": {"dynamic": True}}.items():
        files.append(("attention", form, ours, binary_attention(rng, **options)))
    contenders = [(kernel, form, engine, content) for kernel, form, engines, content in files for engine in engines]
    contenders.append(("call", "", "litert", _smallest()))
    load = os.getloadavg()[0]
    sessions = [_session(engine, content, rng) for _, _, engine, content in contenders]
    samples = take_turns([session.invoke for session in sessions], int(runs), 1, _CALLS)
    medians = [1e3 * statistics.median(values) for values in samples]

    float32 = {kernel: median for (kernel, form, _, _), median in zip(contenders, medians) if form == "float32"}
    times = []
    for (kernel, form, engine, _), values, median in zip(contenders[:-1], samples, medians):
        low, high = np.percentile(values, [25, 75])
        gops = OPERATIONS[kernel] / median * 1e-3
        times.append(KernelTime(kernel, form, engine, median, 1e3 * float(high - low), gops, float32[kernel] / median))
    return KernelTimes(tuple(times), medians[-1], load)


def table(result):
    """A `KernelTimes` as text, without a trailing newline."""
    header = ["kernel", "form", "engine", "median us", "IQR", "GOPS", "float32 over it"]
    rows = [
        [t.kernel, t.form, t.engine, f"{t.median_us:.1f}", f"{t.iqr_us:.1f}", f"{t.gops:.0f}", f"{t.speedup:.1f}"]
        for t in result.times
    ]
    shapes = f"{TOKENS} tokens, {CHANNELS} channels, {HEADS} heads; one thread"
    title = f"{shapes}; a call takes {result.call_us:.1f} us; load before {result.load:.1f}"
    return title + "\n" + text.table(header, rows, text_columns=3)


def float_product(rng):
    """A FULLY_CONNECTED with bias, as bytes of a file."""
    graph = Graph()
    x = graph.input((TOKENS, CHANNELS), "float32")
    weights, bias = (graph.constant(rng.standard_normal(shape, np.float32)) for shape in ((CHANNELS, CHANNELS), CHANNELS))
    y = graph.tensor((TOKENS, CHANNELS), "float32")
    return graph.pack(graph.builtin("FULLY_CONNECTED", [x, weights, bias], [y], flatbuffer.schema.FullyConnectedOptionsT()))


def binary_product(rng):
    """The LceBconv2d that a binary linear layer is: packed tokens to floats."""
    graph = Graph()
    words = CHANNELS // contract.WORD_BITS
    x = graph.input((1, _GRID, _GRID, words), "int32")
    weights = graph.constant(rewrite.pack_bits(rng.standard_normal((CHANNELS, 1, 1, CHANNELS))))
    multiplier, bias = (graph.constant(rng.standard_normal(CHANNELS, np.float32)) for _ in range(2))
    y = graph.tensor((1, _GRID, _GRID, CHANNELS), "float32")
    options = {
        "channels_in": CHANNELS, "stride_height": 1, "stride_width": 1, "dilation_height_factor": 1, "dilation_width_factor": 1,
        "padding": 1, "pad_values": 1, "fused_activation_function": 0,
    }  # fmt: skip
    return graph.pack(graph.custom("LceBconv2d", [x, weights, multiplier, bias, -1], [y], options))


def float_attention():
    """softmax(q k' / sqrt(d)) v, the heads before the tokens."""
    graph, schema = Graph(), flatbuffer.schema
    shape, square = (1, HEADS, TOKENS, HEAD_DIM), (1, HEADS, TOKENS, TOKENS)
    query, key, value = (graph.input(shape, "float32") for _ in range(3))
    scaled, scores, probabilities, context = (graph.tensor(each, "float32") for each in (shape, square, square, shape))
    graph.builtin("MUL", [query, graph.constant(np.float32([HEAD_DIM**-0.5]))], [scaled], schema.MulOptionsT())
    transposed = schema.BatchMatMulOptionsT()
    transposed.adjY = True
    graph.builtin("BATCH_MATMUL", [scaled, key], [scores], transposed)
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    graph.builtin("SOFTMAX", [scores], [probabilities], softmax)
    return graph.pack(graph.builtin("BATCH_MATMUL", [probabilities, value], [context], schema.BatchMatMulOptionsT()))


def binary_attention(rng, key_bias=False, dynamic=False):
    """An AcdBinaryAttention of elastic probabilities, of which it keeps those above the mean."""
    options = {
        "version": contract.VERSION, "heads": HEADS, "rule": int(contract.Rule.ELASTIC), "ratio": 0.0,
        "key_bias": key_bias, "dynamic": dynamic,
    }  # fmt: skip
    constants = {"score_scale": np.full(HEADS, HEAD_DIM**-0.5)}
    if key_bias:
        constants["key_weights"] = rng.normal(0.0, 0.01, CHANNELS)
    constants["value_scale"] = rng.uniform(0.5, 1.5, CHANNELS)
    constants["value_offset"] = rng.normal(0.0, 0.1, CHANNELS)
    constants["probability_scale"] = np.full(HEADS, 2.0 / TOKENS)
    graph, inputs = Graph(), []
    for name in contract.attention_inputs(options):
        if name in constants:
            inputs.append(graph.constant(constants[name].astype(np.float32)))
        elif name in ("query", "key", "value"):
            inputs.append(graph.input((1, TOKENS, CHANNELS // contract.WORD_BITS), "int32"))
        else:
            inputs.append(graph.input((TOKENS * HEADS,), "float32"))
    y = graph.tensor((1, TOKENS, CHANNELS), "float32")
    return graph.pack(graph.custom(contract.ATTENTION, inputs, [y], options))


def _smallest():
    """One number, negated."""
    graph = Graph()
    x = graph.input((1,), "float32")
    return graph.pack(graph.builtin("NEG", [x], [graph.tensor((1,), "float32")], flatbuffer.schema.NegOptionsT()))


def _session(engine, content, rng):
    session = start_engine(engine, content)
    values = []
    for tensor in flatbuffer.inputs(flatbuffer.read(content)):
        if tensor.dtype == "int32":
            values.append(rng.integers(-(2**31), 2**31, tensor.shape).astype(np.int32))
        elif len(tensor.shape) == 1:  # scales and offsets of dynamic statistics
            values.append(rng.uniform(0.5, 1.0, tensor.shape).astype(np.float32))
        else:
            values.append(rng.standard_normal(tensor.shape, np.float32))
    session.feed(values)
    return session
