// What every path has beside its own rooms, and its table of functions, named ACDBIT_TABLE.

#include "vec.inl"

#include "affine.inl"
#include "quantize.inl"
#include "attention.inl"
#include "block.inl"

namespace acdbit {

extern const Kernels ACDBIT_TABLE;

const Kernels ACDBIT_TABLE = {
    ACDBIT_TABLE_NAME,
    ACDBIT_SLOWNESS,
    ACDBIT_ISA::packed_weights_words,
    ACDBIT_ISA::pack_weights,
    ACDBIT_ISA::xor_popcount,
    ACDBIT_ISA::quantize,
    ACDBIT_ISA::affine,
    ACDBIT_ISA::clamped,
    ACDBIT_ISA::context,
    ACDBIT_ISA::attention_keys,
    ACDBIT_ISA::attention_rows,
    ACDBIT_ISA::block_project,
    ACDBIT_ISA::block_finish,
    ACDBIT_ISA::block_mix,
};

}  // namespace acdbit
