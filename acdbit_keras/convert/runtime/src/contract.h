// Generated from acdbit_keras/contract.py by `python -m acdbit_keras.convert.runtime.contract_header`; do not edit.
//
// The contract between the exporter and the runtime as data; in words it is the docstring of
// acdbit_keras/device_ops.py. Lists are macros that expand X once for each entry, in the order of the contract. Names
// of sizes (channels, heads, hidden = channels * mlp_ratio, tokens, queries, keys) and of options are variables where a
// list is expanded.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace acdbit {

constexpr int64_t kContractVersion = 1;
constexpr char kAttentionName[] = "AcdBinaryAttention";
constexpr char kBlockName[] = "AcdBinaryBlock";
constexpr int kWordBits = 32;
// All memory that kernels are given starts at a multiple of so many bytes: a cache line, and the widest vector.
constexpr size_t kAlignment = 64;
// Up to here a distance between a query and a key, popcount(query xor key), fits a byte and leaves 31 of its values
// free, by which kernels mark keys that are not there.
constexpr int kMaxHeadDim = 224;

// How the probabilities become 0 and 1.
enum class Rule { kElastic = 0, kMaxRatio = 1, kZero = 2, kMean = 3 };
constexpr int kRules = 4;

// What a block has beside its products: gains of their branches, and one that mixes neighbouring tokens.
enum class Branches { kNone = 0, kPooling = 1, kDepthwise = 2 };
constexpr int kBranches = 3;

}  // namespace acdbit

// clang-format off: it would take products for pointers.

// Inputs of AcdBinaryAttention, these lists one behind the other.
//
// X(name, rows), packed rows of `channels` bits.
#define ACDBIT_ATTENTION_BITS(X) \
  X(query, queries)              \
  X(key, keys)                   \
  X(value, keys)

// X(name, length, whether it is there), float constants.
#define ACDBIT_ATTENTION_CONSTANTS(X)        \
  X(score_scale, heads, true)                \
  X(key_weights, channels, options.key_bias) \
  X(value_scale, channels, true)             \
  X(value_offset, channels, true)            \
  X(probability_scale, heads, true)

// X(name, length, whether it is there), floats, token-major.
#define ACDBIT_ATTENTION_STATISTICS(X)              \
  X(query_scale, queries * heads, options.dynamic)  \
  X(query_offset, queries * heads, options.dynamic) \
  X(key_scale, keys * heads, options.dynamic)       \
  X(key_offset, keys * heads, options.dynamic)

// Sections of the inputs of AcdBinaryBlock.
//
// X(name, length, whether it is there), of `vectors`.
#define ACDBIT_BLOCK_VECTORS(X)                                             \
  X(gain_1, channels, true)                                                 \
  X(shift_1, channels, true)                                                \
  X(query.threshold, channels, true)                                        \
  X(query.multiplier, channels, true)                                       \
  X(query.bias, channels, true)                                             \
  X(query.slope, channels, true)                                            \
  X(query.row, channels, options.dynamic_activation)                        \
  X(query.restore, channels, options.dynamic_activation)                    \
  X(key.threshold, channels, true)                                          \
  X(key.multiplier, channels, true)                                         \
  X(key.bias, channels, true)                                               \
  X(key.slope, channels, true)                                              \
  X(key.row, channels, options.dynamic_activation)                          \
  X(key.restore, channels, options.dynamic_activation)                      \
  X(value.threshold, channels, true)                                        \
  X(value.multiplier, channels, true)                                       \
  X(value.bias, channels, true)                                             \
  X(value.slope, channels, true)                                            \
  X(value.row, channels, options.dynamic_activation)                        \
  X(value.restore, channels, options.dynamic_activation)                    \
  X(query_threshold, channels, true)                                        \
  X(key_threshold, channels, true)                                          \
  X(value_threshold, channels, true)                                        \
  X(score_scale, heads, true)                                               \
  X(probability_scale, heads, true)                                         \
  X(key_weights, channels, options.key_bias)                                \
  X(query_center, heads, options.dynamic_attention)                         \
  X(key_center, heads, options.dynamic_attention)                           \
  X(context.count_multiplier, channels, true)                               \
  X(context.kept_multiplier, channels, true)                                \
  X(context.bias, channels, true)                                           \
  X(context.slope, channels, true)                                          \
  X(output.threshold, channels, true)                                       \
  X(output.multiplier, channels, true)                                      \
  X(output.bias, channels, true)                                            \
  X(output.slope, channels, true)                                           \
  X(output.row, channels, options.dynamic_activation)                       \
  X(output.restore, channels, options.dynamic_activation)                   \
  X(output.gain, channels, options.branches != Branches::kNone)             \
  X(output.shift, channels, true)                                           \
  X(gain_2, channels, true)                                                 \
  X(shift_2, channels, true)                                                \
  X(mlp_1.threshold, channels, true)                                        \
  X(mlp_1.multiplier, hidden, true)                                         \
  X(mlp_1.bias, hidden, true)                                               \
  X(mlp_1.slope, hidden, true)                                              \
  X(mlp_1.row, hidden, options.dynamic_activation)                          \
  X(mlp_1.restore, hidden, options.dynamic_activation)                      \
  X(mlp_2.threshold, hidden, true)                                          \
  X(mlp_2.multiplier, channels, true)                                       \
  X(mlp_2.bias, channels, true)                                             \
  X(mlp_2.slope, channels, true)                                            \
  X(mlp_2.row, channels, options.dynamic_hidden)                            \
  X(mlp_2.restore, channels, options.dynamic_hidden)                        \
  X(mlp_2.gain, channels, options.branches != Branches::kNone)              \
  X(mlp_2.shift, channels, true)                                            \
  X(pooling.vertical_3, channels, options.branches == Branches::kPooling)   \
  X(pooling.vertical_5, channels, options.branches == Branches::kPooling)   \
  X(pooling.horizontal_3, channels, options.branches == Branches::kPooling) \
  X(pooling.horizontal_5, channels, options.branches == Branches::kPooling) \
  X(depthwise, 9 * channels, options.branches == Branches::kDepthwise)

// X(name, outputs, inputs), of `kernels`: a row of bits for each output.
#define ACDBIT_BLOCK_KERNELS(X) \
  X(query, channels, channels)  \
  X(key, channels, channels)    \
  X(value, channels, channels)  \
  X(output, channels, channels) \
  X(mlp_1, hidden, channels)    \
  X(mlp_2, channels, hidden)

// X(name, rows, bits of a row), of the second output, `taps`.
#define ACDBIT_BLOCK_TAPS(X)               \
  X(query_input, tokens, channels)         \
  X(key_input, tokens, channels)           \
  X(value_input, tokens, channels)         \
  X(query, tokens, channels)               \
  X(key, tokens, channels)                 \
  X(value, tokens, channels)               \
  X(probabilities, heads * tokens, tokens) \
  X(output_input, tokens, channels)        \
  X(mlp_1_input, tokens, channels)         \
  X(mlp_2_input, tokens, hidden)

// clang-format on
