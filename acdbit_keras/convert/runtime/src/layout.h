// Where the parts of one piece of memory go: one behind the other, each aligned.
#pragma once

#include <stddef.h>

#include "contract.h"

namespace acdbit {

struct Layout {
  size_t bytes = 0;
  bool ok = true;  // false once a size has overflowed

  // Offset of `count` elements of `size` bytes.
  size_t add(size_t count, size_t size) {
    const size_t offset = bytes;
    size_t part;
    if (__builtin_mul_overflow(count, size, &part) || __builtin_add_overflow(part, kAlignment - 1, &part) ||
        __builtin_add_overflow(bytes, part / kAlignment * kAlignment, &bytes)) {
      ok = false;
      return 0;
    }
    return offset;
  }
};

}  // namespace acdbit
