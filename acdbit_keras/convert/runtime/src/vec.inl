// Sixteen floats: the unit in which every float pass works, on every CPU.
//
// Each path has a namespace ACDBIT_ISA of its own, so that nothing compiled for one CPU is merged into code for
// another. Without contraction (-ffp-contract=off) every operation rounds alike, one that is to be fused says so, and a
// sum over channels runs over 16 lanes and then in one fixed tree: the same bits on every CPU.
//
// vec_<path>.h provides the type F16 and, of it,
//   load, store, splat, convert (from 32-bit integers), +, -, *
//   multiply_add:  a * b + c, rounded once
//   absolute
//   smaller:       b < a ? b : a, so NaN in a stays
//   larger:        a < b ? b : a, so NaN in a stays
//   prelu:         z > 0 ? z : slope * z
//   less, less32:  bit i = a[i] < b[i], of one pair or two
//   scale2:        a * 2^n, of normal numbers, for a `shifted` of 1.5 * 2^23 + n: its lowest bits are those of n
//   sum, largest:  of the lanes: the sum in the fixed tree, l[i] + l[i + 8], l[i] + l[i + 4], ...; none is NaN
// besides what the groups of channels that the path chooses ask for (group_*.inl). It may also provide, saying so with
// a macro ACDBIT_HAS_..., what otherwise is made of these here.

namespace acdbit {
namespace ACDBIT_ISA {

#if !defined(ACDBIT_HAS_SIXTEEN_SUMS)
// Lane r = sum(load(rows + r * stride)).
static inline F16 sixteen_sums(const float* rows, ptrdiff_t stride) {
  float sums[16];
  for (int r = 0; r < 16; r++) sums[r] = sum(load(rows + r * stride));
  return load(sums);
}
#endif

#if !defined(ACDBIT_HAS_LOAD_NEXT)
// The next sixteen of a row.
static inline F16 load_next(const float** next) {
  const F16 values = load(*next);
  *next += 16;
  return values;
}
#endif

}  // namespace ACDBIT_ISA
}  // namespace acdbit
