// Half precision to single, the same bits everywhere.
#pragma once

#include <stdint.h>
#include <string.h>

namespace acdbit {

#if defined(__ARM_FP) && __ARM_ARCH_PROFILE == 'M'
// Every Cortex-M with floating point has the instruction; compilers use it only where they are told the format of
// halves.
inline float widened(uint16_t half) {
  const uint32_t bits = half;
  float value;
  memcpy(&value, &bits, sizeof value);
  __asm__("vcvtb.f32.f16 %0, %1" : "=t"(value) : "t"(value));
  return value;
}
#else
inline float widened(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu, sign = uint32_t(half & 0x8000u) << 16;
  uint32_t bits;
  float value;
  if (magnitude >= 0x7c00u) {
    bits = 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x400u) {
    bits = (magnitude << 13) + (112u << 23);
  } else {
    value = float(magnitude) * 5.9604644775390625e-8f;  // 2^-24
    memcpy(&bits, &value, sizeof bits);
  }
  bits |= sign;
  memcpy(&value, &bits, sizeof value);
  return value;
}
#endif

}  // namespace acdbit
