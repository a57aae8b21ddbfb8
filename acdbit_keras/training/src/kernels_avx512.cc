#include <immintrin.h>

#include "common.h"

namespace acdbit {
namespace avx512 {
namespace {

#include "signs.inl"

#include "block.inl"

}  // namespace

const Kernels kKernels = {RunForward, RunBackward, ColumnMedians};

}  // namespace avx512
}  // namespace acdbit
