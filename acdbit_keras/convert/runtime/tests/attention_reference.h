// Scalar reference of binary attention: the arithmetic of acdbit_keras/device_ops.py, one key at a time.
#pragma once

#include <stdint.h>

#include "attention.h"

namespace acdbit {
namespace reference {

// Like Kernels::attention_rows, from the plan's own bits; writes the plan's probabilities too.
void attention(const AttentionPlan& plan, int first, int num_rows, int32_t* counts, int32_t* kept);

}  // namespace reference
}  // namespace acdbit
