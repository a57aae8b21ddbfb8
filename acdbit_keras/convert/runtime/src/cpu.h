// Which kernels this CPU can run.
#pragma once

#include <stddef.h>

#include "kernels.h"

namespace acdbit {

// The kernels that this CPU and its operating system support, best first.
struct SupportedKernels {
  const Kernels* kernels[3];
  int count;

  const Kernels* const* begin() const { return kernels; }
  const Kernels* const* end() const { return kernels + count; }
};
SupportedKernels supported_kernels();

// The kernels named `wanted` (the value of the environment variable ACDBIT_KERNELS; null or empty: the best). If they
// are unknown or unsupported, null, and `message` (of `size` bytes) becomes a sentence that says so, else "".
const Kernels* select_kernels(const char* wanted, char* message, size_t size);

}  // namespace acdbit
