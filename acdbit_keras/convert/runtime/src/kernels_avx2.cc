// Kernels for x86-64 with AVX2.
#define ACDBIT_ISA avx2
#define ACDBIT_AVX2
#define ACDBIT_TABLE kAvx2Kernels
#define ACDBIT_TABLE_NAME "avx2"

#include "kernels.h"
#include "vec.h"

#include "gemm_avx2.inl"

#include "table.inl"
