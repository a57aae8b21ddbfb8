// Binary GEMM with carry-save adders, for CPUs without a popcount of whole vectors. Needs `count_group` of gemm_*.inl.
//
// With d_k = x_k ^ w_k and s = d_0 ^ ... ^ d_(k-1), a full adder takes two more words:
//     popcount(s) + popcount(d_k) + popcount(d_k+1) = popcount(s ^ d_k ^ d_k+1) + 2 popcount(carry)
//     carry = majority(s, d_k, d_k+1) = s ^ ((s ^ d_k) & (s ^ d_k+1))
// so each pair of words costs one popcount, that of the carry, and the last s costs one more. s, s ^ d_k and s ^ d_k+1
// are xors of words of x and w, so their x parts and w parts are prepared separately: the weights' once per model, the
// rows' once per call. Byte sums hold 240 bits at most: words go in chunks of 30. A chunk becomes, for every pair,
// [s, s ^ d_k, s ^ d_k+1], and in the end the last s; an odd last word is paired with zeros.

namespace acdbit {
namespace ACDBIT_ISA {

constexpr int kGemmGroup = 8;  // outputs per call of count_group
constexpr int kChunkWords = 30;
constexpr int kChunkTerms = 3 * kChunkWords / 2 + 1;

// Counts of kRows prepared rows (kChunkTerms apart) with kGemmGroup prepared weights, [term][kGemmGroup], over pairs of
// words; added to `counts` if `accumulate`, else written.
template <int kRows>
static void count_group(const uint32_t* rows, const uint32_t* weights, int pairs, int32_t* counts, ptrdiff_t stride,
                        bool accumulate);

static int chunk_pairs(int words) { return ((words < kChunkWords ? words : kChunkWords) + 1) / 2; }

static size_t prepared_terms(int words) {
  const int last = words % kChunkWords;
  return size_t(words / kChunkWords) * kChunkTerms + (last ? 3 * chunk_pairs(last) + 1 : 0);
}

// One chunk of one row; the terms are written `step` apart.
static void prepare_chunk(const uint32_t* x, int words, uint32_t* terms, int step) {
  uint32_t s = 0;
  for (int k = 0; k < words; k += 2) {
    const uint32_t next = k + 1 < words ? x[k + 1] : 0;
    terms[0] = s;
    terms[step] = s ^ x[k];
    terms[2 * step] = s ^ next;
    terms += 3 * step;
    s ^= x[k] ^ next;
  }
  terms[0] = s;
}

static size_t packed_weights_words(int outputs, int words) {
  return (size_t(outputs) + kOutputTile - 1) / kOutputTile * kOutputTile * prepared_terms(words);
}

static void pack_weights(const uint32_t* weights, int outputs, int words, uint32_t* packed) {
  memset(packed, 0, packed_weights_words(outputs, words) * sizeof *packed);
  for (int o = 0; o < outputs; o++) {
    uint32_t* terms = packed + o / kGemmGroup * kGemmGroup * prepared_terms(words) + o % kGemmGroup;
    for (int w = 0; w < words; w += kChunkWords) {
      const int chunk = words - w < kChunkWords ? words - w : kChunkWords;
      prepare_chunk(weights + size_t(o) * words + w, chunk, terms, kGemmGroup);
      terms += kGemmGroup * kChunkTerms;
    }
  }
}

// All rows in blocks of kRows, what remains in smaller blocks.
template <int kRows>
static void count_rows(const uint32_t* rows, int num_rows, const uint32_t* weights, int pairs, int32_t* counts,
                       ptrdiff_t stride, bool accumulate) {
  for (; num_rows >= kRows; num_rows -= kRows, rows += kRows * kChunkTerms, counts += kRows * stride)
    count_group<kRows>(rows, weights, pairs, counts, stride, accumulate);
  if constexpr (kRows > 1) count_rows<kRows / 2>(rows, num_rows, weights, pairs, counts, stride, accumulate);
}

static void xor_popcount(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* packed,
                         int first, int outputs, int32_t* counts, ptrdiff_t stride) {
  constexpr int kBlock = 16;  // rows prepared together; 3 KiB of stack
  uint32_t prepared[kBlock * kChunkTerms];
  const size_t terms = prepared_terms(words);
  const int width = (outputs + kOutputTile - 1) / kOutputTile * kOutputTile;
  for (int block = 0; block < num_rows; block += kBlock) {
    const int height = num_rows - block < kBlock ? num_rows - block : kBlock;
    for (int w = 0; w < words; w += kChunkWords) {
      const int chunk = words - w < kChunkWords ? words - w : kChunkWords;
      for (int r = 0; r < height; r++)
        prepare_chunk(rows + (block + r) * row_stride + w, chunk, prepared + r * kChunkTerms, 1);
      const uint32_t* weights = packed + first * terms + size_t(w / kChunkWords) * kGemmGroup * kChunkTerms;
      int32_t* results = counts + block * stride;
      for (int o = 0; o < width; o += kGemmGroup, weights += kGemmGroup * terms)
        count_rows<kGemmRows>(prepared, height, weights, chunk_pairs(chunk), results + o, stride, w > 0);
    }
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
