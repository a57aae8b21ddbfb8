// What every instruction set shares after its GEMM, and its table of functions, named ACDBIT_TABLE.

#include "affine.inl"
#include "quantize.inl"
#if __has_include("attention.inl")
#include "attention.inl"
#define ACDBIT_HAS_ATTENTION
#endif
#if __has_include("block.inl")
#include "block.inl"
#define ACDBIT_HAS_BLOCK
#endif

namespace acdbit {

const Kernels ACDBIT_TABLE = {
    ACDBIT_TABLE_NAME,
    ACDBIT_ISA::packed_weights_words,
    ACDBIT_ISA::pack_weights,
    ACDBIT_ISA::xor_popcount,
    ACDBIT_ISA::quantize,
    ACDBIT_ISA::affine,
#ifdef ACDBIT_HAS_ATTENTION
    ACDBIT_ISA::attention_keys,
    ACDBIT_ISA::attention_rows,
#else
    nullptr,
    nullptr,
#endif
#ifdef ACDBIT_HAS_BLOCK
    ACDBIT_ISA::block_project,
    ACDBIT_ISA::block_finish,
    ACDBIT_ISA::block_pool,
#else
    nullptr,
    nullptr,
    nullptr,
#endif
};

}  // namespace acdbit
