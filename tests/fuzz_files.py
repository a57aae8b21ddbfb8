"""Mutants of `.tflite` files through `Interpreter(..., untrusted=True)`, in children of a fork: none may die, hang or raise what
is no clear error.

    python tests/fuzz_files.py FILE... [--mutants N] [--seed N] [--out RESULT.json]

Half of the mutants are files with other bytes, half are files whose graph says something else: other types, shapes, constants,
inputs, options and scales, written as a flatbuffer without a flaw. What kills a child is written beside the result.
"""

import argparse
import copy
import json
import os
import pathlib
import platform
import random
import signal
import struct
import sys

import numpy as np

from acdbit_keras.convert import flatbuffer
from acdbit_keras.convert.flatbuffer import schema
from acdbit_keras.convert.interpreter import Interpreter

BATCH, SECONDS = 25, 60  # mutants per child; a mutant may take as long
OUTCOMES = ("ran", "refused", "unclear")
_EXTREMES = (0, 1, 2, 3, 5, 7, 127, 128, 255, 256, 65535, 2**30, 2**31 - 1, -1, -2, -128, -(2**31))
_FLOATS = (0.0, -1.0, 1e-45, 1e-30, 1e30, float("inf"), float("nan"), 1.0)


# === Bytes ===


def _mutate_bytes(rng, content):
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        position = rng.randrange(len(content))
        kind = rng.randrange(6)
        if kind == 0:
            content[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[position] = rng.randrange(256)
        elif kind == 2:
            position &= ~3
            value = rng.choice((*_EXTREMES, rng.randrange(len(content)))) & 0xFFFFFFFF
            content[position : position + 4] = struct.pack("<I", value)
        elif kind == 3:
            start = rng.randrange(len(content))
            length = rng.choice((1, 4, 16, 64))
            content[position : position + length] = content[start : start + length]
        elif kind == 4:
            del content[position : position + rng.choice((1, 4, 8))]
        else:
            del content[position:]
        if len(content) < 8:
            break
    return bytes(content)


# === Graphs ===


def _other_type(rng, graph, model):
    tensor = rng.choice(graph.tensors)
    tensor.type = rng.choice([value for value in vars(schema.TensorType).values() if isinstance(value, int)])


def _other_shape(rng, graph, model):
    tensor = rng.choice(graph.tensors)
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    kind = rng.randrange(5)
    if kind == 0 and shape:
        shape[rng.randrange(len(shape))] = rng.choice(_EXTREMES)
    elif kind == 1 and shape:
        shape.pop(rng.randrange(len(shape)))
    elif kind == 2:
        shape.insert(rng.randint(0, len(shape)), rng.choice((1, 2, 3)))
    elif kind == 3:
        rng.shuffle(shape)
    else:
        tensor.shapeSignature = np.array([rng.choice((-1, 1, 3)) for _ in shape], np.int32)
    tensor.shape = np.array(shape, np.int32)


def _other_constant(rng, graph, model):
    tensor = rng.choice(graph.tensors)
    data = model.buffers[tensor.buffer].data
    kind = rng.randrange(4)
    if kind == 0:
        tensor.buffer = rng.randrange(len(model.buffers))
    elif data is not None and kind == 1:
        model.buffers[tensor.buffer].data = data[: rng.randrange(len(data) + 1)]
    elif data is not None and len(data) >= 4:
        data = np.array(data)
        words = data[: len(data) // 4 * 4].view(np.int32 if kind == 2 else np.float32)
        words[rng.randrange(len(words))] = rng.choice(_EXTREMES if kind == 2 else _FLOATS)
        model.buffers[tensor.buffer].data = data


def _other_ends(rng, graph, model):
    node = rng.choice(graph.operators)
    name = rng.choice(("inputs", "inputs", "outputs"))
    ends = [int(i) for i in getattr(node, name)]
    kind = rng.randrange(5)
    if kind == 0 and ends:
        ends[rng.randrange(len(ends))] = rng.choice((-1, rng.randrange(len(graph.tensors))))
    elif kind == 1 and ends:
        ends.pop(rng.randrange(len(ends)))
    elif kind == 2:
        ends.append(rng.randrange(len(graph.tensors)))
    elif kind == 3:
        ends += ends * rng.choice((1, 20))
    else:
        rng.shuffle(ends)
    setattr(node, name, np.array(ends, np.int32))


def _other_op(rng, graph, model):
    node = rng.choice(graph.operators)
    kind = rng.randrange(4)
    if kind == 0:
        node.opcodeIndex = rng.randrange(len(model.operatorCodes))
    elif kind == 1:
        code = rng.choice(model.operatorCodes)
        code.builtinCode = code.deprecatedBuiltinCode = rng.randrange(127)
    elif kind == 2:
        rng.choice(model.operatorCodes).version = rng.choice((0, 1, 2, 3, 5, 12, 2**31 - 1))
    else:
        rng.shuffle(graph.operators)


def _other_options(rng, graph, model):
    node = rng.choice(graph.operators)
    if node.customOptions is not None and len(node.customOptions):
        options = np.array(node.customOptions)
        options[rng.randrange(len(options))] = rng.randrange(256)
        node.customOptions = options
        return
    kind = rng.randrange(4)
    if kind == 0:
        other = rng.choice(graph.operators)
        node.builtinOptions, node.builtinOptionsType = other.builtinOptions, other.builtinOptionsType
    elif kind == 1:
        node.builtinOptions, node.builtinOptionsType = None, 0
    elif node.builtinOptions is not None:
        fields = [name for name, value in vars(node.builtinOptions).items() if isinstance(value, (int, bool))]
        if fields:
            name = rng.choice(fields)
            value = getattr(node.builtinOptions, name)
            limit = 127 if name in ("padding", "fusedActivationFunction", "weightsFormat") else 2**31 - 1
            new = not value if isinstance(value, bool) else max(-limit - 1, min(limit, rng.choice(_EXTREMES)))
            setattr(node.builtinOptions, name, new)


def _other_quantization(rng, graph, model):
    tensor = rng.choice(graph.tensors)
    quantization = schema.QuantizationParametersT()
    count = rng.choice((0, 1, 1, 2, 96))
    quantization.scale = np.array([rng.choice(_FLOATS) for _ in range(count)], np.float32)
    quantization.zeroPoint = np.array([rng.choice(_EXTREMES) for _ in range(rng.choice((0, count)))], np.int64)
    quantization.quantizedDimension = rng.choice((0, 1, 3, 9, -1))
    tensor.quantization = quantization
    if rng.random() < 0.5:
        tensor.type = schema.TensorType.INT8


def _other_model(rng, graph, model):
    kind = rng.randrange(5)
    if kind == 0:
        model.subgraphs.append(copy.deepcopy(graph))
    elif kind == 1:
        graph.inputs = np.array([rng.randrange(len(graph.tensors)) for _ in range(rng.randrange(3))], np.int32)
    elif kind == 2:
        graph.outputs = np.array([rng.randrange(len(graph.tensors)) for _ in range(rng.randrange(3))], np.int32)
    elif kind == 3:
        rng.choice(graph.tensors).isVariable = True
    else:
        graph.operators.pop(rng.randrange(len(graph.operators)))


_GRAPHS = (
    _other_type, _other_shape, _other_shape, _other_constant, _other_ends, _other_ends, _other_op, _other_options,
    _other_quantization, _other_model,
)  # fmt: skip


def _mutate_graph(rng, content):
    model = copy.deepcopy(flatbuffer.read(content))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if model.subgraphs[0].operators:
            rng.choice(_GRAPHS)(rng, model.subgraphs[0], model)
    return flatbuffer.pack(model)


def mutant(number, seed, contents):
    """The bytes of one mutant: the same for the same number, seed and files."""
    rng = random.Random(f"{seed} {number}")
    content = rng.choice(contents)
    if number % 2:
        return _mutate_bytes(rng, content)
    for _ in range(20):
        try:
            return _mutate_graph(rng, content)
        except (struct.error, TypeError, ValueError, AttributeError, OverflowError, AssertionError):
            continue  # what no flatbuffer can say
    return _mutate_bytes(rng, content)


# === Children ===


def _outcome(content):
    try:
        interpreter = Interpreter(content, num_threads=1 + len(content) % 2, untrusted=True)
        images = np.random.default_rng(0).uniform(0, 1, (1, *interpreter.input_shape))
        interpreter.predict((255 * images).astype(np.uint8) if interpreter.input_dtype == "uint8" else images.astype(np.float32))
    except ValueError as error:
        return "refused" if str(error) else "unclear"
    except Exception:
        return "unclear"
    return "ran"


def _child(pipe, numbers, seed, contents):
    """Tells the outcome of each, a byte; never returns."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LiteRT says what it thinks of them
    for number in numbers:
        content = mutant(number, seed, contents)
        signal.alarm(SECONDS)
        os.write(pipe, bytes([OUTCOMES.index(_outcome(content))]))
        signal.alarm(0)
    os._exit(0)


def run(contents, mutants, seed):
    """Yields (number, outcome) of each mutant, where an outcome is one of `OUTCOMES`, or "hung", or "died of SIG..."."""
    number = 0
    while number < mutants:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(writer, range(number, min(number + BATCH, mutants)), seed, contents)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            told = pipe.read()
        status = os.waitpid(child, 0)[1]
        for byte in told:
            yield number, OUTCOMES[byte]
            number += 1
        if status:
            died = (
                f"died of {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"exited with {status >> 8}"
            )
            yield number, "hung" if died.endswith("SIGALRM") else died
            number += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--mutants", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    contents = [path.read_bytes() for path in options.files]
    for content in contents:
        if _outcome(content) != "ran":
            sys.exit("a file does not run before it is changed")
    counts, culprits = dict.fromkeys((*OUTCOMES, "hung", "died"), 0), []
    for number, outcome in run(contents, options.mutants, options.seed):
        kind = outcome.partition(" of ")[0]
        counts[kind] = counts.get(kind, 0) + 1
        if outcome not in ("ran", "refused"):
            culprits.append({"mutant": number, "outcome": outcome})
            if options.out:
                options.out.with_name(f"mutant_{options.seed}_{number}.tflite").write_bytes(
                    mutant(number, options.seed, contents)
                )
    result = {
        "files": [path.name for path in options.files], "mutants": options.mutants, "seed": options.seed, "outcomes": counts,
        "culprits": culprits, "machine": platform.machine(), "litert": _version("ai-edge-litert"),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(culprits))


def _version(package):
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    main()
