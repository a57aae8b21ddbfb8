// Kernels for x86-64 with AVX2.
#define ACDBIT_ISA avx2
#define ACDBIT_TABLE kAvx2Kernels
#define ACDBIT_TABLE_NAME "avx2"
#define ACDBIT_SLOWNESS 2

#include "kernels.h"

#include "vec_avx2.h"

#include "gemm_avx2.inl"

#include "attention_avx2.inl"

#include "group_32.inl"

#include "table.inl"
