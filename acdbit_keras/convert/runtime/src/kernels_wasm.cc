// Kernels for WebAssembly with SIMD128.
#define ACDBIT_ISA wasm
#define ACDBIT_TABLE kWasmKernels
#define ACDBIT_TABLE_NAME "wasm"
#define ACDBIT_SLOWNESS 6  // as of NEON, of the same width; a page has one thread, which asks for none

#include "kernels.h"

#include "vec_wasm.h"

#include "gemm_wasm.inl"

#include "attention_wasm.inl"

#include "group_32.inl"

#include "table.inl"
