// Kernels for arm64, whose baseline includes NEON.
#define ACDBIT_ISA neon
#define ACDBIT_NEON
#define ACDBIT_TABLE kNeonKernels
#define ACDBIT_TABLE_NAME "neon"

#include "kernels.h"
#include "vec.h"

#include "gemm_neon.inl"

#include "table.inl"
