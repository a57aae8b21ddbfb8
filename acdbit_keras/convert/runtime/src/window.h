// One axis of a sliding window: where it starts for each output, and how many outputs there are.
#pragma once

#include <stdint.h>

#include "node.h"

namespace acdbit {

// TFLite's numbers.
enum class Padding { kSame = 0, kValid = 1 };

struct Window {
  int input;
  int filter;
  int stride;
  int dilation;
  int output;
  int before;  // padding in front of the first element

  // Position in the input of tap `tap` for output `i`; outside [0, input) in the padding.
  int64_t position(int i, int tap) const {
    return static_cast<int64_t>(i) * stride - before + static_cast<int64_t>(tap) * dilation;
  }
};

inline bool set_window(const Session& session, const Node* node, Padding padding, int input, int64_t filter,
                       int64_t stride, int64_t dilation, Window* window) {
  const int64_t extent = (filter - 1) * dilation + 1;
  if (extent >= kMaxSize) return refuse(session, node, "its window is too large");
  const int64_t span = padding == Padding::kSame ? input : input - extent + 1;
  if (span < 1)
    return refuse(session, node, "its window spans %lld places, the input has %d", static_cast<long long>(extent),
                  input);
  const int64_t output = (span + stride - 1) / stride;
  const int64_t missing = (output - 1) * stride + extent - input;
  *window = {input,
             static_cast<int>(filter),
             static_cast<int>(stride),
             static_cast<int>(dilation),
             static_cast<int>(output),
             padding == Padding::kSame && missing > 0 ? static_cast<int>(missing / 2) : 0};
  return true;
}

}  // namespace acdbit
