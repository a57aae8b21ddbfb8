// Binary attention from packed queries, keys and values to popcounts of kept values; see acdbit_keras/device_ops.py.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "contract.h"

namespace acdbit {

struct AttentionTable;
struct AttentionFactors;

// What one call of the op works on. Rows of bits are `stride` words apart; a row holds heads * head_dim bits.
struct AttentionPlan {
  int heads;
  int head_dim;  // a multiple of 32, at most kMaxHeadDim
  int queries;
  int keys;
  Rule rule;
  float ratio;  // of Rule::kMaxRatio
  const uint32_t* query;
  const uint32_t* key;
  const uint32_t* value;
  ptrdiff_t query_stride;
  ptrdiff_t key_stride;
  ptrdiff_t value_stride;
  const float* score_scale;        // [heads]
  const float* probability_scale;  // [heads]
  const float* key_weights;        // [heads * head_dim], or null without a key bias
  // Dynamic statistics, [tokens][heads]; all four or none (null). They take the place of a key bias.
  const float* query_scale;
  const float* query_offset;
  const float* key_scale;
  const float* key_offset;
  // The tables of all heads that attention_prepare has made; both null: attention_keys makes its own each time, in the
  // workspace.
  const AttentionTable* tables;
  const AttentionFactors* factors;
  // Where to write the kept probabilities, [heads][queries][ceil(keys / 32)], bit j of a row = key j is kept; or null.
  uint32_t* probabilities;
  // What is looked up by distance, made before, [heads][head_dim + 1]: AttentionFactors::values with a key bias, else
  // AttentionTable::values. Null: attention_keys makes it. Paths that read more of these than their values need null.
  const uint32_t* table;
  // attention_workspace_bytes, aligned to kAlignment; filled by attention_keys, read by attention_rows of every thread.
  void* workspace;
};

// Bytes of the workspace, enough for every instruction set; 0 if the sizes overflow or the heads are too wide.
size_t attention_workspace_bytes(int heads, int head_dim, int keys);

// Softmax weights by distance depend on constants alone: tables for a plan whose sizes, rule, scales and statistics are
// set, in memory of so many bytes, aligned to kAlignment, that must outlive the plan.
size_t attention_tables_bytes(const AttentionPlan& plan);
void attention_prepare(void* memory, AttentionPlan* plan);

}  // namespace acdbit
