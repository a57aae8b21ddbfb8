// What attention_keys leaves in the workspace for attention_rows: per head the packed bits, the table of exponentials
// and the float vectors over the keys. The layout of the bits belongs to the instruction set (attention_*.inl).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "attention.h"

namespace acdbit {

// Up to this width of a head a distance, popcount(query xor key), fits a byte and leaves 255 free for absent keys.
constexpr int kNarrowHead = 224;

constexpr int kTablePlane = 256;
constexpr int kTableStep = 16;

// Weights of the softmax by distance beyond the row's nearest key: values[k] = round(2^31 exp(-2 score_scale k)),
// which never grows with k.
struct AttentionTable {
  uint8_t planes[4][kTablePlane];  // byte b of values[k]; zero beyond head_dim; narrow heads only
  int32_t last;                    // the largest k whose value is not 0
  int32_t ratio_steps;             // how many k pass Rule::kMaxRatio
  uint32_t* values;                // [head_dim + 1], and zeros up to a multiple of kTableStep
};

struct AttentionHead {
  uint8_t* keys;
  uint8_t* values;
  AttentionTable* table;
  // Over the keys, of which a multiple of 16 may be read. Only those that the plan asks for are written.
  float* key_scale;
  float* key_offset;
  float* key_sum;   // key_scale * (sum of the key's signs)
  float* key_bias;  // beta
};

AttentionHead attention_head(const AttentionPlan& plan, int head);

// Whether the scores depend on the distance alone, so that integers suffice.
bool attention_is_integer(const AttentionPlan& plan);

// Fills table.
void attention_table(const AttentionPlan& plan, int head, AttentionTable* table);

}  // namespace acdbit
