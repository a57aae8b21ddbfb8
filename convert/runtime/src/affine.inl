// The output transform of a convolution: counts to floats, one multiplier and one bias per output.

namespace acdbit {
namespace ACDBIT_ISA {

static void affine(const int32_t* counts, const float* multiplier, const float* bias, int outputs, float* y) {
  int o = 0;
  for (; o + 16 <= outputs; o += 16) store(y + o, convert(counts + o) * load(multiplier + o) + load(bias + o));
  for (; o < outputs; o++) y[o] = float(counts[o]) * multiplier[o] + bias[o];
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
