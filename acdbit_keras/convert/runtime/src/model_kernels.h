// Which kernels the engine of flat files runs blocks on.
#pragma once

#include "kernels.h"

namespace acdbit {
namespace model {

// The same for the life of the process.
const Kernels* model_kernels();

}  // namespace model
}  // namespace acdbit
