// Kernels for any CPU.
#define ACDBIT_ISA portable
#define ACDBIT_TABLE kPortableKernels
#define ACDBIT_TABLE_NAME "portable"
#define ACDBIT_SLOWNESS 12

#include "kernels.h"

#include "vec_portable.h"

#include "gemm_portable.inl"

#include "attention_portable.inl"

#include "group_32.inl"

#include "table.inl"
