"""What importing the package and starting its command loads, registers and prints, each in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import acdbit_keras as acd

HEAVY = "{'keras', 'tensorflow', 'larq', 'jax', 'sklearn', 'matplotlib'}"
# Nothing that trains is installed on a device.
DEVICE = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY} | {{"larq_compute_engine", "onnx", "onnxruntime"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
ZOO_NAME = "digits_vit_nano_acd_bit"


def python(code, **environment):
    """What a process that runs the code prints; fails with its errors if it fails."""
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(code, **environment):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TF_CPP")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**inherited, **environment}, timeout=300
    )


@pytest.fixture(scope="module")
def device_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    facts = acd.models.zoo.card(ZOO_NAME)["data"]
    card = {key: facts[key] for key in ("dataset", "scheme", "mean", "std", "classes")}
    acd.convert.to_tflite(acd.models.from_zoo(ZOO_NAME), folder / "digits.tflite", card=card)
    pixels = acd.models.data.arrays("digits", "test")[0][0, ..., 0]
    Image.fromarray(np.kron(pixels, np.ones((4, 4), np.uint8))).save(folder / "digit.png")
    return folder


# --- What is loaded -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import acdbit_keras as acd; acd.models; acd.convert; acd.studies; dir(acd)",
        "import acdbit_keras as acd; acd.convert.Interpreter; acd.convert.benchmark; acd.convert.runtime.version()",
        "import acdbit_keras.convert.rewrite, acdbit_keras.convert.metadata, acdbit_keras.convert.pictures",
        "from acdbit_keras.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from acdbit_keras.cli import main\ntry: main(['tarin'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code):
    assert python(f"{code}\nimport sys; print(sorted({HEAVY} & set(sys.modules)))").splitlines()[-1] == "[]"


def test_the_rooms_are_listed():
    assert {"convert", "models", "studies", "layers", "BinaryDense", "Distiller", "__version__"} <= set(dir(acd))
    assert {"to_tflite", "Interpreter", "verify", "benchmark"} <= set(dir(acd.convert))
    assert {"build", "from_zoo", "load_model", "presets", "data", "recipes"} <= set(dir(acd.models))


def test_every_public_name_is_there():
    for room in (acd, acd.convert, acd.models):
        for name in room.__all__:
            assert getattr(room, name) is not None
    with pytest.raises(AttributeError, match="module 'acdbit_keras.convert' has no attribute 'to_onxx'"):
        acd.convert.to_onxx  # noqa: B018 - asking is the test


# --- A device ---------------------------------------------------------------------------------------------------------------


def test_a_device_classifies_without_keras(device_file):
    code = f"{DEVICE}\nfrom acdbit_keras.cli import main\nprint(main(['predict', 'digits.tflite', 'digit.png', '--top', '1']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=device_file, timeout=300)
    assert done.returncode == 0, done.stderr
    answer, status = done.stdout.splitlines()
    expected = acd.convert.Interpreter(device_file / "digits.tflite").classify(np.asarray(Image.open(device_file / "digit.png")))
    assert answer == f"digit.png  {expected[0].name} {expected[0].probability:.3f}" and status == "0"


def test_a_device_times_files_without_keras(device_file):
    file = device_file / "digits.tflite"
    assert "acdbit" in python(f"{DEVICE}\nfrom acdbit_keras.cli import main\nmain(['bench', {str(file)!r}, '--runs', '3'])")


@pytest.mark.parametrize("command", [["train", "digits_teacher"], ["summary", "vit_nano_patch2_8:acd_bit"], ["demo"]])
def test_a_device_that_is_asked_to_train_names_the_extra(command):
    done = run(f"{DEVICE}\nfrom acdbit_keras.cli import main\nprint(main({command!r}))")
    assert done.stdout.strip() == "2"
    [line] = done.stderr.splitlines()
    said = f"acdbit: acdbit {command[0]} needs the package keras, which is not installed: pip install acdbit-keras[tensorflow]"
    assert line.startswith(said)


def test_a_device_that_asks_for_a_layer_is_told_in_one_sentence():
    done = run(f"{DEVICE}\nimport acdbit_keras as acd\nacd.BinaryDense")
    assert done.stderr.splitlines()[-1].startswith(
        "acdbit_keras.extras.MissingPackageError: acdbit_keras.BinaryDense needs the package keras"
    )


# --- Keras knows the classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, second", [("acdbit_keras", "keras"), ("keras", "acdbit_keras")])
def test_keras_finds_the_classes_whichever_comes_first(first, second, tmp_path):
    acd.models.build("vit_nano_patch2_8").save(tmp_path / "model.keras")
    load = f"keras.models.load_model({str(tmp_path / 'model.keras')!r})"
    code = f"import {first}\nimport {second}\nimport keras\nprint(type({load}).__name__)"
    assert python(code).splitlines()[-1] == "VisionTransformer"


# --- The compiled runtime of a clone ----------------------------------------------------------------------------------------


@pytest.fixture
def clone_without_runtime(tmp_path):
    """A copy of the package's Python files, as a clone has them, beside an installed one with a compiled runtime."""
    source = pathlib.Path(acd.__file__).parent
    for path in source.rglob("*.py"):
        target = tmp_path / "clone" / "acdbit_keras" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    installed = tmp_path / "site-packages"
    library = installed / "acdbit_keras" / "convert" / "runtime" / "libacdbit_runtime.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(pathlib.Path(acd.convert.runtime.library_path()).read_bytes())
    return tmp_path / "clone", installed, library


def _pretend_installed(installed, version):
    metadata = installed / f"acdbit_keras-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acdbit-keras\nVersion: {version}\n")


def _library_seen_in(clone, installed):
    # The clone first, as in a Python that was started there; without the metadata of the package that the tests run from.
    code = (
        "import importlib.metadata, sys\n"
        f"sys.path[:0] = [{str(clone)!r}]\n"
        f"find = importlib.metadata.Distribution.discover\n"
        f"importlib.metadata.Distribution.discover = lambda **k: find(path=[{str(installed)!r}], **k)\n"
        "import acdbit_keras\n"
        "print(acdbit_keras.convert.runtime.library_path())"
    )
    return run(code)


def test_python_in_a_clone_finds_the_installed_runtime(clone_without_runtime):
    clone, installed, library = clone_without_runtime
    _pretend_installed(installed, acd.__version__)
    done = _library_seen_in(clone, installed)
    assert done.stdout.strip() == str(library), done.stderr


def test_python_in_a_clone_refuses_a_runtime_of_another_version(clone_without_runtime):
    clone, installed, _ = clone_without_runtime
    _pretend_installed(installed, "9.9.9")
    last = _library_seen_in(clone, installed).stderr.splitlines()[-1]
    assert "the installed one is of version 9.9.9; run `pip install .`" in last


def test_a_clone_without_an_installed_package_says_what_to_do(clone_without_runtime):
    clone, installed, _ = clone_without_runtime
    last = _library_seen_in(clone, installed.parent).stderr.splitlines()[-1]
    assert "the compiled runtime is not at" in last and "run `pip install .`" in last


def test_the_versions_agree():
    assert acd.convert.runtime.version() == acd.__version__


# --- Standard error -------------------------------------------------------------------------------------------------------


def test_notes_of_libraries_are_dropped_and_all_else_passes():
    code = """
import os, sys
from acdbit_keras.cli import quiet
quiet.start()
for line in (b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
             b"I0000 00:00:1795.1 4381 port.cc:153] oneDNN custom operations are on.",
             b"E0000 00:00:1795.1 4381 cuda.cc:265] failed call to cuInit",
             b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
             b"2026-11-26 23:44:01.123456: I tensorflow/core/x.cc:1] note",
             b"F0000 00:00:1795.1 4381 x.cc:1] Check failed", b"an error of a library"):
    os.write(2, line + b"\\n")
print("from Python", file=sys.stderr)
os.abort()
"""
    lines = run(code).stderr.splitlines()
    assert sorted(lines) == ["F0000 00:00:1795.1 4381 x.cc:1] Check failed", "an error of a library", "from Python"]


def test_every_note_is_shown_to_debug():
    code = "import os\nfrom acdbit_keras.cli import quiet\nquiet.start()\nos.write(2, b'I0000 00:00:1.1 1 x.cc:1] note\\n')"
    assert "note" in run(code, ACDBIT_DEBUG="1").stderr


SCRIPT = "import sys; from acdbit_keras.cli import script; sys.exit(script())"


def test_a_reader_that_has_enough_ends_the_command_in_silence():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "zoo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=300) == 128 + signal.SIGPIPE


def test_the_command_has_a_version():
    done = subprocess.run([sys.executable, "-c", SCRIPT, "--version"], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == f"acdbit-keras {acd.__version__}"


def test_the_shell_can_complete_a_command(tmp_path):
    line = "acdbit rob"
    environment = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "|"}
    # argcomplete writes to descriptor 8.
    code = f"import os; os.dup2(os.open('answer', os.O_CREAT | os.O_WRONLY), 8)\n{SCRIPT}"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, timeout=300, capture_output=True)
    assert (tmp_path / "answer").read_text().strip() == "robustness"
