// Binary GEMM of AVX2: eight outputs in the lanes of a register, popcounts by table look-up of nibbles.

namespace acdbit {
namespace ACDBIT_ISA {
constexpr int kGemmRows = 8;
}  // namespace ACDBIT_ISA
}  // namespace acdbit

#include "carry_save.inl"

namespace acdbit {
namespace ACDBIT_ISA {

static inline __m256i load_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
static inline __m256i splat_word(uint32_t x) { return _mm256_set1_epi32(int32_t(x)); }

static inline __m256i add_byte_popcounts(__m256i sums, __m256i bits) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, nibble));
  const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble));
  return _mm256_add_epi8(sums, _mm256_add_epi8(low, high));
}

template <int kRows>
static void count_group(const uint32_t* rows, const uint32_t* weights, int pairs, int32_t* counts, ptrdiff_t stride,
                        bool accumulate) {
  __m256i sums[kRows];
  for (int r = 0; r < kRows; r++) sums[r] = _mm256_setzero_si256();
  for (int k = 0; k < pairs; k++, rows += 3, weights += 3 * kGemmGroup) {
    const __m256i w0 = load_words(weights);
    const __m256i w1 = load_words(weights + kGemmGroup);
    const __m256i w2 = load_words(weights + 2 * kGemmGroup);
    for (int r = 0; r < kRows; r++) {
      const uint32_t* x = rows + r * kChunkTerms;
      const __m256i s = _mm256_xor_si256(w0, splat_word(x[0]));
      const __m256i d0 = _mm256_xor_si256(w1, splat_word(x[1]));
      const __m256i d1 = _mm256_xor_si256(w2, splat_word(x[2]));
      sums[r] = add_byte_popcounts(sums[r], _mm256_xor_si256(s, _mm256_and_si256(d0, d1)));
    }
  }
  const __m256i w = load_words(weights);
  for (int r = 0; r < kRows; r++) {
    const __m256i twice = _mm256_add_epi8(sums[r], sums[r]);
    const __m256i bytes = add_byte_popcounts(twice, _mm256_xor_si256(w, splat_word(rows[r * kChunkTerms])));
    const __m256i pairs_of_bytes = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
    __m256i total = _mm256_madd_epi16(pairs_of_bytes, _mm256_set1_epi16(1));
    __m256i* result = reinterpret_cast<__m256i*>(counts + r * stride);
    if (accumulate) total = _mm256_add_epi32(total, _mm256_loadu_si256(result));
    _mm256_storeu_si256(result, total);
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
