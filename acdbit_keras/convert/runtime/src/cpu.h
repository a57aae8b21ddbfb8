// Which kernels this CPU can run.
#pragma once

#include <stddef.h>

#include "kernels.h"

namespace acdbit {

constexpr int kMostPaths = 8;  // of one architecture; cpu.cc holds it against its table

// The kernels that this CPU and its operating system support, best first.
struct SupportedKernels {
  const Kernels* kernels[kMostPaths];
  int count;

  const Kernels* const* begin() const { return kernels; }
  const Kernels* const* end() const { return kernels + count; }
};
SupportedKernels supported_kernels();

// Their names, with `separator` between them; as much of it as fits `size` bytes.
void supported_names(const char* separator, char* names, size_t size);

// The kernels named `wanted` (the value of the environment variable ACDBIT_KERNELS; null or empty: the best). If they
// are unknown or unsupported, null, and `message` (of `size` bytes) becomes a sentence that says so, else "".
const Kernels* select_kernels(const char* wanted, char* message, size_t size);

}  // namespace acdbit
