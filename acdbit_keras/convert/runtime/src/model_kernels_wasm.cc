// The kernels that WebAssembly has.
#include "model_kernels.h"

namespace acdbit {

extern const Kernels kWasmKernels;

namespace model {

const Kernels* model_kernels() { return &kWasmKernels; }

}  // namespace model
}  // namespace acdbit
