// What differs between CPUs: one table of functions per path, chosen once at run time (cpu.h).
//
// A path is a translation unit, kernels_<path>.cc: it names itself and includes its rooms - vec_*.h, gemm_*.inl,
// attention_*.inl and group_*.inl, some of which paths may share - and then table.inl, which has what all paths have.
// No shared code asks for which CPU it is compiled.
//
// Packed bits are those of Larq Compute Engine: 32-bit words along the channels, bit i of word w is channel 32 w + i,
// 1 is negative, bits beyond the last channel are 0. The dot product of two packed rows of `channels` signs is
// channels - 2 * popcount(a xor b).
//
// Every table computes the same bits: products are integers, float passes work on 16 lanes in one fixed order
// (vec.inl).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace acdbit {

struct AttentionPlan;
struct BlockPlan;

// Packed weights come in tiles of this many outputs; their number is rounded up to it.
constexpr int kOutputTile = 32;

struct Kernels {
  const char* name;  // such as "avx2"
  // How many times as long as with AVX-512 most things take, about: for the estimate whether threads are worth waking.
  int slowness;

  // --- Binary GEMM (gemm_*.inl)
  // Words that `pack_weights` writes: the weights in the order in which `xor_popcount` reads them.
  size_t (*packed_weights_words)(int outputs, int words);
  // weights [outputs][words] -> packed. Outputs beyond the last are 0.
  void (*pack_weights)(const uint32_t* weights, int outputs, int words, uint32_t* packed);
  // counts[r * stride + o - first] = sum over w of popcount(rows[r * row_stride + w] ^ weights[o][w])
  // for first <= o < first + outputs; `first` is a multiple of kOutputTile, whole tiles are written, and words >= 1.
  void (*xor_popcount)(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* packed,
                       int first, int outputs, int32_t* counts, ptrdiff_t stride);

  // --- Packing
  // Bit c = x[c] < threshold[c], or x[c] < 0 where `threshold` is null. Writes ceil(channels / 32) words.
  void (*quantize)(const float* x, const float* threshold, int channels, uint32_t* words);
  // y[o] = counts[o] * multiplier[o] + bias[o]
  void (*affine)(const int32_t* counts, const float* multiplier, const float* bias, int outputs, float* y);
  // y[o] = min(max(counts[o] * unit, low), high) * multiplier[o] + bias[o]; counts in units of 1 or 0.5, so exact.
  void (*clamped)(const int32_t* counts, float unit, float low, float high, const float* multiplier, const float* bias,
                  int outputs, float* y);

  // y[h * head_dim + d] = counts[..] * count_multiplier[..] + kept[h] * kept_multiplier[..], of one row of a context;
  // head_dim is a multiple of 32.
  void (*context)(const int32_t* counts, const int32_t* kept, const float* count_multiplier,
                  const float* kept_multiplier, int heads, int head_dim, float* y);

  // --- Binary attention (attention.inl)
  // Keys and values of head `head` into the layout of `attention_rows`. Call once per head, any order, any thread.
  void (*attention_keys)(const AttentionPlan* plan, int head);
  // Query rows [first, first + num_rows): counts [num_rows][heads * head_dim] = popcount(B and V+) and
  // kept [num_rows][heads] = popcount(B).
  void (*attention_rows)(const AttentionPlan* plan, int first, int num_rows, int32_t* counts, int32_t* kept);

  // --- Fused transformer block (block.inl); see block.h for the stages.
  void (*block_project)(const BlockPlan* plan, int first_row, int num_rows, void* scratch);
  void (*block_finish)(const BlockPlan* plan, int first_row, int num_rows, void* scratch);
  void (*block_mix)(const BlockPlan* plan, int first_row, int num_rows);
};

}  // namespace acdbit
