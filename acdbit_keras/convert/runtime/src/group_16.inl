// Groups of sixteen channels for block.inl, half a word of bits: where sixteen floats take four registers, the
// constants of most loops stay in registers only so.
//
// Of the path's F16 it needs, beside vec.inl, the averages of adjacent lanes: store_pair_averages, eight of two lanes,
// and store_quad_averages, four of four.
namespace acdbit {
namespace ACDBIT_ISA {
namespace block {

using Group = F16;
constexpr int kGroup = 16;
static inline Group load_group(const float* p) { return load(p); }
static inline Group splat_group(float x) { return splat(x); }
static inline Group convert_group(const int32_t* p) { return convert(p); }
static inline void store_less(uint32_t* row, int channel, Group a, Group b) {
  const uint16_t bits = uint16_t(less(a, b));
  memcpy(reinterpret_cast<char*>(row) + channel / 8, &bits, sizeof bits);
}
static inline F16 add(F16 sums, Group a) { return sums + a; }
static inline F16 add_deviations(F16 sums, Group a, Group threshold) { return sums + absolute(a - threshold); }

// How many groups `hidden_columns` takes at a time, and the averages of so many adjacent channels of them.
constexpr int hidden_groups(int) { return 1; }
template <int kRatio>
static inline void store_averages(float* average, Group f) {
  static_assert(kRatio == 2 || kRatio == 4, "averages of two or four");
  if constexpr (kRatio == 2) {
    store_pair_averages(average, f);
  } else {
    store_quad_averages(average, f);
  }
}

}  // namespace block
}  // namespace ACDBIT_ISA
}  // namespace acdbit
