// Sixteen floats: the unit in which every float pass works, on every CPU.
//
// Included by one translation unit per instruction set, each with its own ACDBIT_ISA namespace, so that nothing
// compiled for one CPU is merged into code for another. Without contraction (-ffp-contract=off) every operation rounds
// alike, one that is to be fused says so, and a sum over channels runs over 16 lanes and then in one fixed tree: the
// same bits on every CPU.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(ACDBIT_AVX512) || defined(ACDBIT_AVX2)
#include <immintrin.h>
#elif defined(ACDBIT_NEON)
#include <arm_neon.h>
#endif

namespace acdbit {
namespace ACDBIT_ISA {

#if defined(ACDBIT_AVX512)

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
// a * b + c, rounded once.
static inline F16 multiply_add(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F16 absolute(F16 a) { return {_mm512_abs_ps(a.v)}; }
// a < b ? b : a, so NaN in a stays, on every CPU. (The instruction returns its second operand when in doubt.)
static inline F16 larger(F16 a, F16 b) { return {_mm512_max_ps(b.v, a.v)}; }
// z > 0 ? z : slope * z
static inline F16 prelu(F16 z, F16 slope) {
  return {_mm512_mask_mul_ps(z.v, _mm512_cmp_ps_mask(z.v, _mm512_setzero_ps(), _CMP_NGT_UQ), slope.v, z.v)};
}
// Bit i = a[i] < b[i].
static inline uint32_t less(F16 a, F16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
static inline uint32_t less32(F16 a, F16 b, F16 c, F16 d) { return less(a, b) | less(c, d) << 16; }
// a * 2^n, of normal numbers, for a `shifted` of 1.5 * 2^23 + n: its lowest bits are those of n.
static inline F16 scale2(F16 a, F16 shifted) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), n))};
}

#elif defined(ACDBIT_AVX2)

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

#elif defined(ACDBIT_NEON)

// Four members and not an array, which GCC would move through memory.
struct F16 {
  float32x4_t v0, v1, v2, v3;
};
#define ACDBIT_INLINE static inline __attribute__((always_inline))
ACDBIT_INLINE F16 load(const float* p) {
  const float32x4x4_t all = vld1q_f32_x4(p);
  return {all.val[0], all.val[1], all.val[2], all.val[3]};
}
ACDBIT_INLINE void store(float* p, F16 a) {
  vst1q_f32(p, a.v0);
  vst1q_f32(p + 4, a.v1);
  vst1q_f32(p + 8, a.v2);
  vst1q_f32(p + 12, a.v3);
}
ACDBIT_INLINE F16 splat(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
ACDBIT_INLINE F16 convert(const int32_t* p) {
  const int32x4x4_t all = vld1q_s32_x4(p);
  return {vcvtq_f32_s32(all.val[0]), vcvtq_f32_s32(all.val[1]), vcvtq_f32_s32(all.val[2]), vcvtq_f32_s32(all.val[3])};
}
#define ACDBIT_UNARY(name, function) \
  ACDBIT_INLINE F16 name(F16 a) { return {function(a.v0), function(a.v1), function(a.v2), function(a.v3)}; }
#define ACDBIT_BINARY(name, function)                                                                \
  ACDBIT_INLINE F16 name(F16 a, F16 b) {                                                             \
    return {function(a.v0, b.v0), function(a.v1, b.v1), function(a.v2, b.v2), function(a.v3, b.v3)}; \
  }
ACDBIT_INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), b, a); }
ACDBIT_INLINE float32x4_t prelu(float32x4_t z, float32x4_t slope) {
  return vbslq_f32(vcgtzq_f32(z), z, vmulq_f32(slope, z));
}
ACDBIT_INLINE float32x4_t scale2(float32x4_t a, float32x4_t shifted) {
  const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), n));
}
ACDBIT_BINARY(operator+, vaddq_f32)
ACDBIT_BINARY(operator-, vsubq_f32)
ACDBIT_BINARY(operator*, vmulq_f32)
ACDBIT_BINARY(larger, larger)
ACDBIT_BINARY(prelu, prelu)
ACDBIT_BINARY(scale2, scale2)
ACDBIT_UNARY(absolute, vabsq_f32)
ACDBIT_INLINE F16 multiply_add(F16 a, F16 b, F16 c) {
  return {vfmaq_f32(c.v0, a.v0, b.v0), vfmaq_f32(c.v1, a.v1, b.v1), vfmaq_f32(c.v2, a.v2, b.v2),
          vfmaq_f32(c.v3, a.v3, b.v3)};
}
#undef ACDBIT_UNARY
#undef ACDBIT_BINARY
// Sixteen comparisons as bytes of ones.
ACDBIT_INLINE uint8x16_t less_bytes(F16 a, F16 b) {
  const uint16x8_t low =
      vuzp1q_u16(vreinterpretq_u16_u32(vcltq_f32(a.v0, b.v0)), vreinterpretq_u16_u32(vcltq_f32(a.v1, b.v1)));
  const uint16x8_t high =
      vuzp1q_u16(vreinterpretq_u16_u32(vcltq_f32(a.v2, b.v2)), vreinterpretq_u16_u32(vcltq_f32(a.v3, b.v3)));
  return vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
}
// Each byte keeps its own bit, and three pairwise sums gather eight to a byte.
ACDBIT_INLINE uint32_t less32(F16 a, F16 b, F16 c, F16 d) {
  const uint8x16_t own_bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  uint8x16_t sums = vpaddq_u8(vandq_u8(less_bytes(a, b), own_bit), vandq_u8(less_bytes(c, d), own_bit));
  sums = vpaddq_u8(sums, sums);
  sums = vpaddq_u8(sums, sums);
  return vgetq_lane_u32(vreinterpretq_u32_u8(sums), 0);
}
// Four lanes' comparisons next to each other, four bits each, of which lane l keeps bit l.
ACDBIT_INLINE uint32_t less(F16 a, F16 b) {
  const uint32x4_t own_bits = {0x1111, 0x2222, 0x4444, 0x8888};
  uint32x4_t bits = vsliq_n_u32(vcltq_f32(a.v2, b.v2), vcltq_f32(a.v3, b.v3), 4);
  bits = vsliq_n_u32(vcltq_f32(a.v1, b.v1), bits, 4);
  bits = vsliq_n_u32(vcltq_f32(a.v0, b.v0), bits, 4);
  return vaddvq_u32(vandq_u32(bits, own_bits));
}
#undef ACDBIT_INLINE

#else  // portable

struct F16 {
  float v[16];
};
#define ACDBIT_EACH(expression)                     \
  F16 r;                                            \
  for (int i = 0; i < 16; i++) r.v[i] = expression; \
  return r
static inline F16 load(const float* p) { ACDBIT_EACH(p[i]); }
static inline void store(float* p, F16 a) { memcpy(p, a.v, sizeof a.v); }
static inline F16 splat(float x) { ACDBIT_EACH(x); }
static inline F16 convert(const int32_t* p) { ACDBIT_EACH(float(p[i])); }
static inline F16 operator+(F16 a, F16 b) { ACDBIT_EACH(a.v[i] + b.v[i]); }
static inline F16 operator-(F16 a, F16 b) { ACDBIT_EACH(a.v[i] - b.v[i]); }
static inline F16 operator*(F16 a, F16 b) { ACDBIT_EACH(a.v[i] * b.v[i]); }
// Without the instruction: the product is exact in double precision, and the sum, rounded to that, rounds to the same
// float as the exact one unless it lies half way between two floats. Then what was lost decides. (fmaf of libm would
// change the rounding mode for every number.) Results below the normal floats may be one unit off.
static inline double settle_half_way(double total, double product, double addend) {
  const double part = total - addend;
  const double lost = (product - part) + (addend - (total - part));
  if (lost == 0.0 || lost != lost) return total;
  uint64_t bits;
  memcpy(&bits, &total, sizeof bits);
  bits += (lost > 0.0) == (total > 0.0) ? 1 : -1;
  memcpy(&total, &bits, sizeof bits);
  return total;
}
static inline F16 multiply_add(F16 a, F16 b, F16 c) {
  double totals[16];
  uint32_t low[16], half_way = 0;
  for (int i = 0; i < 16; i++) totals[i] = double(a.v[i]) * double(b.v[i]) + double(c.v[i]);
  for (int i = 0; i < 16; i++) memcpy(low + i, totals + i, sizeof *low);
  for (int i = 0; i < 16; i++) half_way |= (low[i] & 0x1fffffffu) == 0x10000000u;
  for (int i = 0; half_way && i < 16; i++) {
    if ((low[i] & 0x1fffffffu) == 0x10000000u)
      totals[i] = settle_half_way(totals[i], double(a.v[i]) * double(b.v[i]), double(c.v[i]));
  }
  F16 r;
  for (int i = 0; i < 16; i++) r.v[i] = float(totals[i]);
  return r;
}
static inline F16 absolute(F16 a) { ACDBIT_EACH(__builtin_fabsf(a.v[i])); }
static inline F16 larger(F16 a, F16 b) { ACDBIT_EACH(a.v[i] < b.v[i] ? b.v[i] : a.v[i]); }
static inline F16 prelu(F16 z, F16 slope) { ACDBIT_EACH(z.v[i] > 0.0f ? z.v[i] : slope.v[i] * z.v[i]); }
static inline uint32_t less(F16 a, F16 b) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; i++) bits |= uint32_t(a.v[i] < b.v[i]) << i;
  return bits;
}
static inline uint32_t less32(F16 a, F16 b, F16 c, F16 d) { return less(a, b) | less(c, d) << 16; }
static inline F16 scale2(F16 a, F16 shifted) {
  uint32_t bits[16], n[16];
  memcpy(bits, &a, sizeof bits);
  memcpy(n, &shifted, sizeof n);
  for (int i = 0; i < 16; i++) bits[i] += n[i] << 23;
  memcpy(&a, bits, sizeof bits);
  return a;
}
#undef ACDBIT_EACH

#endif

// Sum of the lanes, in one fixed tree, and the largest lane (none is NaN).
#if defined(ACDBIT_AVX512) || defined(ACDBIT_AVX2)
#if defined(ACDBIT_AVX512)
static inline __m256 low_half(F16 a) { return _mm512_castps512_ps256(a.v); }
static inline __m256 high_half(F16 a) { return _mm512_extractf32x8_ps(a.v, 1); }
#else
static inline __m256 low_half(F16 a) { return a.v[0]; }
static inline __m256 high_half(F16 a) { return a.v[1]; }
#endif
static inline float sum(F16 a) {
  const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float largest(F16 a) {
  const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#elif defined(ACDBIT_NEON)
static inline float sum(F16 a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v0, a.v2), vaddq_f32(a.v1, a.v3));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vpadds_f32(two);
}
static inline float largest(F16 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v0, a.v1), vmaxq_f32(a.v2, a.v3))); }
#else
static inline float sum(F16 a) {
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] = lanes[i] + lanes[i + width];
  return lanes[0];
}
static inline float largest(F16 a) {
  float lanes[16];
  store(lanes, a);
  float result = lanes[0];
  for (int i = 1; i < 16; i++) result = result < lanes[i] ? lanes[i] : result;
  return result;
}
#endif

}  // namespace ACDBIT_ISA
}  // namespace acdbit
