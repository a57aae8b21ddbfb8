// Sixteen floats, the interface of vec.inl, in one register of AVX-512.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "vec_x86.h"

#define ACDBIT_HAS_SIXTEEN_SUMS

namespace acdbit {
namespace ACDBIT_ISA {

struct F16 {
  __m512 v;
};
static inline F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
static inline F16 splat(float x) { return {_mm512_set1_ps(x)}; }
static inline F16 convert(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
static inline F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F16 multiply_add(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F16 absolute(F16 a) { return {_mm512_abs_ps(a.v)}; }
// The instruction returns its second operand when in doubt.
static inline F16 smaller(F16 a, F16 b) { return {_mm512_min_ps(b.v, a.v)}; }
static inline F16 larger(F16 a, F16 b) { return {_mm512_max_ps(b.v, a.v)}; }
static inline F16 prelu(F16 z, F16 slope) {
  return {_mm512_mask_mul_ps(z.v, _mm512_cmp_ps_mask(z.v, _mm512_setzero_ps(), _CMP_NGT_UQ), slope.v, z.v)};
}
static inline uint32_t less(F16 a, F16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
static inline uint32_t less32(F16 a, F16 b, F16 c, F16 d) { return less(a, b) | less(c, d) << 16; }
static inline F16 scale2(F16 a, F16 shifted) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), n))};
}
static inline float sum(F16 a) { return sum_halves(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)); }
static inline float largest(F16 a) {
  return largest_of_halves(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}
static inline F16 pair_sums(F16 a, F16 b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_add_ps(_mm512_permutex2var_ps(a.v, even, b.v), _mm512_permutex2var_ps(a.v, odd, b.v))};
}
// Folds two rows into one vector at every level of the tree.
static inline __m512 fold_halves(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
static inline __m512 fold_quarters(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
static inline F16 sixteen_sums(const float* rows, ptrdiff_t stride) {
  __m512 fours[4];  // of rows i, i + 4, i + 8, i + 12: four lanes each
  for (int i = 0; i < 4; i++, rows += stride)
    fours[i] = fold_quarters(fold_halves(load(rows).v, load(rows + 4 * stride).v),
                             fold_halves(load(rows + 8 * stride).v, load(rows + 12 * stride).v));
  __m512 twos[2];  // of rows 2 i and 2 i + 1 of each four
  for (int i = 0; i < 2; i++)
    twos[i] = _mm512_add_ps(_mm512_shuffle_ps(fours[2 * i], fours[2 * i + 1], 0x44),
                            _mm512_shuffle_ps(fours[2 * i], fours[2 * i + 1], 0xee));
  return {_mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88), _mm512_shuffle_ps(twos[0], twos[1], 0xdd))};
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
