// Kernels for x86-64 with AVX-512 and VPOPCNTDQ.
#define ACDBIT_ISA avx512
#define ACDBIT_AVX512
#define ACDBIT_TABLE kAvx512Kernels
#define ACDBIT_TABLE_NAME "avx512"

#include "kernels.h"
#include "vec.h"

#include "gemm_avx512.inl"

#include "table.inl"
