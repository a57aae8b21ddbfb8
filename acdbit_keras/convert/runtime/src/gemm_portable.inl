// Binary GEMM without intrinsics: four outputs in the lanes of a GNU vector (any CPU's 128-bit registers, or plain
// integers), popcounts by sums of ever wider fields.

namespace acdbit {
namespace ACDBIT_ISA {
constexpr int kGemmRows = 2;
}  // namespace ACDBIT_ISA
}  // namespace acdbit

#include "carry_save.inl"

namespace acdbit {
namespace ACDBIT_ISA {

typedef uint32_t Words4 __attribute__((vector_size(16)));

static inline Words4 load_words(const void* p) {
  Words4 a;
  memcpy(&a, p, sizeof a);
  return a;
}
static inline Words4 byte_popcounts(Words4 bits) {
  bits -= (bits >> 1) & 0x55555555u;
  bits = (bits & 0x33333333u) + ((bits >> 2) & 0x33333333u);
  return (bits + (bits >> 4)) & 0x0f0f0f0fu;
}

template <int kRows>
static void count_group(const uint32_t* rows, const uint32_t* weights, int pairs, int32_t* counts, ptrdiff_t stride,
                        bool accumulate) {
  Words4 sums[kRows][2] = {};
  for (int k = 0; k < pairs; k++, rows += 3, weights += 3 * kGemmGroup) {
    for (int r = 0; r < kRows; r++) {
      const uint32_t* x = rows + r * kChunkTerms;
      for (int half = 0; half < 2; half++) {
        const uint32_t* w = weights + 4 * half;
        const Words4 s = load_words(w) ^ x[0];
        const Words4 d0 = load_words(w + kGemmGroup) ^ x[1];
        const Words4 d1 = load_words(w + 2 * kGemmGroup) ^ x[2];
        sums[r][half] += byte_popcounts(s ^ (d0 & d1));
      }
    }
  }
  for (int r = 0; r < kRows; r++) {
    for (int half = 0; half < 2; half++) {
      const Words4 bytes = 2 * sums[r][half] + byte_popcounts(load_words(weights + 4 * half) ^ rows[r * kChunkTerms]);
      const Words4 pairs_of_bytes = (bytes & 0x00ff00ffu) + ((bytes >> 8) & 0x00ff00ffu);
      Words4 total = (pairs_of_bytes & 0xffffu) + (pairs_of_bytes >> 16);
      int32_t* result = counts + r * stride + 4 * half;
      if (accumulate) total += load_words(result);
      memcpy(result, &total, sizeof total);
    }
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
