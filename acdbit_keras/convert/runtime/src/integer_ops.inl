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
// y[r][u] = sum over i of x[r][i] * weights[u][i] for two rows and two outputs; rows and outputs are `inputs` apart. In
// C three of what the loop needs would lie on the stack.
static inline void multiply_four(const int16_t* x, const int8_t* weights, ptrdiff_t inputs, int32_t* y, int stride) {
  int32_t sum_00 = 0, sum_01 = 0, sum_10 = 0, sum_11 = 0;
  uint32_t x0, x1, w0, w1, pair;
  __asm__ volatile(
      "1:\n"
      " ldr %[w1], [%[weights], %[inputs]]\n"
      " ldr %[w0], [%[weights]], #4\n"
      " ldr %[x1], [%[x], %[inputs], lsl #1]\n"
      " ldr %[x0], [%[x]], #4\n"
      " sxtb16 %[pair], %[w0]\n"
      " smlad %[s00], %[x0], %[pair], %[s00]\n"
      " smlad %[s10], %[x1], %[pair], %[s10]\n"
      " sxtb16 %[pair], %[w1]\n"
      " smlad %[s01], %[x0], %[pair], %[s01]\n"
      " smlad %[s11], %[x1], %[pair], %[s11]\n"
      " ldr %[x1], [%[x], %[inputs], lsl #1]\n"
      " ldr %[x0], [%[x]], #4\n"
      " sxtb16 %[pair], %[w0], ror #8\n"
      " smlad %[s00], %[x0], %[pair], %[s00]\n"
      " smlad %[s10], %[x1], %[pair], %[s10]\n"
      " sxtb16 %[pair], %[w1], ror #8\n"
      " smlad %[s01], %[x0], %[pair], %[s01]\n"
      " smlad %[s11], %[x1], %[pair], %[s11]\n"
      " cmp %[weights], %[end]\n"
      " bne 1b\n"
      : [s00] "+r"(sum_00), [s01] "+r"(sum_01), [s10] "+r"(sum_10), [s11] "+r"(sum_11), [x0] "=&r"(x0), [x1] "=&r"(x1),
        [w0] "=&r"(w0), [w1] "=&r"(w1), [pair] "=&r"(pair), [x] "+r"(x), [weights] "+r"(weights)
      : [inputs] "r"(inputs), [end] "r"(weights + inputs)
      : "cc", "memory");
  y[0] = sum_00;
  y[1] = sum_01;
  y[stride] = sum_10;
  y[stride + 1] = sum_11;
}

template <typename T>
static inline T word_at(const void* p) {
  T word;
  memcpy(&word, p, sizeof word);
  return word;
}

static inline int32_t multiply_one(const int16_t* x, const int8_t* weights, int inputs) {
  int32_t sum = 0;
  for (const int8_t* const end = weights + inputs; weights != end; weights += 4, x += 4) {
    const int8x4_t bytes = word_at<int8x4_t>(weights);
    int16x2_t pair;  // bytes 1 and 3: GCC makes two instructions of a rotation before __sxtb16
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
    sum = __smlad(word_at<int16x2_t>(x), __sxtb16(bytes), sum);
    sum = __smlad(word_at<int16x2_t>(x + 2), pair, sum);
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
