#include "common.h"

namespace acdbit {
namespace portable {
namespace {

#include "signs.inl"

#include "block.inl"

}  // namespace

const Kernels kKernels = {RunForward, RunBackward, ColumnMedians};

}  // namespace portable
}  // namespace acdbit
