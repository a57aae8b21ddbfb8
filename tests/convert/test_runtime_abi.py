"""Our declarations of TFLite's C ABI against TensorFlow's own headers and library, from the npm package tfjs-tflite-node."""

import os
import pathlib
import platform
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import test_runtime_delegate

from acdbit_keras.convert import runtime
from acdbit_keras.convert.interpreter import start_engine

PACKAGE = "tfjs-tflite-node@0.0.2"  # TensorFlow 2.9, the oldest ABI that the runtime supports
SOURCES = pathlib.Path(runtime.__file__).parent / "src"
# Arrays of tensors lie in memory one behind the other, so here the size counts too.
SAME_SIZE = ("TfLiteTensor", "TfLiteDelegateParams", "TfLiteQuantizationParams")

# A macro there, and two that are not among these headers.
ELSEWHERE = ("kTfLiteOptionalTensor", "kTfLiteBuiltinCustom", "kTfLiteBuiltinDelegate")


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """Folder with TensorFlow's headers."""
    folder = tmp_path_factory.mktemp("npm")
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, timeout=300)
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as content:
        for member in content:
            if "/include/" in member.name and member.isfile():
                path = folder / member.name.split("/include/")[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.extractfile(member).read())
    return folder


def ours():
    """`(struct, fields)` of every struct in our header, and the names of its constants."""
    text = re.sub(r"//[^\n]*", "", (SOURCES / "tflite.h").read_text())
    structs = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\n\};", text, re.S):
        declarations = [" ".join(part.split()) for part in body.split(";")]
        fields = [re.search(r"\(\*(\w+)\)|(\w+)(?:\[\w*\])?$", d) for d in declarations if d]
        structs[name] = [f[1] or f[2] for f in fields if f]
    return structs, re.findall(r"\b(kTfLite\w+)\s*=", text)


def test_offsets_and_values_equal_tensorflow_s(headers, tmp_path):
    structs, constants = ours()
    assert len(structs) >= 9 and len(constants) >= 14
    other_names = {("TfLiteContext", "impl"): "impl_", ("TfLiteDelegate", "data"): "data_"}
    claims = []
    for struct, fields in structs.items():
        for field in fields:
            if field == "later_fields":
                continue
            other = other_names.get((struct, field), field)
            claims.append(f"offsetof(acdbit::{struct}, {field}) == offsetof(::{struct}, {other})")
            if (struct, field) != ("TfLiteIntArray", "data"):
                claims.append(f"sizeof(acdbit::{struct}::{field}) == sizeof(::{struct}::{other})")
    claims += [f"sizeof(acdbit::{name}) == sizeof(::{name})" for name in SAME_SIZE]
    claims += [f"int64_t(acdbit::{name}) == int64_t(::{name})" for name in constants if name not in ELSEWHERE]
    claims += ["acdbit::kTfLiteOptionalTensor == their_optional_tensor"]
    lines = [
        "#include <stddef.h>",
        '#include "tensorflow/lite/c/common.h"',
        "constexpr int their_optional_tensor = kTfLiteOptionalTensor;",  # a macro there
        "#undef kTfLiteOptionalTensor",
        f'#include "{SOURCES}/tflite.h"',
        *(f'static_assert({claim}, "");' for claim in claims),
    ]
    source = tmp_path / "abi.cc"
    source.write_text("\n".join(lines))
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wno-invalid-offsetof", "-I", str(headers), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_builtin_codes_equal_the_schema_s():
    from ai_edge_litert import schema_py_generated as schema

    text = (SOURCES / "tflite.h").read_text()
    for name, value in (("Custom", schema.BuiltinOperator.CUSTOM), ("Delegate", schema.BuiltinOperator.DELEGATE)):
        assert f"kTfLiteBuiltin{name} = {value};" in text


PROGRAM = r"""
/* Runs a model with the delegate on TensorFlow's C API and prints the bytes of its last output. */
#include <stdio.h>
#include <stdlib.h>
#include "acdbit_runtime.h"
#include "tensorflow/lite/c/c_api.h"

int main(int count, char** arguments) {
  (void)count;
  const char* keys[] = {"num_threads"};
  const char* values[] = {"2"};
  TfLiteDelegate* delegate = (TfLiteDelegate*)tflite_plugin_create_delegate(keys, values, 1, NULL);
  TfLiteInterpreterOptions* options = TfLiteInterpreterOptionsCreate();
  TfLiteInterpreterOptionsAddDelegate(options, delegate);
  TfLiteModel* model = TfLiteModelCreateFromFile(arguments[1]);
  TfLiteInterpreter* interpreter = TfLiteInterpreterCreate(model, options);
  if (!interpreter || TfLiteInterpreterAllocateTensors(interpreter) != kTfLiteOk) {
    fprintf(stderr, "refused: %s\n", acdbit_last_error());
    return 1;
  }
  TfLiteTensor* input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  FILE* file = fopen(arguments[2], "rb");
  void* bytes = malloc(TfLiteTensorByteSize(input));
  if (fread(bytes, 1, TfLiteTensorByteSize(input), file) != TfLiteTensorByteSize(input)) return 2;
  fclose(file);
  TfLiteTensorCopyFromBuffer(input, bytes, TfLiteTensorByteSize(input));
  if (TfLiteInterpreterInvoke(interpreter) != kTfLiteOk) return 3;
  const TfLiteTensor* output = TfLiteInterpreterGetOutputTensor(interpreter, 0);
  fwrite(TfLiteTensorData(output), 1, TfLiteTensorByteSize(output), stdout);
  free(bytes);
  TfLiteInterpreterDelete(interpreter);
  TfLiteInterpreterOptionsDelete(options);
  TfLiteModelDelete(model);
  tflite_plugin_destroy_delegate(delegate);
  return 0;
}
"""


def test_a_c_program_on_tensorflow_2_9(headers, tmp_path):
    """The oldest runtime, through the C interface, gives the bytes of the newest."""
    machine = {"x86_64": "linux_amd64", "aarch64": "linux_arm64"}[platform.machine()]
    [archive] = headers.glob("*.tgz")
    with tarfile.open(archive) as content:
        member = content.getmember(f"package/cc_deps/{machine}/libtensorflowlite_c.so")
        (tmp_path / "libtensorflowlite_c.so").write_bytes(content.extractfile(member).read())
    (tmp_path / "program.c").write_text(PROGRAM)
    library = runtime.library_path()
    subprocess.run(
        ["gcc", "-Wall", "-o", "program", "program.c", "-I", SOURCES.parent / "include", "-I", headers,
         "-L.", "-ltensorflowlite_c", library],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    content = test_runtime_delegate.chain(rng)
    x = rng.normal(size=(1, 12, 12, 64)).astype(np.float32)
    (tmp_path / "model.tflite").write_bytes(content)
    (tmp_path / "input").write_bytes(x.tobytes())
    run = {
        "cwd": tmp_path,
        "capture_output": True,
        "env": {**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}:{os.path.dirname(library)}"},
    }
    result = subprocess.run(["./program", "model.tflite", "input"], **run)
    assert result.returncode == 0, result.stderr
    assert result.stdout == start_engine("acdbit", content).run([x])[0].tobytes()

    (tmp_path / "model.tflite").write_bytes(test_runtime_delegate.spoilt_convolution(options=b""))
    result = subprocess.run(["./program", "model.tflite", "input"], **run)
    assert result.returncode == 1 and b"refused: node 0 (LceBconv2d): the option channels_in is missing" in result.stderr


INTERPOSER = """
#include <stdlib.h>
void tflite_plugin_destroy_delegate(void* delegate) { abort(); }
const char* acdbit_kernel_paths(void) { abort(); }
"""
CALLER = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(sys.argv[2])
library.acdbit_last_error.restype = ctypes.c_char_p
create = library.tflite_plugin_create_delegate
create.restype = ctypes.c_void_p
strings = ctypes.c_char_p * 1
assert create(strings(b"kernels"), strings(b"none"), 1, None) is None
print(library.acdbit_last_error().decode())
"""


def test_another_delegate_loaded_for_all_does_not_catch_calls_of_our_own_functions(tmp_path):
    (tmp_path / "interposer.c").write_text(INTERPOSER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "interposer.so", "interposer.c"], cwd=tmp_path, check=True)
    command = [sys.executable, "-c", CALLER, tmp_path / "interposer.so", runtime.library_path()]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("the option kernels must be auto or one of")
