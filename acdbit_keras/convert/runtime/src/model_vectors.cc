// The steps of a flat file on processors with vectors: the block on the delegate's kernels, whose packed weights are
// kept; products in panels of eight outputs.
#include <string.h>

#include "kernels.h"
#include "half.h"
#include "layout.h"
#include "model_kernels.h"
#include "model_steps.h"

namespace acdbit {
namespace model {

const int kRowsAtOnce = 4;

namespace {

constexpr int kPanel = 8;  // outputs side by side

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));

template <typename T>
T load(const void* p) {
  T value;
  memcpy(&value, p, sizeof value);
  return value;
}

size_t panels(int units) { return size_t(units + kPanel - 1) / kPanel; }

// Four rows by one panel, in registers.
template <typename Vector, typename Lane, typename X>
void multiply_panel(const Lane* weights, const Lane* start, const X* x, ptrdiff_t stride, int inputs,
                    Vector (*sums)[2]) {
  for (int r = 0; r < 4; r++)
    for (int half = 0; half < 2; half++) sums[r][half] = load<Vector>(start + 4 * half);
  for (int i = 0; i < inputs; i++, weights += kPanel) {
    const Vector low = load<Vector>(weights), high = load<Vector>(weights + 4);
    for (int r = 0; r < 4; r++) {
      const Lane value = Lane(x[r * stride + i]);
      sums[r][0] += low * value;
      sums[r][1] += high * value;
    }
  }
}

template <typename Vector, typename Lane, typename X>
void multiply_rows(const Matrix& matrix, const Lane* weights, const Lane* bias, const X* x, int rows, Lane* y) {
  const int units = matrix.units, stride = padded(matrix.inputs);
  for (int u = 0; u < units; u += kPanel, weights += ptrdiff_t(matrix.inputs) * kPanel) {
    const int width = units - u < kPanel ? units - u : kPanel;
    Lane start[kPanel] = {};
    if (bias) memcpy(start, bias + u, size_t(width) * sizeof(Lane));
    Vector sums[4][2];
    multiply_panel(weights, start, x, rows == kRowsAtOnce ? stride : 0, matrix.inputs, sums);
    // Fewer rows than four: the first of the four, one by one.
    for (int r = 0; r < rows; r++) {
      if (rows < kRowsAtOnce && r > 0) multiply_panel(weights, start, x + r * stride, 0, matrix.inputs, sums);
      Lane lanes[kPanel];
      memcpy(lanes, sums[rows == kRowsAtOnce ? r : 0], sizeof lanes);
      memcpy(y + ptrdiff_t(r) * units + u, lanes, size_t(width) * sizeof(Lane));
    }
  }
}

// The order of each four weights of int8, see flat.h.
constexpr int kOrder[4] = {0, 2, 1, 3};

struct Kept {
  size_t vectors, weights;
  Layout layout;
};

Kept kept_of(const Block& block) {
  size_t vectors, kernels, taps;
  block_sizes(block.options, block.channels, block.height, block.width, &vectors, &kernels, &taps);
  Kept kept = {};
  kept.vectors = kept.layout.add(block.half ? vectors : 0, sizeof(float));
  kept.weights = kept.layout.add(block_weights_bytes(block.options, block.channels, model_kernels()), 1);
  return kept;
}

template <typename T>
T* at(void* memory, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + offset);
}

}  // namespace

size_t matrix_bytes(const Matrix& matrix) {
  return panels(matrix.units) * kPanel * size_t(matrix.inputs) * sizeof(float);
}

void prepare_matrix(const Matrix& matrix, void* prepared) {
  const int inputs = matrix.inputs, stride = padded(inputs);
  memset(prepared, 0, matrix_bytes(matrix));
  for (int u = 0; u < matrix.units; u++) {
    const size_t first = size_t(u / kPanel) * kPanel * size_t(inputs) + size_t(u % kPanel);
    for (int i = 0; i < inputs; i++) {
      const size_t to = first + size_t(i) * kPanel;
      if (matrix.floats) {
        static_cast<float*>(prepared)[to] = matrix.floats[size_t(u) * size_t(inputs) + size_t(i)];
      } else {
        static_cast<int32_t*>(prepared)[to] =
            matrix.integers[size_t(u) * size_t(stride) + size_t(i / 4 * 4 + kOrder[i % 4])];
      }
    }
  }
}

void multiply(const Matrix& matrix, const void* prepared, const float* bias, const float* x, int rows, float* y) {
  multiply_rows<Floats>(matrix, static_cast<const float*>(prepared), bias, x, rows, y);
}

void multiply(const Matrix& matrix, const void* prepared, const int16_t* x, int rows, int32_t* y) {
  multiply_rows<Integers>(matrix, static_cast<const int32_t*>(prepared), static_cast<const int32_t*>(nullptr), x, rows,
                          y);
}

size_t block_bytes(const Block& block) {
  const Kept kept = kept_of(block);
  return kept.layout.bytes + sizeof(BlockPlan);
}

void prepare_block(const Block& block, void* prepared) {
  const Kept kept = kept_of(block);
  const float* vectors = static_cast<const float*>(block.vectors);
  if (block.half) {
    size_t count, kernels, taps;
    block_sizes(block.options, block.channels, block.height, block.width, &count, &kernels, &taps);
    float* wide = at<float>(prepared, kept.vectors);
    for (size_t i = 0; i < count; i++) wide[i] = widened(static_cast<const uint16_t*>(block.vectors)[i]);
    vectors = wide;
  }
  BlockPlan* plan = at<BlockPlan>(prepared, kept.layout.bytes);
  block_prepare(block.options, block.channels, vectors, block.kernels, model_kernels(),
                at<void>(prepared, kept.weights), plan);
}

size_t block_scratch(const Block& block) {
  return block_workspace_bytes(block.options, block.channels, block.height, block.width) +
         block_scratch_bytes(block.options, block.channels);
}

void run_block(const Block& block, const void* prepared, float* x, float* y, void* scratch) {
  BlockPlan plan;
  memcpy(&plan, static_cast<const char*>(prepared) + kept_of(block).layout.bytes, sizeof plan);
  const Kernels* const kernels = plan.kernels;
  block_place(block.options, block.height, block.width, scratch, &plan);
  void* const rows = at<void>(scratch, block_workspace_bytes(block.options, block.channels, block.height, block.width));
  block_bind(x, y, nullptr, &plan);
  const int tokens = block.height * block.width;
  kernels->block_project(&plan, 0, tokens, rows);
  for (int head = 0; head < block.options.heads; head++) kernels->attention_keys(&plan.attention, head);
  kernels->block_finish(&plan, 0, tokens, rows);
  if (block.options.branches != Branches::kNone) kernels->block_mix(&plan, 0, tokens);
}

}  // namespace model
}  // namespace acdbit
