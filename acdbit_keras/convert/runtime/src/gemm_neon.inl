// Binary GEMM of NEON: 128-bit xor, popcounts of bytes, and sums of bytes until four outputs share a register.
//
// A chunk is up to three registers (384 bits) of each row. A block of four rows keeps its chunk in registers while the
// weights stream by, four outputs at a time. An output's bytes then hold at most 24, so two pairwise sums put four
// outputs, four bytes each, into one register without overflow, and two widening sums make them 32-bit counts: 9.25
// SIMD instructions per output at 384 bits. One or two words that are left over make half a register: the row's stand
// in both halves, and each register of weights has those of two outputs.

namespace acdbit {
namespace ACDBIT_ISA {

constexpr int kGemmGroup = 4;     // outputs that end in one register
constexpr int kChunkVectors = 3;  // more would not leave registers enough, and at 8 the bytes would overflow
constexpr int kVectorWords = 4;

static int row_vectors(int words) { return (words + 1) / kVectorWords; }
static bool row_has_half(int words) { return (words - 1) % kVectorWords < 2 && words > 0; }

static size_t group_words(int words) {
  const size_t vectors = size_t(row_vectors(words)) * kGemmGroup + (row_has_half(words) ? kGemmGroup / 2 : 0);
  return vectors * kVectorWords;
}

static size_t packed_weights_words(int outputs, int words) {
  return (size_t(outputs) + kOutputTile - 1) / kOutputTile * (kOutputTile / kGemmGroup) * group_words(words);
}

// [group of outputs][vector][output of the group][word of the vector], the half one [output of the group][2]; words
// beyond the last are 0, as in load_words.
static void pack_weights(const uint32_t* weights, int outputs, int words, uint32_t* packed) {
  memset(packed, 0, packed_weights_words(outputs, words) * sizeof *packed);
  for (int o = 0; o < outputs; o++) {
    uint32_t* group = packed + o / kGemmGroup * group_words(words);
    for (int w = 0; w < words; w++) {
      const int vector = w / kVectorWords, width = vector < row_vectors(words) ? kVectorWords : kVectorWords / 2;
      group[vector * kGemmGroup * kVectorWords + o % kGemmGroup * width + w % kVectorWords] =
          weights[size_t(o) * words + w];
    }
  }
}

// Four words of a row, of which only `words` may be read; the others are 0.
static inline uint8x16_t load_words(const uint32_t* row, int words) {
  if (words >= kVectorWords) return vreinterpretq_u8_u32(vld1q_u32(row));
  uint32_t last[kVectorWords] = {};
  for (int w = 0; w < words; w++) last[w] = row[w];
  return vreinterpretq_u8_u32(vld1q_u32(last));
}

// One chunk of kRows rows with `groups` groups of outputs, whose weights are `step` words apart.
template <int kRows, int kVectors, bool kHalf, bool kAccumulate>
static void count_chunk(const uint32_t* rows, ptrdiff_t row_stride, int words, const uint32_t* weights, size_t step,
                        int groups, int32_t* counts, ptrdiff_t stride) {
  uint8x16_t x[kRows][kVectors + kHalf];
  for (int r = 0; r < kRows; r++) {
    for (int v = 0; v < kVectors + kHalf; v++)
      x[r][v] = load_words(rows + r * row_stride + v * kVectorWords, words - v * kVectorWords);
    if constexpr (kHalf)
      x[r][kVectors] = vreinterpretq_u8_u64(vdupq_laneq_u64(vreinterpretq_u64_u8(x[r][kVectors]), 0));
  }
  for (int g = 0; g < groups; g++, weights += step, counts += kGemmGroup) {
    constexpr int kRegisters = kVectors * kGemmGroup + (kHalf ? kGemmGroup / 2 : 0);
    uint8x16_t w[kRegisters];
    for (int i = 0; i < kRegisters; i++) w[i] = vreinterpretq_u8_u32(vld1q_u32(weights + i * kVectorWords));
    for (int r = 0; r < kRows; r++) {
      uint8x16_t group;
      if constexpr (kVectors > 0) {
        uint8x16_t sums[kGemmGroup];
        for (int o = 0; o < kGemmGroup; o++) {
          sums[o] = vcntq_u8(veorq_u8(x[r][0], w[o]));
          for (int v = 1; v < kVectors; v++)
            sums[o] = vaddq_u8(sums[o], vcntq_u8(veorq_u8(x[r][v], w[v * kGemmGroup + o])));
        }
        group = vpaddq_u8(vpaddq_u8(sums[0], sums[1]), vpaddq_u8(sums[2], sums[3]));
      }
      if constexpr (kHalf) {
        const uint8x16_t low = vcntq_u8(veorq_u8(x[r][kVectors], w[kVectors * kGemmGroup]));
        const uint8x16_t high = vcntq_u8(veorq_u8(x[r][kVectors], w[kVectors * kGemmGroup + 1]));
        const uint8x16_t halves = vpaddq_u8(low, high);
        if constexpr (kVectors > 0) {
          group = vaddq_u8(group, halves);
        } else {
          group = halves;
        }
      }
      const uint16x8_t pairs = vpaddlq_u8(group);
      int32_t* result = counts + r * stride;
      const uint32x4_t total =
          kAccumulate ? vpadalq_u16(vreinterpretq_u32_s32(vld1q_s32(result)), pairs) : vpaddlq_u16(pairs);
      vst1q_s32(result, vreinterpretq_s32_u32(total));
    }
  }
}

using CountChunk = void (*)(const uint32_t* rows, ptrdiff_t row_stride, int words, const uint32_t* weights, size_t step,
                            int groups, int32_t* counts, ptrdiff_t stride);

// For a row's next words, of which there is at least one.
template <int kRows, bool kAccumulate>
static CountChunk choose_chunk(int words) {
  switch ((words + 1) / 2) {
    case 1: return count_chunk<kRows, 0, true, kAccumulate>;
    case 2: return count_chunk<kRows, 1, false, kAccumulate>;
    case 3: return count_chunk<kRows, 1, true, kAccumulate>;
    case 4: return count_chunk<kRows, 2, false, kAccumulate>;
    case 5: return count_chunk<kRows, 2, true, kAccumulate>;
    default: return count_chunk<kRows, kChunkVectors, false, kAccumulate>;
  }
}

// All chunks of kRows rows.
template <int kRows>
static void count_rows(const uint32_t* rows, ptrdiff_t row_stride, int words, const uint32_t* weights, size_t step,
                       int groups, int32_t* counts, ptrdiff_t stride) {
  constexpr int kChunkWords = kChunkVectors * kVectorWords;
  choose_chunk<kRows, false>(words)(rows, row_stride, words, weights, step, groups, counts, stride);
  for (words -= kChunkWords; words > 0; words -= kChunkWords) {
    rows += kChunkWords;
    weights += kChunkWords * kGemmGroup;
    choose_chunk<kRows, true>(words)(rows, row_stride, words, weights, step, groups, counts, stride);
  }
}

static void xor_popcount(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* packed,
                         int first, int outputs, int32_t* counts, ptrdiff_t stride) {
  const int groups = (outputs + kOutputTile - 1) / kOutputTile * (kOutputTile / kGemmGroup);
  if (words == 0) {
    for (int r = 0; r < num_rows; r++) memset(counts + r * stride, 0, groups * kGemmGroup * sizeof *counts);
    return;
  }
  const size_t step = group_words(words);
  const uint32_t* weights = packed + first / kGemmGroup * step;
  for (; num_rows >= 4; num_rows -= 4, rows += 4 * row_stride, counts += 4 * stride)
    count_rows<4>(rows, row_stride, words, weights, step, groups, counts, stride);
  if (num_rows & 2) {
    count_rows<2>(rows, row_stride, words, weights, step, groups, counts, stride);
    rows += 2 * row_stride;
    counts += 2 * stride;
  }
  if (num_rows & 1) count_rows<1>(rows, row_stride, words, weights, step, groups, counts, stride);
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
