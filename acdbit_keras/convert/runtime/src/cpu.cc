#include "cpu.h"

#include <stdio.h>
#include <string.h>

namespace acdbit {

// Each is the table of its kernels_<path>.cc.
#if defined(__x86_64__)
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx2Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif
extern const Kernels kPortableKernels;

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

// Best first. `runs` says whether this CPU can run it; null: every one of the architecture can.
constexpr struct {
  const Kernels* kernels;
  bool (*runs)();
} kPaths[] = {
#if defined(__x86_64__)
    {&kAvx512Kernels, has_avx512},
    {&kAvx2Kernels, has_avx2},
#elif defined(__aarch64__)
    {&kNeonKernels, nullptr},
#endif
    {&kPortableKernels, nullptr},
};
static_assert(sizeof kPaths / sizeof *kPaths <= kMostPaths, "SupportedKernels holds all paths");

}  // namespace

SupportedKernels supported_kernels() {
  SupportedKernels supported = {};
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  for (const auto& path : kPaths)
    if (path.runs == nullptr || path.runs()) supported.kernels[supported.count++] = path.kernels;
  return supported;
}

void supported_names(const char* separator, char* names, size_t size) {
  size_t length = 0;
  if (size > 0) names[0] = '\0';
  for (const Kernels* kernels : supported_kernels()) {
    if (length >= size) return;
    length += snprintf(names + length, size - length, "%s%s", length > 0 ? separator : "", kernels->name);
  }
}

const Kernels* select_kernels(const char* wanted, char* message, size_t size) {
  const SupportedKernels supported = supported_kernels();
  if (size > 0) message[0] = '\0';
  if (!wanted || !*wanted) return supported.kernels[0];
  for (const Kernels* kernels : supported)
    if (strcmp(wanted, kernels->name) == 0) return kernels;
  char names[64];
  supported_names(", ", names, sizeof names);
  snprintf(message, size, "ACDBIT_KERNELS=%.32s is not among the kernels that this CPU can run (%s)", wanted, names);
  return nullptr;
}

}  // namespace acdbit
