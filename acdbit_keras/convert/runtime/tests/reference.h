// Scalar references, written for clarity: every kernel must equal them bit for bit.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace acdbit {
namespace reference {

// counts[r * stride + o] = sum over w of popcount(rows[r * row_stride + w] ^ weights[o * words + w])
void xor_popcount(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* weights,
                  int outputs, int32_t* counts, ptrdiff_t stride);

// Bit c = x[c] < threshold[c], or x[c] < 0 where `threshold` is null; ceil(channels / 32) words.
void quantize(const float* x, const float* threshold, int channels, uint32_t* words);

}  // namespace reference
}  // namespace acdbit
