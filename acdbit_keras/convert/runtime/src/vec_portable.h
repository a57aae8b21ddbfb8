// Sixteen floats, the interface of vec.inl, without intrinsics, for compilers to vectorise.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace acdbit {
namespace ACDBIT_ISA {

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
#if defined(__FP_FAST_FMAF) || defined(__ARM_FEATURE_FMA)
static inline F16 multiply_add(F16 a, F16 b, F16 c) { ACDBIT_EACH(__builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
#else
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
#endif
static inline F16 absolute(F16 a) { ACDBIT_EACH(__builtin_fabsf(a.v[i])); }
static inline F16 smaller(F16 a, F16 b) { ACDBIT_EACH(b.v[i] < a.v[i] ? b.v[i] : a.v[i]); }
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
static inline F16 pair_sums(F16 a, F16 b) {
  F16 r;
  for (int i = 0; i < 8; i++) {
    r.v[i] = a.v[2 * i] + a.v[2 * i + 1];
    r.v[8 + i] = b.v[2 * i] + b.v[2 * i + 1];
  }
  return r;
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
