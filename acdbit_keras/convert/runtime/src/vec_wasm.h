// Sixteen floats, the interface of vec.inl, in four registers of WebAssembly's SIMD128.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <wasm_simd128.h>

namespace acdbit {
namespace ACDBIT_ISA {

struct F16 {
  v128_t v0, v1, v2, v3;
};
#define ACDBIT_INLINE static inline __attribute__((always_inline))
ACDBIT_INLINE F16 load(const float* p) {
  return {wasm_v128_load(p), wasm_v128_load(p + 4), wasm_v128_load(p + 8), wasm_v128_load(p + 12)};
}
ACDBIT_INLINE void store(float* p, F16 a) {
  wasm_v128_store(p, a.v0);
  wasm_v128_store(p + 4, a.v1);
  wasm_v128_store(p + 8, a.v2);
  wasm_v128_store(p + 12, a.v3);
}
ACDBIT_INLINE F16 splat(float x) {
  const v128_t v = wasm_f32x4_splat(x);
  return {v, v, v, v};
}
ACDBIT_INLINE F16 convert(const int32_t* p) {
  return {wasm_f32x4_convert_i32x4(wasm_v128_load(p)), wasm_f32x4_convert_i32x4(wasm_v128_load(p + 4)),
          wasm_f32x4_convert_i32x4(wasm_v128_load(p + 8)), wasm_f32x4_convert_i32x4(wasm_v128_load(p + 12))};
}
#define ACDBIT_BINARY(name, function)                                                                \
  ACDBIT_INLINE F16 name(F16 a, F16 b) {                                                             \
    return {function(a.v0, b.v0), function(a.v1, b.v1), function(a.v2, b.v2), function(a.v3, b.v3)}; \
  }
ACDBIT_INLINE v128_t prelu(v128_t z, v128_t slope) {
  return wasm_v128_bitselect(z, wasm_f32x4_mul(slope, z), wasm_f32x4_gt(z, wasm_f32x4_const_splat(0.0f)));
}
ACDBIT_INLINE v128_t scale2(v128_t a, v128_t shifted) { return wasm_i32x4_add(a, wasm_i32x4_shl(shifted, 23)); }
ACDBIT_BINARY(operator+, wasm_f32x4_add)
ACDBIT_BINARY(operator-, wasm_f32x4_sub)
ACDBIT_BINARY(operator*, wasm_f32x4_mul)
ACDBIT_BINARY(smaller, wasm_f32x4_pmin)  // b < a ? b : a
ACDBIT_BINARY(larger, wasm_f32x4_pmax)   // a < b ? b : a
ACDBIT_BINARY(prelu, prelu)
ACDBIT_BINARY(scale2, scale2)
#undef ACDBIT_BINARY
ACDBIT_INLINE F16 absolute(F16 a) {
  return {wasm_f32x4_abs(a.v0), wasm_f32x4_abs(a.v1), wasm_f32x4_abs(a.v2), wasm_f32x4_abs(a.v3)};
}
ACDBIT_INLINE uint32_t less(F16 a, F16 b) {
  const v128_t low = wasm_i16x8_narrow_i32x4(wasm_f32x4_lt(a.v0, b.v0), wasm_f32x4_lt(a.v1, b.v1));
  const v128_t high = wasm_i16x8_narrow_i32x4(wasm_f32x4_lt(a.v2, b.v2), wasm_f32x4_lt(a.v3, b.v3));
  return wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(low, high));
}
ACDBIT_INLINE uint32_t less32(F16 a, F16 b, F16 c, F16 d) { return less(a, b) | less(c, d) << 16; }
// Without a fused instruction, as in vec_portable.h.
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
static inline F16 multiply_add(F16 x, F16 y, F16 z) {
  float a[16], b[16], c[16];
  store(a, x);
  store(b, y);
  store(c, z);
  double totals[16];
  uint32_t low[16], half_way = 0;
  for (int i = 0; i < 16; i++) totals[i] = double(a[i]) * double(b[i]) + double(c[i]);
  for (int i = 0; i < 16; i++) memcpy(low + i, totals + i, sizeof *low);
  for (int i = 0; i < 16; i++) half_way |= (low[i] & 0x1fffffffu) == 0x10000000u;
  for (int i = 0; half_way && i < 16; i++) {
    if ((low[i] & 0x1fffffffu) == 0x10000000u)
      totals[i] = settle_half_way(totals[i], double(a[i]) * double(b[i]), double(c[i]));
  }
  for (int i = 0; i < 16; i++) a[i] = float(totals[i]);
  return load(a);
}
#undef ACDBIT_INLINE
static inline float sum(F16 a) {
  const v128_t four = wasm_f32x4_add(wasm_f32x4_add(a.v0, a.v2), wasm_f32x4_add(a.v1, a.v3));
  const v128_t two = wasm_f32x4_add(four, wasm_i32x4_shuffle(four, four, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(two, 0) + wasm_f32x4_extract_lane(two, 1);
}
static inline float largest(F16 a) {
  float lanes[16];
  store(lanes, a);
  float result = lanes[0];
  for (int i = 1; i < 16; i++) result = result < lanes[i] ? lanes[i] : result;
  return result;
}
static inline v128_t pair_sums(v128_t a, v128_t b) {
  return wasm_f32x4_add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
}
static inline F16 pair_sums(F16 a, F16 b) {
  return {pair_sums(a.v0, a.v1), pair_sums(a.v2, a.v3), pair_sums(b.v0, b.v1), pair_sums(b.v2, b.v3)};
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
