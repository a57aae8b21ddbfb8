// Kernels for arm64, whose baseline includes NEON.
#define ACDBIT_ISA neon
#define ACDBIT_TABLE kNeonKernels
#define ACDBIT_TABLE_NAME "neon"
#define ACDBIT_SLOWNESS 6

#include "kernels.h"

#include "vec_neon.h"

#include "gemm_neon.inl"

#include "attention_neon.inl"

#include "group_16.inl"

#include "table.inl"
