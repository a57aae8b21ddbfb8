// The steps of a flat file on processors without vectors: nothing is prepared, all constants are read where they lie.
#define ACDBIT_ISA scalar

#include "kernels.h"
#include "layout.h"
#include "model_steps.h"

#include "vec_portable.h"

#include "vec.inl"

#include "attention_scalar.inl"

#include "attention.inl"
#include "gemm_scalar.inl"

#include "block_scalar.inl"
#include "float_ops.inl"
#include "integer_ops.inl"

namespace acdbit {
namespace model {

const int kRowsAtOnce = 2;

size_t matrix_bytes(const Matrix&) { return 0; }
void prepare_matrix(const Matrix&, void*) {}

void multiply(const Matrix& matrix, const void*, const float* bias, const float* x, int rows, float* y) {
  for (int r = 0; r < rows; r++)
    scalar::multiply_row(x + r * padded(matrix.inputs), matrix.floats, matrix.inputs, matrix.units, bias,
                         y + r * matrix.units);
}

void multiply(const Matrix& matrix, const void*, const int16_t* x, int rows, int32_t* y) {
  scalar::multiply_rows(x, rows, matrix.integers, padded(matrix.inputs), matrix.units, y);
}

size_t block_bytes(const Block&) { return 0; }
void prepare_block(const Block&, void*) {}

size_t block_scratch(const Block& block) {
  return scalar::block::Memory(block.options, block.channels, block.height * block.width).layout.bytes;
}

void run_block(const Block& block, const void*, float* x, float* y, void* scratch) {
  if (block.half) {
    scalar::block::Run<scalar::block::Half>(block, x, y, scratch).all();
  } else {
    scalar::block::Run<float>(block, x, y, scratch).all();
  }
}

}  // namespace model
}  // namespace acdbit
