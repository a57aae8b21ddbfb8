// Scalar reference of the fused block: plain loops in the order of acdbit_keras/device_ops.py.
#pragma once

#include <stdint.h>

#include <vector>

#include "block.h"

namespace acdbit {
namespace reference {

struct BlockResult {
  std::vector<float> output;   // [tokens][channels]
  std::vector<uint32_t> taps;  // as block_taps of acdbit_keras/device_ops.py lists them
};

// How many floats and words a block takes as `vectors` and `kernels`.
size_t block_vectors(const BlockOptions& options, int channels);
size_t block_kernels(const BlockOptions& options, int channels);

BlockResult block(const BlockOptions& options, int channels, int height, int width, const float* vectors,
                  const uint32_t* kernels, const float* x);

}  // namespace reference
}  // namespace acdbit
