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
template <typename T>
static inline T word_at(const void* p) {
  T word;
  memcpy(&word, p, sizeof word);
  return word;
}
static inline int16x2_t first_pair(int8x4_t bytes) { return __sxtb16(bytes); }
// Bytes 1 and 3: GCC makes two instructions of a rotation before __sxtb16.
static inline int16x2_t second_pair(int8x4_t bytes) {
  int16x2_t pair;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
  return pair;
}

// y[r][u] = sum over i of x[r][i] * weights[u][i] for two rows and two outputs; rows and outputs are `inputs` apart.
static inline void multiply_four(const int16_t* x, const int8_t* weights, ptrdiff_t inputs, int32_t* y, int stride) {
  int32_t sum_00 = 0, sum_01 = 0, sum_10 = 0, sum_11 = 0;
  // One by one, and a half of the inputs after the other: all that is alive fits the registers.
  for (const int8_t* const end = weights + inputs; weights != end; weights += 4, x += 4) {
    const int8x4_t w0 = word_at<int8x4_t>(weights), w1 = word_at<int8x4_t>(weights + inputs);
    int16x2_t x0 = word_at<int16x2_t>(x), x1 = word_at<int16x2_t>(x + inputs);
    int16x2_t pair = first_pair(w0);
    sum_00 = __smlad(x0, pair, sum_00);
    sum_10 = __smlad(x1, pair, sum_10);
    pair = first_pair(w1);
    sum_01 = __smlad(x0, pair, sum_01);
    sum_11 = __smlad(x1, pair, sum_11);
    x0 = word_at<int16x2_t>(x + 2);
    x1 = word_at<int16x2_t>(x + inputs + 2);
    pair = second_pair(w0);
    sum_00 = __smlad(x0, pair, sum_00);
    sum_10 = __smlad(x1, pair, sum_10);
    pair = second_pair(w1);
    sum_01 = __smlad(x0, pair, sum_01);
    sum_11 = __smlad(x1, pair, sum_11);
  }
  y[0] = sum_00;
  y[1] = sum_01;
  y[stride] = sum_10;
  y[stride + 1] = sum_11;
}

static inline int32_t multiply_one(const int16_t* x, const int8_t* weights, int inputs) {
  int32_t sum = 0;
  for (const int8_t* const end = weights + inputs; weights != end; weights += 4, x += 4) {
    const int8x4_t bytes = word_at<int8x4_t>(weights);
    sum = __smlad(word_at<int16x2_t>(x), first_pair(bytes), sum);
    sum = __smlad(word_at<int16x2_t>(x + 2), second_pair(bytes), sum);
  }
  return sum;
}
#else
// Unsigned, in which a sum too large wraps as the instruction does.
static inline int32_t multiply_one(const int16_t* x, const int8_t* weights, int inputs) {
  uint32_t sum = 0;
  for (const int8_t* const end = weights + inputs; weights != end; weights += 4, x += 4) {
    sum += uint32_t(x[0] * weights[0]) + uint32_t(x[2] * weights[1]);
    sum += uint32_t(x[1] * weights[2]) + uint32_t(x[3] * weights[3]);
  }
  return int32_t(sum);
}

static inline void multiply_four(const int16_t* x, const int8_t* weights, ptrdiff_t inputs, int32_t* y, int stride) {
  for (int r = 0; r < 2; r++)
    for (int u = 0; u < 2; u++) y[r * stride + u] = multiply_one(x + r * inputs, weights + u * inputs, int(inputs));
}
#endif

// Of one row or two.
static void multiply_rows(const int16_t* x, int rows, const int8_t* weights, int inputs, int units, int32_t* y) {
  int u = 0;
  for (; rows == 2 && u + 2 <= units; u += 2, weights += 2 * inputs) multiply_four(x, weights, inputs, y + u, units);
  for (; u < units; u++, weights += inputs)
    for (int r = 0; r < rows; r++) y[r * units + u] = multiply_one(x + r * inputs, weights, inputs);
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
