import importlib
import json

import numpy as np
import pytest
import small_models
from acdbit_keras.convert import flatbuffer, interpreter
from acdbit_keras.convert.benchmark import benchmark, plot, table

module = importlib.import_module("acdbit_keras.convert.benchmark")  # the package may export the function by this name


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    built = {
        "float": small_models.float_model(),
        "int8": small_models.int8_model(),
        "binary": small_models.binary_model(),
        "loop": small_models.loop_model(),
    }
    for name, content in built.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return {name: folder / f"{name}.tflite" for name in built}


@pytest.fixture(scope="module")
def results(files):
    return benchmark([files["float"], files["int8"], files["binary"]], runs=20)


def test_what_is_measured(files, results):
    assert [r.engine for r in results] == ["litert", "litert", "lce"]
    assert results[0].ratio == 1
    for result, name in zip(results, ("float", "int8", "binary")):
        assert result.path == str(files[name]) and result.file_bytes == files[name].stat().st_size
        assert len(result.samples_ms) == 20
        assert 0 < result.min_ms <= result.median_ms <= result.p90_ms and result.iqr_ms >= 0
        assert result.ratio == result.median_ms / results[0].median_ms
        assert result.arena_bytes == flatbuffer.arena_bytes(flatbuffer.read(files[name]))
        assert result.heap_bytes is None or result.heap_bytes > result.arena_bytes


def test_every_node_is_timed_alone(files, results):
    for result in results:
        operators = list(flatbuffer.operators(flatbuffer.read(result.path)))
        assert [(n.index, n.op) for n in result.nodes] == [(o.index, o.name) for o in operators]
        assert all(node.median_ms > 0 and not node.note for node in result.nodes)


def test_a_node_that_cannot_run_alone_is_told(files):
    [result] = benchmark(files["loop"], runs=2, warmup=0)
    [loop] = [node for node in result.nodes if node.op == "WHILE"]
    assert loop.median_ms is None and "runs another subgraph" in loop.note
    assert "not timed" in table([result])


def test_results_are_json(results):
    plain = [result.to_dict() for result in results]
    assert json.loads(json.dumps(plain))[2]["nodes"][1]["op"] == "LceBconv2d"
    assert json.loads(json.dumps(plain))[0]["median_ms"] == results[0].median_ms


def test_table_and_plot(results, tmp_path):
    lines = table(results).splitlines()
    assert lines[0].split()[:3] == ["file", "engine", "threads"]
    assert lines[3].split()[:3] == ["binary.tflite", "lce", "1"]
    assert "binary.tflite: each node alone" in table(results)
    plot(results, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


class Recorder:
    """An engine whose clock is ours: run i of the file marked m takes (m + 1) * (i + 1) ms."""

    def __init__(self, monkeypatch):
        self.now, self.calls, self.threads = 0, [], set()
        monkeypatch.setattr(module.time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setitem(interpreter.ENGINES, "recorder", interpreter.Engine("none", self.start))
        self.started = 0

    def start(self, content, num_threads):
        self.threads.add(num_threads)
        mark, self.started = self.started // 2, self.started + 1  # every file is started twice, see heap_bytes
        recorder, runs = self, [0]

        class Session:
            def run(self, inputs):
                recorder.calls.append((mark, [value.copy() for value in inputs]))
                if runs[0]:
                    recorder.now += (mark + 1) * runs[0] * 1_000_000
                runs[0] += 1

        return Session()


def test_files_take_turns_and_statistics_are_exact(files, monkeypatch):
    recorder = Recorder(monkeypatch)
    results = benchmark([files["float"]] * 3, "recorder", num_threads=2, runs=10, warmup=4, profile=False)
    assert recorder.threads == {2} and {r.num_threads for r in results} == {2}
    turns = [mark for mark, _ in recorder.calls[6:]]  # after two starts per file
    assert turns == [0, 1, 2] * 14
    for mark, result in enumerate(results):
        expected = (mark + 1) * np.arange(5, 15)  # runs 1 to 4 are the warm-up
        np.testing.assert_allclose(result.samples_ms, expected)
        assert result.median_ms == np.median(expected) and result.min_ms == expected.min()
        assert result.p90_ms == pytest.approx(np.percentile(expected, 90))
        assert result.iqr_ms == pytest.approx(np.percentile(expected, 75) - np.percentile(expected, 25))
        assert result.ratio == pytest.approx(mark + 1)


def test_inputs_follow_the_seed(files, monkeypatch):
    recorder = Recorder(monkeypatch)
    drawn = []
    for seed in (0, 0, 1):
        recorder.calls.clear()
        benchmark(files["float"], "recorder", runs=1, warmup=0, seed=seed, profile=False)
        drawn.append(recorder.calls[0][1][0])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.skipif(module._heap_in_use() is None, reason="needs glibc's allocator")
def test_planned_arena_is_what_the_engine_allocates(tmp_path):
    # Only the size of the images differs, so the engine's own structures cancel and the arenas remain.
    paths = [tmp_path / f"{size}.tflite" for size in (8, 128)]
    for path, size in zip(paths, (8, 128)):
        path.write_bytes(small_models.pooling_model(size))
    small, large = benchmark(paths, "lce", runs=1, warmup=0, profile=False)
    planned = large.arena_bytes - small.arena_bytes
    assert planned > 4 * 2**20
    assert large.heap_bytes - small.heap_bytes == pytest.approx(planned, abs=16 * 1024)


def test_one_file_on_two_engines(files):
    results = benchmark([files["float"], files["float"]], ["litert", "lce"], runs=3, num_threads=2, profile=False)
    assert [r.engine for r in results] == ["litert", "lce"] and results[0].nodes == ()


def test_bad_arguments(files, tmp_path):
    with pytest.raises(ValueError, match="at least one .tflite file"):
        benchmark([])
    with pytest.raises(ValueError, match="one engine per file: 1 for 2 files"):
        benchmark([files["float"], files["int8"]], ["litert"])
    with pytest.raises(ValueError, match="runs must be an integer of at least 1, got 0"):
        benchmark(files["float"], runs=0)
    with pytest.raises(ValueError, match="warmup must be an integer of at least 0"):
        benchmark(files["float"], warmup=-1)
    with pytest.raises(ValueError, match="num_threads must be a positive integer"):
        benchmark(files["float"], num_threads=0)
    with pytest.raises(ValueError, match="engine must be one of"):
        benchmark(files["float"], "tensorrt")
    with pytest.raises(FileNotFoundError, match="no such .tflite file"):
        benchmark([files["float"], tmp_path / "missing.tflite"])
    (tmp_path / "cut.tflite").write_bytes(files["float"].read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut.tflite is truncated or corrupt"):
        benchmark([files["float"], tmp_path / "cut.tflite"])
    with pytest.raises(ValueError, match="engine 'litert' cannot run .*binary.tflite"):
        benchmark(files["binary"], "litert")
