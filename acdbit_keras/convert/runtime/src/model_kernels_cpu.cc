// The best kernels that this CPU can run.
#include "cpu.h"
#include "model_kernels.h"

namespace acdbit {
namespace model {

const Kernels* model_kernels() { return supported_kernels().kernels[0]; }

}  // namespace model
}  // namespace acdbit
