// What the engine of flat files (model.cc) leaves to a path: the products, and the block.
//
// model_scalar.cc is for processors without vectors, reads every constant where it lies and prepares nothing;
// model_vectors.cc is for all others, on the kernels that the delegate has. One of them is linked.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "flat.h"

namespace acdbit {
namespace model {

// A matrix [units][inputs] that rows are multiplied with, as the file has it. Rows of int8 are padded to a multiple of
// 4, see flat.h.
struct Matrix {
  int inputs;
  int units;
  const float* floats;     // or null, then
  const int8_t* integers;  // for rows of int16
};

// Rows that a call of the products takes at most.
extern const int kRowsAtOnce;

// Rows of `inputs` rounded up to a multiple of 4, of which what is beyond `inputs` is 0.
inline int padded(int inputs) { return (inputs + 3) / 4 * 4; }

// Bytes that the path keeps of a matrix, and writing them. Aligned to kAlignment, as is all memory.
size_t matrix_bytes(const Matrix& matrix);
void prepare_matrix(const Matrix& matrix, void* prepared);
// y[r][u] = bias[u] + sum over i of x[r][i] * matrix[u][i]; bias may be null. Rows of x are padded(inputs) apart.
void multiply(const Matrix& matrix, const void* prepared, const float* bias, const float* x, int rows, float* y);
void multiply(const Matrix& matrix, const void* prepared, const int16_t* x, int rows, int32_t* y);

// A block as the file has it.
struct Block {
  BlockOptions options;
  int height, width, channels;
  const uint32_t* kernels;
  const void* vectors;
  bool half;              // vectors are half floats
  const uint32_t* table;  // see flat.h; null with dynamic statistics
};

size_t block_bytes(const Block& block);
void prepare_block(const Block& block, void* prepared);
size_t block_scratch(const Block& block);
// x is overwritten; y must not overlap it.
void run_block(const Block& block, const void* prepared, float* x, float* y, void* scratch);

}  // namespace model
}  // namespace acdbit
