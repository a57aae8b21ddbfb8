// Kernels for any CPU.
#define ACDBIT_ISA portable
#define ACDBIT_TABLE kPortableKernels
#define ACDBIT_TABLE_NAME "portable"

#include "kernels.h"
#include "vec.h"

#include "gemm_portable.inl"

#include "table.inl"
