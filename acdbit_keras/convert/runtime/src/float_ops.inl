// Products of floats for processors without vectors, four outputs at a time: each input is read once for all of them.

namespace acdbit {
namespace ACDBIT_ISA {

// a * b + c, as one instruction where there is one: these products are held against a tolerance, not against bits.
static inline float fused(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

static void multiply_row(const float* x, const float* weights, int inputs, int units, const float* bias, float* y) {
  int u = 0;
  for (; u + 4 <= units; u += 4, weights += 4 * inputs) {
    const float *w0 = weights, *w1 = w0 + inputs, *w2 = w1 + inputs, *w3 = w2 + inputs;
    float s0 = bias ? bias[u] : 0.0f, s1 = bias ? bias[u + 1] : 0.0f;
    float s2 = bias ? bias[u + 2] : 0.0f, s3 = bias ? bias[u + 3] : 0.0f;
    for (int i = 0; i < inputs; i++) {
      s0 = fused(x[i], w0[i], s0);
      s1 = fused(x[i], w1[i], s1);
      s2 = fused(x[i], w2[i], s2);
      s3 = fused(x[i], w3[i], s3);
    }
    y[u] = s0;
    y[u + 1] = s1;
    y[u + 2] = s2;
    y[u + 3] = s3;
  }
  for (; u < units; u++, weights += inputs) {
    float sum = bias ? bias[u] : 0.0f;
    for (int i = 0; i < inputs; i++) sum = fused(x[i], weights[i], sum);
    y[u] = sum;
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
