#include <immintrin.h>

#include "common.h"

namespace acdbit {
namespace avx2 {
namespace {

#include "signs.inl"

#include "block.inl"

}  // namespace

const Kernels kKernels = {RunForward, RunBackward, ColumnMedians};

}  // namespace avx2
}  // namespace acdbit
