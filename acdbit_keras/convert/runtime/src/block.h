// The fused BinaryViT block in stages over rows of tokens; arithmetic and layouts are in acdbit_keras/device_ops.py.
//
//   project  rows -> query, key, value bits, and the sum q + k + v (kept in the output until `finish` replaces it)
//   keys     attention_keys for every head
//   finish   rows -> attention, output product, feed-forward, residuals; leaves w for the mixing
//   mix      rows -> adds the pooling branches or the depthwise mixing, which look at neighbouring rows of the grid
//
// Within a stage any thread may take any rows; between stages all must be done. A row's intermediate values stay in the
// caches: no stage writes a float tensor but the output and w.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "attention.h"
#include "contract.h"

namespace acdbit {

struct Kernels;

// Rows that a stage works on at a time; a thread's share is best a multiple of it.
constexpr int kBlockRows = 32;
// Outputs of a product at a time, so that their counts stay in the first-level cache; of query, key and value each.
constexpr int kBlockChunk = 128;
constexpr int kProjectChunk = 64;

// One binary product: threshold of its input, packed weights, and per output count * multiplier + bias, then PReLU. Its
// vectors, and those of the plan, have the names that the contract gives them.
struct ProductPlan {
  int inputs;
  int outputs;
  const uint32_t* weights;  // packed by Kernels::pack_weights
  const float* threshold;   // [inputs]
  const float* multiplier;  // [outputs], as are all below
  const float* bias;
  const float* slope;
  const float* row;      // dynamic input only, else null
  const float* restore;  // likewise
  const float* gain;     // null: 1
  const float* shift;    // of output and mlp_2, else null
};

// Where a thread keeps the intermediate values of kBlockRows rows: byte offsets into its scratch memory.
struct BlockScratch {
  size_t bits;     // uint32_t [3][rows][channels / 32], inputs of query, key and value; then of output and of mlp_1
  size_t hidden;   // uint32_t [rows][hidden / 32], inputs of mlp_2
  size_t context;  // int32_t [rows][channels], counts of the attention; then float, the averages of f
  size_t kept;     // int32_t [rows][heads]
  size_t counts;   // int32_t, counts of the outputs at hand
  size_t normed;   // float [rows][channels], w where there are no branches
  size_t sums;     // float [rows][4][16], sums over channels in lanes
  size_t means;    // float [4][rows]: mean deviations from the thresholds of up to three products, and the mean
  size_t bytes;
};

// Where the signs go, section by section; all null without taps.
struct BlockTaps {
#define ACDBIT_TAP(name, rows, bits) uint32_t* name;
  ACDBIT_BLOCK_TAPS(ACDBIT_TAP)
#undef ACDBIT_TAP
};

struct BlockPlan {
  int height;
  int width;
  int channels;
  int heads;
  int mlp_ratio;
  const float* gain_1;
  const float* shift_1;
  ProductPlan query, key, value, output, mlp_1, mlp_2;
  const float* query_threshold;
  const float* key_threshold;
  const float* value_threshold;
  const float* score_scale;
  const float* probability_scale;
  const float* key_weights;   // with a key bias only, else null
  const float* query_center;  // dynamic attention only, else null
  const float* key_center;
  struct {
    const float *count_multiplier, *kept_multiplier, *bias, *slope;
  } context;
  const float* gain_2;
  const float* shift_2;
  struct {
    const float *vertical_3, *vertical_5, *horizontal_3, *horizontal_5;
  } pooling;                // null without pooling branches
  const float* depthwise;   // [3][3][channels], with depthwise mixing only, else null
  AttentionPlan attention;  // its bits and statistics are those below
  BlockScratch scratch;
  const Kernels* kernels;
  const float* zeros;  // [channels], what lies beyond the border; null without branches
  // In the workspace.
  uint32_t* query_bits;  // [tokens][channels / 32]
  uint32_t* key_bits;
  uint32_t* value_bits;
  float* query_scale;  // [tokens][heads], dynamic attention only, else null
  float* query_offset;
  float* key_scale;
  float* key_offset;
  float* normed;  // w, [tokens][channels]; null without branches
  // Of one call, see block_bind.
  const float* input;  // [tokens][channels]
  float* output_rows;  // [tokens][channels]
  BlockTaps taps;
};

// The op's options.
struct BlockOptions {
  int heads;
  int mlp_ratio;
  Rule rule;
  float ratio;
  bool key_bias;
  Branches branches;
  bool dynamic_activation;
  bool dynamic_hidden;
  bool dynamic_attention;
};

// Number of floats in `vectors`, and of words in `kernels` and `taps`. False if the options do not fit the channels (a
// multiple of 32 to each head) or a size overflows; all functions below need options and sizes that passed.
bool block_sizes(const BlockOptions& options, int channels, int height, int width, size_t* vectors, size_t* kernels,
                 size_t* taps);

// Bytes of the packed weights and the zeros for these kernels, of the shared workspace (bits, statistics, attention,
// w), and of one thread's scratch memory. All memory handed to the plan is aligned to kAlignment.
size_t block_weights_bytes(const BlockOptions& options, int channels, const Kernels* kernels);
size_t block_workspace_bytes(const BlockOptions& options, int channels, int height, int width);
size_t block_scratch_bytes(const BlockOptions& options, int channels);

// Writes weights and zeros into `weights` and fills the plan's constants. `vectors` and `kernel_words` are the op's
// inputs; `vectors` and `weights` must outlive the plan. Once per model.
void block_prepare(const BlockOptions& options, int channels, const float* vectors, const uint32_t* kernel_words,
                   const Kernels* kernels, void* weights, BlockPlan* plan);
// Points the plan at a workspace for a grid of tokens. Once per shape.
void block_place(const BlockOptions& options, int height, int width, void* workspace, BlockPlan* plan);
// Points the plan at the tensors of one call; `taps` may be null. `output` must not overlap `input`.
void block_bind(const float* input, float* output, uint32_t* taps, BlockPlan* plan);

}  // namespace acdbit
