// Products of int16 and int8 for processors without vectors: two rows by two outputs, four inputs at a time. Each four
// weights lie in the order 0, 2, 1, 3, so that two instructions make two pairs of them for the instruction that adds
// two products.
#include <string.h>
#if defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
#endif

namespace acdbit {
namespace ACDBIT_ISA {

#if defined(__ARM_FEATURE_DSP)
struct Four {
  int16x2_t low, high;
};
static inline int16x2_t pair_at(const void* p) {
  int16x2_t pair;
  memcpy(&pair, p, sizeof pair);
  return pair;
}
static inline Four load_inputs(const int16_t* x) { return {pair_at(x), pair_at(x + 2)}; }
static inline Four load_weights(const int8_t* w) {
  uint32_t bytes;
  memcpy(&bytes, w, sizeof bytes);
  return {__sxtb16(bytes), __sxtb16(__ror(bytes, 8))};
}
static inline int32_t add_products(Four x, Four w, int32_t sum) { return __smlad(x.high, w.high, __smlad(x.low, w.low, sum)); }
#else
struct Four {
  int32_t v[4];
};
static inline Four load_inputs(const int16_t* x) { return {{x[0], x[1], x[2], x[3]}}; }
static inline Four load_weights(const int8_t* w) { return {{w[0], w[2], w[1], w[3]}}; }
// Unsigned, in which a sum too large wraps as the instruction does.
static inline int32_t add_products(Four x, Four w, int32_t sum) {
  uint32_t total = uint32_t(sum);
  for (int i = 0; i < 4; i++) total += uint32_t(x.v[i] * w.v[i]);
  return int32_t(total);
}
#endif

// y[r][u] = sum over i of x[r][i] * weights[u][i], of kRows rows and kUnits outputs; rows and outputs are `inputs` apart.
template <int kRows, int kUnits>
static inline void multiply_tile(const int16_t* x, const int8_t* weights, int inputs, int32_t* y, int stride) {
  int32_t sums[kRows][kUnits] = {};
  for (const int8_t* const end = weights + inputs; weights != end; weights += 4, x += 4) {
    Four w[kUnits];
    for (int u = 0; u < kUnits; u++) w[u] = load_weights(weights + u * inputs);
    for (int r = 0; r < kRows; r++) {
      const Four values = load_inputs(x + r * inputs);
      for (int u = 0; u < kUnits; u++) sums[r][u] = add_products(values, w[u], sums[r][u]);
    }
  }
  for (int r = 0; r < kRows; r++)
    for (int u = 0; u < kUnits; u++) y[r * stride + u] = sums[r][u];
}

template <int kRows>
static void multiply_tiles(const int16_t* x, const int8_t* weights, int inputs, int units, int32_t* y) {
  int u = 0;
  for (; u + 2 <= units; u += 2, weights += 2 * inputs) multiply_tile<kRows, 2>(x, weights, inputs, y + u, units);
  if (u < units) multiply_tile<kRows, 1>(x, weights, inputs, y + u, units);
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
