"""`acdbit bench --kernels`: what is timed computes what it says, and the figures follow from the times."""

import json

import numpy as np
import pytest
import reference_ops

from acdbit_keras import contract
from acdbit_keras.cli import main
from acdbit_keras.convert import benchmarking as benchmark
from acdbit_keras.convert import flatbuffer, kernel_benchmark, rewrite, runtime
from acdbit_keras.convert.interpreter import start_engine

N, C, H, D = kernel_benchmark.TOKENS, kernel_benchmark.CHANNELS, kernel_benchmark.HEADS, kernel_benchmark.HEAD_DIM


def constants(content):
    [node] = flatbuffer.operators(flatbuffer.read(content))
    kinds = {"float32": np.float32, "int32": np.int32}
    return [t.data.view(kinds[t.dtype]).reshape(t.shape) for t in node.inputs if t is not None and t.data is not None]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def bits(rng, *shape):
    return rng.random(shape) < 0.5


def packed(rows):
    return rewrite.pack_bits(np.where(rows, -1, 1))


def test_the_products(rng):
    content = kernel_benchmark.float_product(rng)
    weights, bias = constants(content)
    x = rng.standard_normal((N, C), np.float32)
    np.testing.assert_allclose(start_engine("litert", content).run([x])[0], x @ weights.T + bias, atol=1e-3)

    content = kernel_benchmark.binary_product(rng)
    filters, multiplier, bias = constants(content)
    x = bits(rng, N, C)
    product = np.where(x, -1.0, 1.0) @ rewrite.unpack_bits(filters.reshape(C, -1), C).T
    [result] = start_engine("acdbit", content).run([packed(x).reshape(1, 14, 14, -1)])
    np.testing.assert_allclose(result.reshape(N, C), product * multiplier + bias, rtol=1e-5, atol=1e-4)


def test_float_attention(rng):
    session = start_engine("litert", kernel_benchmark.float_attention())
    query, key, value = (rng.standard_normal((1, H, N, D), np.float32) for _ in range(3))
    scores = np.exp(query @ key.swapaxes(-1, -2) * D**-0.5)
    [result] = session.run([query, key, value])
    np.testing.assert_allclose(result, scores / scores.sum(-1, keepdims=True) @ value, atol=1e-5)
    # All of it is XNNPACK's.
    assert [node["op_name"] for node in session._interpreter._get_ops_details()].count("DELEGATE") == 1


@pytest.mark.parametrize("form", [{}, {"key_bias": True}, {"dynamic": True}], ids=["frozen", "key bias", "dynamic"])
def test_binary_attention(rng, form):
    content = kernel_benchmark.binary_attention(rng, **form)
    signs = {name: bits(rng, N, C) for name in ("query", "key", "value")}
    statistics = {}
    if "dynamic" in form:
        names = [part.name for part in contract.ATTENTION_STATISTICS]
        statistics = {name: rng.uniform(0.5, 1.0, (N, H)).astype(np.float32) for name in names}
    inputs = [packed(rows)[None] for rows in signs.values()] + [values.reshape(-1) for values in statistics.values()]
    [result] = start_engine("acdbit", content).run(inputs)
    options = {"heads": H, "rule": int(contract.Rule.ELASTIC), "key_bias": False, "dynamic": False, **form}
    names = [part.name for part in contract.ATTENTION_CONSTANTS if part.is_given(options)]
    expected = reference_ops.attention(options, **signs, **dict(zip(names, constants(content), strict=True)), **statistics)
    wrong = (result[0] != expected).reshape(N, H, D).any(-1)
    assert wrong.mean() <= 0.02  # a probability at its threshold may fall on the other side


def test_figures_follow_from_the_times(monkeypatch):
    """Calls that take as many microseconds as their place among the contenders."""
    monkeypatch.setattr(kernel_benchmark, "take_turns", lambda calls, *_: [[1e-3 * i] * 4 for i in range(1, len(calls) + 1)])
    result = kernel_benchmark.kernel_benchmark(runs=1)
    ours = [f"acdbit:{path}" for path in runtime.kernel_paths()]
    assert [(t.kernel, t.form, t.engine) for t in result.times] == [
        ("product", "float32", "litert"), *[("product", "1 bit", engine) for engine in ours],
        ("attention", "float32", "litert"), *[("attention", "1 bit", engine) for engine in ours],
        *[("attention", "1 bit, key bias", engine) for engine in ours],
        *[("attention", "1 bit, dynamic", engine) for engine in ours],
    ]  # fmt: skip
    for place, time in enumerate(result.times, 1):
        first = 1 if time.kernel == "product" else 2 + len(ours)
        operations = 2 * N * C * C if time.kernel == "product" else 4 * N * N * C
        assert time.median_us == pytest.approx(place) and time.iqr_us == pytest.approx(0)
        assert time.speedup == pytest.approx(first / place) and time.gops == pytest.approx(operations / place * 1e-3)
    assert result.call_us == pytest.approx(len(result.times) + 1) and result.load >= 0


def test_turns_with_repeats(monkeypatch):
    clock, seen = [0], []
    monkeypatch.setattr(benchmark.time, "perf_counter_ns", lambda: clock[0])

    def call(name, milliseconds):
        seen.append(name)
        clock[0] += milliseconds * 1_000_000

    times = benchmark.take_turns([lambda: call("a", 1), lambda: call("b", 2)], runs=2, warmup=1, repeats=3)
    assert "".join(seen) == ("aaaa" + "bbbb") * 3 and times == [[1.0] * 6, [2.0] * 6]


def test_the_command(tmp_path, capsys):
    assert main(["bench", "--kernels", "--runs", "1", "--json", "--out", str(tmp_path / "kernels.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "kernels.json").read_text())
    assert written["times"] == printed["times"] and written["runs"] == 1 and written["processor"]
    assert all(time["median_us"] > 0 for time in printed["times"])
    assert main(["bench", "--kernels", "--runs", "1"]) == 0
    assert "float32 over it" in capsys.readouterr().out
    for arguments, message in (
        (["--kernels", "a.tflite"], "either files, --model or --kernels"), (["--kernels", "--threads", "2"], "on one thread"),
        (["--kernels", "--runs", "0"], "--runs must be an integer of at least 1, not 0"),
    ):  # fmt: skip
        assert main(["bench", *arguments]) == 2 and message in capsys.readouterr().err
