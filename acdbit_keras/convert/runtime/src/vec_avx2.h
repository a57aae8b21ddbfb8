// Sixteen floats, the interface of vec.inl, in two registers of AVX2.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "vec_x86.h"

namespace acdbit {
namespace ACDBIT_ISA {

struct F16 {
  __m256 v[2];
};
static inline F16 load(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
static inline void store(float* p, F16 a) {
  _mm256_storeu_ps(p, a.v[0]);
  _mm256_storeu_ps(p + 8, a.v[1]);
}
static inline F16 splat(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
static inline F16 convert(const int32_t* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {{_mm256_cvtepi32_ps(_mm256_loadu_si256(q)), _mm256_cvtepi32_ps(_mm256_loadu_si256(q + 1))}};
}
static inline F16 operator+(F16 a, F16 b) { return {{_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1])}}; }
static inline F16 operator-(F16 a, F16 b) { return {{_mm256_sub_ps(a.v[0], b.v[0]), _mm256_sub_ps(a.v[1], b.v[1])}}; }
static inline F16 operator*(F16 a, F16 b) { return {{_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])}}; }
static inline F16 multiply_add(F16 a, F16 b, F16 c) {
  return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
}
static inline F16 absolute(F16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {{_mm256_andnot_ps(sign, a.v[0]), _mm256_andnot_ps(sign, a.v[1])}};
}
static inline F16 smaller(F16 a, F16 b) { return {{_mm256_min_ps(b.v[0], a.v[0]), _mm256_min_ps(b.v[1], a.v[1])}}; }
static inline F16 larger(F16 a, F16 b) { return {{_mm256_max_ps(b.v[0], a.v[0]), _mm256_max_ps(b.v[1], a.v[1])}}; }
static inline F16 prelu(F16 z, F16 slope) {
  F16 r;
  for (int i = 0; i < 2; i++) {
    const __m256 positive = _mm256_cmp_ps(z.v[i], _mm256_setzero_ps(), _CMP_GT_OQ);
    r.v[i] = _mm256_blendv_ps(_mm256_mul_ps(slope.v[i], z.v[i]), z.v[i], positive);
  }
  return r;
}
static inline uint32_t less(F16 a, F16 b) {
  const uint32_t low = _mm256_movemask_ps(_mm256_cmp_ps(a.v[0], b.v[0], _CMP_LT_OQ));
  return low | uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.v[1], b.v[1], _CMP_LT_OQ))) << 8;
}
static inline uint32_t less32(F16 a, F16 b, F16 c, F16 d) { return less(a, b) | less(c, d) << 16; }
static inline F16 scale2(F16 a, F16 shifted) {
  for (int i = 0; i < 2; i++) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted.v[i]), 23);
    a.v[i] = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v[i]), n));
  }
  return a;
}
static inline float sum(F16 a) { return sum_halves(a.v[0], a.v[1]); }
static inline float largest(F16 a) { return largest_of_halves(a.v[0], a.v[1]); }
static inline __m256 pair_sums(__m256 a, __m256 b) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_hadd_ps(a, b)), 0xd8));
}
static inline F16 pair_sums(F16 a, F16 b) { return {{pair_sums(a.v[0], a.v[1]), pair_sums(b.v[0], b.v[1])}}; }

}  // namespace ACDBIT_ISA
}  // namespace acdbit
