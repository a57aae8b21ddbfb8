// Sixteen floats, the interface of vec.inl, in four registers of NEON.
#pragma once

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ACDBIT_HAS_LOAD_NEXT

namespace acdbit {
namespace ACDBIT_ISA {

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
ACDBIT_INLINE float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(b, a), b, a); }
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
ACDBIT_BINARY(smaller, smaller)
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
static inline float sum(F16 a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.v0, a.v2), vaddq_f32(a.v1, a.v3));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vpadds_f32(two);
}
static inline float largest(F16 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v0, a.v1), vmaxq_f32(a.v2, a.v3))); }
// The load moves the pointer itself, unless GCC makes all of them one and adds the distances each time.
static inline F16 load_next(const float** next) {
  const F16 values = load(*next);
  *next += 16;
  asm("" : "+r"(*next));
  return values;
}
static inline void store_pair_averages(float* p, F16 a) {
  const float32x4_t low = vpaddq_f32(a.v0, a.v1), high = vpaddq_f32(a.v2, a.v3);
  vst1q_f32(p, vmulq_n_f32(low, 0.5f));
  vst1q_f32(p + 4, vmulq_n_f32(high, 0.5f));
}
static inline void store_quad_averages(float* p, F16 a) {
  const float32x4_t low = vpaddq_f32(a.v0, a.v1), high = vpaddq_f32(a.v2, a.v3);
  vst1q_f32(p, vmulq_n_f32(vpaddq_f32(low, high), 0.25f));
}
#undef ACDBIT_INLINE

}  // namespace ACDBIT_ISA
}  // namespace acdbit
