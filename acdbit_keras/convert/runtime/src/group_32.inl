// Groups of 32 channels for block.inl, a word of bits.
//
// Of the path's F16 it needs, beside vec.inl, pair_sums: a0 + a1, a2 + a3, ..., b0 + b1, ...
namespace acdbit {
namespace ACDBIT_ISA {
namespace block {

struct Group {
  F16 low, high;
};
constexpr int kGroup = 32;
static inline Group load_group(const float* p) { return {load(p), load(p + 16)}; }
static inline Group splat_group(float x) { return {splat(x), splat(x)}; }
static inline Group convert_group(const int32_t* p) { return {convert(p), convert(p + 16)}; }
static inline void store(float* p, Group a) {
  store(p, a.low);
  store(p + 16, a.high);
}
static inline Group operator+(Group a, Group b) { return {a.low + b.low, a.high + b.high}; }
static inline Group operator*(Group a, Group b) { return {a.low * b.low, a.high * b.high}; }
static inline Group operator*(Group a, F16 b) { return {a.low * b, a.high * b}; }
static inline Group prelu(Group z, Group slope) { return {prelu(z.low, slope.low), prelu(z.high, slope.high)}; }
static inline void store_less(uint32_t* row, int channel, Group a, Group b) {
  row[channel / 32] = less32(a.low, b.low, a.high, b.high);
}
static inline F16 add(F16 sums, Group a) { return (sums + a.low) + a.high; }
static inline F16 add_deviations(F16 sums, Group a, Group threshold) {
  return (sums + absolute(a.low - threshold.low)) + absolute(a.high - threshold.high);
}

// How many groups `hidden_columns` takes at a time, and the averages of so many adjacent channels of them, of which one
// step then fills a vector.
constexpr int hidden_groups(int ratio) { return ratio == 4 ? 2 : 1; }
template <int kRatio>
static inline void store_averages(float* average, Group f) {
  static_assert(kRatio == 2, "half as many averages");
  store(average, pair_sums(f.low, f.high) * splat(0.5f));
}
template <int kRatio>
static inline void store_averages(float* average, Group f, Group next) {
  static_assert(kRatio == 4, "a quarter as many averages");
  store(average, pair_sums(pair_sums(f.low, f.high), pair_sums(next.low, next.high)) * splat(0.25f));
}

}  // namespace block
}  // namespace ACDBIT_ISA
}  // namespace acdbit
