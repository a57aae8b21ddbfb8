"""`src/contract.h`: `acdbit_keras.contract` for the C++ runtime, which must compile without Python.

python -m acdbit_keras.convert.runtime.contract_header
"""

import pathlib

from acdbit_keras import contract, files

PATH = pathlib.Path(__file__).with_name("src") / "contract.h"

_TEXT = """\
// Generated from acdbit_keras/contract.py by `python -m acdbit_keras.convert.runtime.contract_header`; do not edit.
//
// The contract between the exporter and the runtime as data; in words it is the docstring of
// acdbit_keras/device_ops.py. Lists are macros that expand X once for each entry, in the order of the contract. Names
// of sizes (channels, heads, hidden = channels * mlp_ratio, tokens, queries, keys) and of options are variables where a
// list is expanded.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace acdbit {{

constexpr int64_t kContractVersion = {version};
constexpr char kAttentionName[] = "{attention}";
constexpr char kBlockName[] = "{block}";
constexpr int kWordBits = {word_bits};
// All memory that kernels are given starts at a multiple of so many bytes: a cache line, and the widest vector.
constexpr size_t kAlignment = {alignment};
// Up to here a distance between a query and a key, popcount(query xor key), fits a byte and leaves 31 of its values
// free, by which kernels mark keys that are not there.
constexpr int kMaxHeadDim = {max_head_dim};

// How the probabilities become 0 and 1.
enum class Rule {{ {rules} }};
constexpr int kRules = {num_rules};

// What a block has beside its products: gains of their branches, and one that mixes neighbouring tokens.
enum class Branches {{ {branches} }};
constexpr int kBranches = {num_branches};

}}  // namespace acdbit

// clang-format off: it would take products for pointers.

// Inputs of AcdBinaryAttention, these lists one behind the other.
//
// X(name, rows), packed rows of `channels` bits.
{attention_bits}

// X(name, length, whether it is there), float constants.
{attention_constants}

// X(name, length, whether it is there), floats, token-major.
{attention_statistics}

// Sections of the inputs of AcdBinaryBlock.
//
// X(name, length, whether it is there), of `vectors`.
{block_vectors}

// X(name, outputs, inputs), of `kernels`: a row of bits for each output.
{block_kernels}

// X(name, rows, bits of a row), of the second output, `taps`.
{block_taps}

// clang-format on
"""


def text():
    """The header, formatted as clang-format would."""
    bits = [(part.name, part.shape[0]) for part in contract.ATTENTION_BITS]
    taps = [(name.replace(".", "_"), *sizes) for name, *sizes in map(_bits, contract.BLOCK_TAPS)]
    return _TEXT.format(
        version=contract.VERSION,
        attention=contract.ATTENTION,
        block=contract.BLOCK,
        word_bits=contract.WORD_BITS,
        alignment=contract.ALIGNMENT,
        max_head_dim=contract.MAX_HEAD_DIM,
        rules=_values(contract.Rule),
        num_rules=len(contract.Rule),
        branches=_values(contract.Branches),
        num_branches=len(contract.Branches),
        attention_bits=_list("ACDBIT_ATTENTION_BITS", bits),
        attention_constants=_list("ACDBIT_ATTENTION_CONSTANTS", map(_floats, contract.ATTENTION_CONSTANTS)),
        attention_statistics=_list("ACDBIT_ATTENTION_STATISTICS", map(_floats, contract.ATTENTION_STATISTICS)),
        block_vectors=_list("ACDBIT_BLOCK_VECTORS", map(_floats, contract.BLOCK_VECTORS)),
        block_kernels=_list("ACDBIT_BLOCK_KERNELS", map(_bits, contract.BLOCK_KERNELS)),
        block_taps=_list("ACDBIT_BLOCK_TAPS", taps),
    )


def _values(kind):
    return ", ".join(f"{_camel(value.name)} = {int(value)}" for value in kind)


def _floats(part):
    return part.name, " * ".join(map(str, part.shape)), _given(part)


def _given(part):
    """When a part is there, in C++; all options but the kind of the branches are bools."""
    if part.option is None:
        return "true"
    if part.option == "branches":
        sign, value = ("!=", contract.Branches.NONE) if part.value is None else ("==", part.value)
        return f"options.branches {sign} Branches::{_camel(value.name)}"
    return f"options.{part.option}"


def _bits(part):
    return part.name, " * ".join(part.shape[:-1]), part.shape[-1]


def _list(name, entries):
    lines = [f"#define {name}(X)", *(f"  X({', '.join(entry)})" for entry in entries)]
    width = max(map(len, lines[:-1]))
    return "\n".join([*(f"{line:{width}} \\" for line in lines[:-1]), lines[-1]])


def _camel(name):
    return "k" + "".join(word.capitalize() for word in name.split("_"))


def main():
    files.write_beside(PATH, lambda temporary: temporary.write_text(text()))


if __name__ == "__main__":
    main()
