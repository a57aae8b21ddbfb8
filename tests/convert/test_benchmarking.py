import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
import small_models

from acdbit_keras import models
from acdbit_keras.cli import main
from acdbit_keras.convert import benchmarking as module
from acdbit_keras.convert import flatbuffer, interpreter, runtime
from acdbit_keras.convert.benchmarking import benchmark, plot, table
from acdbit_keras.studies import contenders


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
    assert [r.engine for r in results] == ["litert", "litert", "acdbit"]
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
    assert lines[3].split()[:3] == ["binary.tflite", "acdbit", "1"]
    assert "binary.tflite: each node alone" in table(results)
    fast = dataclasses.replace(results[0], median_ms=results[0].median_ms / 100)  # needs a logarithmic axis
    for number, shown in enumerate((results, [*results, fast])):
        plot(shown, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


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
    with pytest.raises(ValueError, match="at least one .tflite, .onnx or .xml file"):
        benchmark([])
    with pytest.raises(ValueError, match="one engine per file: 1 for 2 files"):
        benchmark([files["float"], files["int8"]], ["litert"])
    with pytest.raises(ValueError, match="runs must be an integer of at least 1, not 0"):
        benchmark(files["float"], runs=0)
    with pytest.raises(ValueError, match="warmup must be an integer of at least 0"):
        benchmark(files["float"], warmup=-1)
    with pytest.raises(ValueError, match="num_threads must be an integer of at least 1, not 0"):
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


# --- ONNX -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin():
    # Where a CPU adds products of 8 bits in 16, as AVX2 does, some weights saturate these sums.
    keras.utils.set_random_seed(0)
    return contenders.perturbed(models.build("vit_nano_patch2_8", "float32", depth=2))


@pytest.fixture(scope="module")
def onnx_files(twin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    written = {precision: folder / f"{precision}.onnx" for precision in ("float32", "dynamic", "int8")}
    for precision, path in written.items():
        contenders.to_onnx(twin, path, precision, calibration_images(twin) if precision == "int8" else None)
    return written


def calibration_images(model):
    return np.random.default_rng(1).standard_normal((16, *model.input_shape_of_images)).astype(np.float32)


def predictions(model, path):
    images = np.random.default_rng(0).standard_normal((3, *model.input_shape_of_images)).astype(np.float32)
    engine = module._OnnxEngine(str(path))
    found = np.concatenate([engine.run([image[None]])[0] for image in images])
    return found, np.asarray(model(images, training=False))


def test_onnx_files_compute_what_keras_does(twin, onnx_files, tmp_path):
    found, expected = predictions(twin, onnx_files["float32"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for precision, tolerance in (("dynamic", 0.1), ("int8", 0.2)):
        found, expected = predictions(twin, onnx_files[precision])
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
        assert onnx_files[precision].stat().st_size < 0.45 * onnx_files["float32"].stat().st_size


@pytest.mark.parametrize(
    "preset, sizes",
    [
        ("vit_micro_patch4_32", dict(depth=1)),
        ("vit_nano_pooled4_32", dict(depth=1)),
        ("vit_mini_wide_pooled4_32", dict(depth=1)),
        ("vit_nano_pooled4_32", dict(depth=1, image_size=(16, 32))),
        ("vit_nano_patch2_8", dict(depth=1, image_size=(8, 12), patch_size=(4, 2))),
        ("vit1d_micro_patch8_128", dict(depth=1)),
    ],
)
def test_onnx_files_of_every_stem_and_proportion(preset, sizes, tmp_path):
    model = contenders.perturbed(models.build(preset, "float32", **sizes))
    contenders.to_onnx(model, tmp_path / "model.onnx")
    found, expected = predictions(model, tmp_path / "model.onnx")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_onnx_has_no_form_for_is_refused_before_anything_is_written(tmp_path):
    student = models.build("vit_nano_patch2_8", "acd_bit", depth=1)
    with pytest.raises(ValueError, match=f"only a float vision transformer .* as ONNX, and {student.name} is none"):
        contenders.make(student, student, tmp_path)
    assert not any(tmp_path.iterdir())


def test_onnx_beside_tflite(files, onnx_files):
    results = benchmark([files["float"], onnx_files["float32"]], ["auto", "onnx"], runs=4, num_threads=2)
    assert [r.engine for r in results] == ["litert", "onnx"]
    assert results[1].file_bytes == onnx_files["float32"].stat().st_size and results[1].num_threads == 2
    assert results[1].arena_bytes is None and results[1].nodes == ()
    assert results[1].heap_bytes is None or results[1].heap_bytes > results[1].file_bytes / 2  # the weights are copied
    assert table(results).splitlines()[2].split()[:3] == ["float32.onnx", "onnx", "2"]


def test_bad_onnx_input(files, onnx_files, twin, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such .onnx file: .*none.onnx"):
        benchmark(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(onnx_files["float32"].read_bytes()[:5000])
    with pytest.raises(ValueError, match="engine 'onnx' cannot load .*cut.onnx"):
        benchmark(tmp_path / "cut.onnx")
    with pytest.raises(ValueError, match="runs on the engine 'onnx' or 'openvino', not on 'lce'"):
        benchmark(onnx_files["float32"], "lce")
    with pytest.raises(ValueError, match="engine must be one of"):
        benchmark(files["float"], "onnx")
    with pytest.raises(ValueError, match="precision 'int8' needs calibration images"):
        contenders.to_onnx(twin, tmp_path / "int8.onnx", "int8")
    with pytest.raises(ValueError, match="only a float vision transformer"):
        contenders.to_onnx(models.build("vit_nano_patch2_8", "acd_bit", depth=1), tmp_path / "bits.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs the package onnxruntime"):
        benchmark(onnx_files["float32"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install acdbit-keras\[bench\]"):
        contenders.to_onnx(twin, tmp_path / "float.onnx")


# --- contenders -----------------------------------------------------------------------------------------------------


def test_a_model_on_every_engine(tmp_path, capsys, twin):
    student = contenders.perturbed(models.build("vit_nano_patch2_8", "acd_bit", depth=1))
    names = {model: str(tmp_path / f"{name}.keras") for name, model in (("student", student), ("teacher", twin))}
    for model, name in names.items():
        model.save(name)
    arguments = ["--model", names[student], "--teacher", names[twin], "--runs", "3", "--no-profile", "--json"]
    assert main(["bench", *arguments, "--plot", str(tmp_path / "all.png"), "--out", str(tmp_path / "all.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    # Without OpenVINO, which is timed where it is installed.
    assert [(result["path"], result["engine"]) for result in printed if result["engine"] != "openvino"] == [
        ("float32.tflite", "litert"), ("dynamic.tflite", "litert"), ("int8.tflite", "litert"),
        ("float32.onnx", "onnx"), ("dynamic.onnx", "onnx"), ("int8.onnx", "onnx"), ("bits_float_attention.tflite", "lce"),
        *[("bits.tflite", f"acdbit:{kernels}") for kernels in runtime.kernel_paths()],
        ("bits_int8_stem.tflite", "acdbit"),
    ]  # fmt: skip
    assert printed[0]["ratio"] == 1 and printed[-1]["file_bytes"] < printed[0]["file_bytes"] / 2
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["model"] == names[student] and written["processor"]
    assert "onnxruntime" in written["versions"]
    assert [(result["path"], result["median_ms"]) for result in written["results"]] == [
        (result["path"], result["median_ms"]) for result in printed
    ]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_an_untrained_model_gets_a_twin_of_its_sizes(capsys):
    assert (
        main(["bench", "--model", "vit_nano_patch2_8:acd_bit", "--engine", "onnx", "--runs", "1", "--no-profile", "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert [result["path"] for result in printed] == ["float32.onnx", "dynamic.onnx", "int8.onnx"]


def test_chosen_engines_only(twin, tmp_path):
    student = models.build("vit_nano_patch2_8", "acd_bit", depth=1)
    paths, engines = contenders.make(student, twin, tmp_path, ["onnx", "acdbit:portable"])
    assert engines == ["onnx", "onnx", "onnx", "acdbit:portable"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bits.tflite", "dynamic.onnx", "float32.onnx", "int8.onnx"]
    assert paths == [str(tmp_path / name) for name in ("float32.onnx", "dynamic.onnx", "int8.onnx", "bits.tflite")]
    with pytest.raises(ValueError, match="engine 'tensorrt' is none .*; there are litert, onnx, openvino, lce, acdbit"):
        contenders.make(student, twin, tmp_path, ["tensorrt"])


def test_twin():
    student = models.build("vit_nano_patch2_8", "acd_bit", depth=1)
    twin = contenders.float_twin(student)
    assert {**twin.get_config(), "scheme": 0, "name": 0} == {**student.get_config(), "scheme": 0, "name": 0}
    for variable in contenders.perturbed(student).variables:
        if variable.dtype == "float32" and variable.shape:
            assert np.unique(variable).size > np.size(variable) / 2, f"{variable.path} stayed constant"
    with pytest.raises(ValueError, match="no float twin of a Sequential"):
        contenders.float_twin(keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]))


def test_files_or_a_model(capsys):
    for arguments, expected in (
        ([], "either files, --model or --kernels"),
        (["a.tflite", "--model", "vit_nano_patch2_8:acd_bit"], "either files, --model or --kernels"),
        (["a.tflite", "--teacher", "vit_nano_patch2_8:float32"], "--teacher goes with --model"),
    ):
        assert main(["bench", *arguments]) == 2
        assert expected in capsys.readouterr().err


def test_several_numbers_of_threads_take_turns(files):
    results = benchmark([files["float"], files["binary"]], num_threads=[1, 2], runs=3, profile=False)
    assert [(r.engine, r.num_threads) for r in results] == [("litert", 1), ("acdbit", 1), ("litert", 2), ("acdbit", 2)]
    with pytest.raises(ValueError, match="num_threads must be an integer of at least 1, not 0"):
        benchmark(files["float"], num_threads=[1, 0])


def test_table_says_which_other_engine_is_best(files):
    results = benchmark([files["float"]] * 3, ["litert", "lce", "acdbit"], num_threads=[1, 2], runs=3, profile=False)
    lines = [line for line in table(results).splitlines() if "best other" in line]
    assert [line.split()[0] for line in lines] == ["1", "2"]
    others = {r.engine: r.median_ms for r in results[:2]}
    assert f"on {min(others, key=others.get)}, " in lines[0]
    assert "best other" not in table(results[:2])


def test_openvino_is_asked_for_by_name(files, tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    path.write_text("<net/>")
    with pytest.raises(ValueError, match="runs on the engine 'openvino', not on 'onnx'"):
        benchmark(path, "onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="engine 'openvino' needs the package openvino: pip install openvino"):
        benchmark(path)
