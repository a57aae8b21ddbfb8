// What attention_keys leaves in the workspace for attention_rows: per head the packed bits, the table of exponentials
// and the float vectors over the keys. The layout of the bits belongs to the instruction set (attention_*.inl).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "attention.h"

namespace acdbit {

constexpr int kTablePlane = 256;
constexpr int kTableStep = 16;
constexpr int kFactorStep = 8;
// What a byte can say is in the tables, the distance 255 of absent keys too.
static_assert(kMaxHeadDim < 255 && kTablePlane == 256, "distances are bytes");

// Weights of the softmax by distance beyond the row's nearest key: values[k] = round(2^31 exp(-2 score_scale k)),
// which never grows with k.
struct AttentionTable {
  uint8_t planes[4][kTablePlane];            // byte b of values[k]; zero beyond head_dim
  alignas(64) uint32_t values[kTablePlane];  // to head_dim, and zeros up to a multiple of kTableStep
  int32_t last;                              // the largest k whose value is not 0
  int32_t ratio_steps;                       // how many k pass Rule::kMaxRatio
};

// With a frozen key bias a softmax weight is a factor by distance times one by key, exp(-2 score_scale distance) and
// exp(beta - largest beta), neither of them relative to the row. Here are the factors by distance.
struct AttentionFactors {
  // values[k] = coarse[k / kFactorStep] * fine[k % kFactorStep]; all but `fine` is zero beyond head_dim.
  float fine[2 * kFactorStep];          // twice the same
  float coarse[40];                     // eight may be read from any of the first 32 on
  uint8_t planes[4][kTablePlane + 64];  // byte b of values[k]
  float values[kTablePlane];
};

// What is to be known of all keys together.
struct KeyBounds {
  // With statistics per token, the largest magnitudes.
  float scale;
  float offset;
  float sum;
  bool factors_usable;  // with a frozen key bias
};

struct AttentionHead {
  uint8_t* keys;
  uint8_t* values;
  const AttentionTable* table;
  const AttentionFactors* factors;
  // Their places in the workspace, null where the plan brings its own.
  AttentionTable* own_table;
  AttentionFactors* own_factors;
  // Over the keys, of which a multiple of 16 may be read. Only those that the plan asks for are written.
  float* key_scale;
  float* key_offset;
  float* key_sum;     // key_scale * (sum of the key's signs)
  float* key_bias;    // beta
  float* key_factor;  // 0 for absent keys
  KeyBounds* bounds;
};

AttentionHead attention_head(const AttentionPlan& plan, int head);

// Whether the scores depend on the distance alone, so that integers suffice.
bool attention_is_integer(const AttentionPlan& plan);

// Fills table.
void attention_table(const AttentionPlan& plan, int head, AttentionTable* table);

// Whether the scores are those of the distance plus one of the key, and a softmax is taken of them.
bool attention_has_factors(const AttentionPlan& plan);

// Fills factors.
void attention_factors(const AttentionPlan& plan, int head, AttentionFactors* factors);
// Whether they can be used, given the range of beta: unless a product of two could be so small that sums and thresholds
// leave the normal numbers.
bool attention_factors_usable(const AttentionPlan& plan, int head, float lowest_bias, float highest_bias);

}  // namespace acdbit
