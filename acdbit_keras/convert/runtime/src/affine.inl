// Output transforms: counts to floats. A convolution has one multiplier and one bias per output.

namespace acdbit {
namespace ACDBIT_ISA {

static void affine(const int32_t* counts, const float* multiplier, const float* bias, int outputs, float* y) {
  int o = 0;
  for (; o + 16 <= outputs; o += 16) store(y + o, convert(counts + o) * load(multiplier + o) + load(bias + o));
  for (; o < outputs; o++) y[o] = float(counts[o]) * multiplier[o] + bias[o];
}

static void clamped(const int32_t* counts, float unit, float low, float high, const float* multiplier,
                    const float* bias, int outputs, float* y) {
  int o = 0;
  for (; o + 16 <= outputs; o += 16) {
    const F16 x = smaller(larger(convert(counts + o) * splat(unit), splat(low)), splat(high));
    store(y + o, x * load(multiplier + o) + load(bias + o));
  }
  for (; o < outputs; o++) {
    float x = float(counts[o]) * unit;
    x = x < low ? low : x;
    x = high < x ? high : x;
    y[o] = x * multiplier[o] + bias[o];
  }
}

static void context(const int32_t* counts, const int32_t* kept, const float* count_multiplier,
                    const float* kept_multiplier, int heads, int head_dim, float* y) {
  for (int h = 0; h < heads; h++) {
    const F16 all = splat(float(kept[h]));
    for (int c = h * head_dim; c < (h + 1) * head_dim; c += 16)
      store(y + c, convert(counts + c) * load(count_multiplier + c) + all * load(kept_multiplier + c));
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
