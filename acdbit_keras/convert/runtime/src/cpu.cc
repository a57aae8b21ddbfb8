#include "cpu.h"

#include <stdio.h>
#include <string.h>

namespace acdbit {

namespace {

// Each needs all features that its translation unit is compiled for (CMakeLists.txt).
#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bitalg") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

SupportedKernels supported_kernels() {
  SupportedKernels supported = {};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (has_avx512()) supported.kernels[supported.count++] = &kAvx512Kernels;
  if (has_avx2()) supported.kernels[supported.count++] = &kAvx2Kernels;
#elif defined(__aarch64__)
  supported.kernels[supported.count++] = &kNeonKernels;
#endif
  supported.kernels[supported.count++] = &kPortableKernels;
  return supported;
}

const Kernels* select_kernels(const char* wanted, char* message, size_t size) {
  const SupportedKernels supported = supported_kernels();
  const Kernels* best = supported.kernels[0];
  if (size > 0) message[0] = '\0';
  if (!wanted || !*wanted) return best;
  char names[64] = "";
  for (const Kernels* kernels : supported) {
    if (strcmp(wanted, kernels->name) == 0) return kernels;
    if (kernels != best) strcat(names, ", ");
    strcat(names, kernels->name);
  }
  snprintf(message, size, "ACDBIT_KERNELS=%.32s is not among the kernels that this CPU can run (%s)", wanted, names);
  return nullptr;
}

}  // namespace acdbit
