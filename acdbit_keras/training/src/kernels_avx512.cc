#include <immintrin.h>

#include "common.h"

namespace acdbit {
namespace avx512 {
namespace {

#include "signs.inl"

#include "pass.inl"

#include "forward.inl"

#include "backward.inl"

#include "medians.inl"

}  // namespace

const Kernels kKernels = {
    [](const Layout& layout, const Options& options, const Forward& io) { ForwardPass(layout, options, io).Run(); },
    [](const Layout& layout, const Options& options, const Backward& io) { BackwardPass(layout, options, io).Run(); },
    ColumnMedians,
};

}  // namespace avx512
}  // namespace acdbit
