// Binary GEMM of SIMD128: eight outputs in two vectors, carry-save adders, popcounts of bytes.
namespace acdbit {
namespace ACDBIT_ISA {
constexpr int kGemmRows = 4;
}  // namespace ACDBIT_ISA
}  // namespace acdbit

#include "carry_save.inl"

namespace acdbit {
namespace ACDBIT_ISA {

template <int kRows>
static void count_group(const uint32_t* rows, const uint32_t* weights, int pairs, int32_t* counts, ptrdiff_t stride,
                        bool accumulate) {
  v128_t sums[kRows][2];
  for (int r = 0; r < kRows; r++) sums[r][0] = sums[r][1] = wasm_i32x4_const_splat(0);
  for (int k = 0; k < pairs; k++, rows += 3, weights += 3 * kGemmGroup) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const v128_t w0 = wasm_v128_load(weights + 4 * half), w1 = wasm_v128_load(weights + kGemmGroup + 4 * half);
      const v128_t w2 = wasm_v128_load(weights + 2 * kGemmGroup + 4 * half);
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        const uint32_t* x = rows + r * kChunkTerms;
        const v128_t s = wasm_v128_xor(w0, wasm_v128_load32_splat(x));
        const v128_t d0 = wasm_v128_xor(w1, wasm_v128_load32_splat(x + 1));
        const v128_t d1 = wasm_v128_xor(w2, wasm_v128_load32_splat(x + 2));
        sums[r][half] = wasm_i8x16_add(sums[r][half], wasm_i8x16_popcnt(wasm_v128_xor(s, wasm_v128_and(d0, d1))));
      }
    }
  }
  for (int r = 0; r < kRows; r++) {
    for (int half = 0; half < 2; half++) {
      const v128_t last =
          wasm_v128_xor(wasm_v128_load(weights + 4 * half), wasm_v128_load32_splat(rows + r * kChunkTerms));
      const v128_t bytes = wasm_i8x16_add(wasm_i8x16_add(sums[r][half], sums[r][half]), wasm_i8x16_popcnt(last));
      v128_t total = wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(bytes));
      int32_t* result = counts + r * stride + 4 * half;
      if (accumulate) total = wasm_i32x4_add(total, wasm_v128_load(result));
      wasm_v128_store(result, total);
    }
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
