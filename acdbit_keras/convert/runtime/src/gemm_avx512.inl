// Binary GEMM of AVX-512 with VPOPCNTDQ: 32 outputs in the lanes of two registers, eight rows at a time.
//
// Packed weights are tiles [word][32 outputs].

namespace acdbit {
namespace ACDBIT_ISA {

static size_t packed_weights_words(int outputs, int words) {
  return (size_t(outputs) + kOutputTile - 1) / kOutputTile * kOutputTile * size_t(words);
}

static void pack_weights(const uint32_t* weights, int outputs, int words, uint32_t* packed) {
  memset(packed, 0, packed_weights_words(outputs, words) * sizeof *packed);
  for (int o = 0; o < outputs; o++) {
    uint32_t* tile = packed + size_t(o / kOutputTile) * kOutputTile * words + o % kOutputTile;
    for (int w = 0; w < words; w++) tile[size_t(w) * kOutputTile] = weights[size_t(o) * words + w];
  }
}

// All rows with one tile, in blocks of kRows, what remains in smaller blocks.
template <int kRows>
static void count_tile(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* tile,
                       int32_t* counts, ptrdiff_t stride) {
  for (; num_rows >= kRows; num_rows -= kRows, rows += kRows * row_stride, counts += kRows * stride) {
    __m512i sums[kRows][2];
    for (int r = 0; r < kRows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
    for (int w = 0; w < words; w++) {
      const __m512i left = _mm512_loadu_si512(tile + w * kOutputTile);
      const __m512i right = _mm512_loadu_si512(tile + w * kOutputTile + 16);
      for (int r = 0; r < kRows; r++) {
        const __m512i x = _mm512_set1_epi32(int32_t(rows[r * row_stride + w]));
        sums[r][0] = _mm512_add_epi32(sums[r][0], _mm512_popcnt_epi32(_mm512_xor_si512(left, x)));
        sums[r][1] = _mm512_add_epi32(sums[r][1], _mm512_popcnt_epi32(_mm512_xor_si512(right, x)));
      }
    }
    for (int r = 0; r < kRows; r++) {
      _mm512_storeu_si512(counts + r * stride, sums[r][0]);
      _mm512_storeu_si512(counts + r * stride + 16, sums[r][1]);
    }
  }
  if constexpr (kRows > 1) count_tile<kRows / 2>(rows, row_stride, num_rows, words, tile, counts, stride);
}

static void xor_popcount(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* packed,
                         int first, int outputs, int32_t* counts, ptrdiff_t stride) {
  const uint32_t* tile = packed + size_t(first) * words;
  for (int o = 0; o < outputs; o += kOutputTile, tile += size_t(kOutputTile) * words)
    count_tile<8>(rows, row_stride, num_rows, words, tile, counts + o, stride);
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
