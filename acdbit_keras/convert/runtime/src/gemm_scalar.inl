// Binary products of one output with many rows, word by word: the weights stay in registers, and where they lie in
// flash they are read once. Counts are gathered in nibbles over three words, then in bytes.
#if defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#endif

namespace acdbit {
namespace ACDBIT_ISA {

// The masks as values that a compiler cannot see through: as immediates a shift and a mask would be two instructions.
struct Masks {
  uint32_t pairs = 0x55555555u, nibbles = 0x33333333u, bytes = 0x0f0f0f0fu;
  Masks() { __asm__("" : "+r"(pairs), "+r"(nibbles), "+r"(bytes)); }
};

static inline uint32_t nibble_counts(uint32_t x, const Masks& masks) {
  x -= x >> 1 & masks.pairs;
  return (x & masks.nibbles) + (x >> 2 & masks.nibbles);
}

static inline uint32_t sum_of_bytes(uint32_t bytes) {
#if defined(__ARM_FEATURE_SIMD32)
  return __usad8(bytes, 0);
#else
  return bytes * 0x01010101u >> 24;
#endif
}

// counts[r] (+)= popcount(rows[r] ^ weights) of kWords words, 1 to 3; kStride: rows are so far apart, 0: `stride` is.
template <int kWords, bool kAdd, int kStride>
static inline void count_words(const uint32_t* rows, ptrdiff_t stride, int num_rows, const uint32_t* weights,
                               int32_t* counts) {
  const Masks masks;
  uint32_t w[kWords];
  for (int i = 0; i < kWords; i++) w[i] = weights[i];
  for (const int32_t* const end = counts + num_rows; counts != end; counts++) {
    uint32_t nibbles = nibble_counts(rows[0] ^ w[0], masks);
    for (int i = 1; i < kWords; i++) nibbles += nibble_counts(rows[i] ^ w[i], masks);
    rows += kStride ? kStride : stride;
    // Nibbles of three words hold up to 12, so they are parted before they are added.
    const int32_t count = int32_t(sum_of_bytes((nibbles & masks.bytes) + (nibbles >> 4 & masks.bytes)));
    *counts = kAdd ? *counts + count : count;
  }
}

// counts[r] = popcount(rows[r] ^ weights); rows are `words` long and as far apart.
static void count_output(const uint32_t* rows, int words, int num_rows, const uint32_t* weights, int32_t* counts) {
  if (words == 1) return count_words<1, false, 1>(rows, 1, num_rows, weights, counts);
  if (words == 2) return count_words<2, false, 2>(rows, 2, num_rows, weights, counts);
  if (words == 3) return count_words<3, false, 3>(rows, 3, num_rows, weights, counts);
  count_words<3, false, 0>(rows, words, num_rows, weights, counts);
  int w = 3;
  for (; w + 3 <= words; w += 3) count_words<3, true, 0>(rows + w, words, num_rows, weights + w, counts);
  if (words - w == 2) count_words<2, true, 0>(rows + w, words, num_rows, weights + w, counts);
  if (words - w == 1) count_words<1, true, 0>(rows + w, words, num_rows, weights + w, counts);
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
