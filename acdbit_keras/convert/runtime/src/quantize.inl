// Packing of float rows into words of sign bits.

namespace acdbit {
namespace ACDBIT_ISA {

static void quantize(const float* x, const float* threshold, int channels, uint32_t* words) {
  int c = 0;
  if (threshold) {
    for (; c + 32 <= channels; c += 32)
      *words++ = less32(load(x + c), load(threshold + c), load(x + c + 16), load(threshold + c + 16));
  } else {
    const F16 zero = splat(0.0f);
    for (; c + 32 <= channels; c += 32) *words++ = less32(load(x + c), zero, load(x + c + 16), zero);
  }
  if (c == channels) return;
  uint32_t last = 0;
  for (int i = 0; c + i < channels; i++) last |= uint32_t(x[c + i] < (threshold ? threshold[c + i] : 0.0f)) << i;
  *words = last;
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
