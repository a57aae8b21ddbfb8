// What takes time in a float model, for float_twin.mjs, so that what is compared with in the page computes in the same
// SIMD.
#include <math.h>
#include <stddef.h>

namespace {

typedef float Four __attribute__((vector_size(16), aligned(4)));
constexpr int kRows = 4, kUnits = 8;

inline Four four(const float* x) { return *reinterpret_cast<const Four*>(x); }

// Rows and units of one tile, which stays in registers; the weights are padded to whole tiles.
template <int rows>
void tile(const float* x, const float* weights, const float* bias, float* y, int inputs, int units, int stride) {
  Four sums[rows][2];
  const int count = units < kUnits ? units : kUnits;
  for (auto& sum : sums) sum[0] = four(bias), sum[1] = four(bias + 4);
  for (int i = 0; i < inputs; i++) {
    const Four w[2] = {four(weights + ptrdiff_t(i) * kUnits), four(weights + ptrdiff_t(i) * kUnits + 4)};
    for (int r = 0; r < rows; r++) {
      const Four value = Four{} + x[ptrdiff_t(r) * inputs + i];
      sums[r][0] += value * w[0];
      sums[r][1] += value * w[1];
    }
  }
  for (int r = 0; r < rows; r++)
    for (int u = 0; u < count; u++) y[ptrdiff_t(r) * stride + u] = sums[r][u / 4][u % 4];
}

}  // namespace

extern "C" {

// y(rows, units) = x(rows, inputs) weights + bias. Weights in tiles: for every eight units all inputs, eight numbers
// each; the bias is padded to a multiple of eight.
__attribute__((export_name("float_product"))) void float_product(const float* x, const float* weights,
                                                                 const float* bias, float* y, int rows, int inputs,
                                                                 int units) {
  for (int u = 0; u < units; u += kUnits) {
    const float* const part = weights + ptrdiff_t(u) * inputs;
    int r = 0;
    for (; r + kRows <= rows; r += kRows)
      tile<kRows>(x + ptrdiff_t(r) * inputs, part, bias + u, y + ptrdiff_t(r) * units + u, inputs, units - u, units);
    for (; r < rows; r++)
      tile<1>(x + ptrdiff_t(r) * inputs, part, bias + u, y + ptrdiff_t(r) * units + u, inputs, units - u, units);
  }
}

__attribute__((export_name("float_gelu"))) void float_gelu(const float* x, float* y, int count, int approximate) {
  for (int i = 0; i < count; i++) {
    const float v = x[i];
    y[i] = approximate ? 0.5f * v * (1.0f + tanhf(0.7978845608f * (v + 0.044715f * v * v * v)))
                       : 0.5f * v * (1.0f + erff(v * 0.7071067812f));
  }
}

__attribute__((export_name("float_softmax"))) void float_softmax(const float* x, float* y, int rows, int columns) {
  for (int r = 0; r < rows; r++, x += columns, y += columns) {
    float top = x[0], sum = 0;
    for (int c = 1; c < columns; c++) top = x[c] > top ? x[c] : top;
    for (int c = 0; c < columns; c++) sum += y[c] = expf(x[c] - top);
    for (int c = 0; c < columns; c++) y[c] /= sum;
  }
}
}
