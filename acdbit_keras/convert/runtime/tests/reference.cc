#include "reference.h"

namespace acdbit {
namespace reference {

void xor_popcount(const uint32_t* rows, ptrdiff_t row_stride, int num_rows, int words, const uint32_t* weights,
                  int outputs, int32_t* counts, ptrdiff_t stride) {
  for (int r = 0; r < num_rows; r++) {
    for (int o = 0; o < outputs; o++) {
      int32_t count = 0;
      for (int w = 0; w < words; w++)
        count += __builtin_popcount(rows[r * row_stride + w] ^ weights[ptrdiff_t(o) * words + w]);
      counts[r * stride + o] = count;
    }
  }
}

void quantize(const float* x, const float* threshold, int channels, uint32_t* words) {
  for (int c = 0; c < channels; c++) {
    if (c % 32 == 0) words[c / 32] = 0;
    const float bound = threshold ? threshold[c] : 0.0f;
    if (x[c] < bound) words[c / 32] |= uint32_t(1) << (c % 32);
  }
}

}  // namespace reference
}  // namespace acdbit
