// Kernels for x86-64 with AVX-512 and VPOPCNTDQ.
#define ACDBIT_ISA avx512
#define ACDBIT_TABLE kAvx512Kernels
#define ACDBIT_TABLE_NAME "avx512"
#define ACDBIT_SLOWNESS 1

#include "kernels.h"

#include "vec_avx512.h"

#include "gemm_avx512.inl"

#include "attention_avx512.inl"

#include "group_32.inl"

#include "table.inl"
