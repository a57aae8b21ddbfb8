// The stages of a fused transformer block, see block.h; the arithmetic is in acdbit_keras/device_ops.py.
//
// Products run over kBlockRows rows and a chunk of outputs; then, for a group of outputs at a time, the constants are
// loaded once and a loop over the rows does everything that follows from the counts.

#include "block.h"

namespace acdbit {
namespace ACDBIT_ISA {
namespace block {

template <typename T>
static inline T* at(void* memory, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + offset);
}

static inline int smaller(int a, int b) { return a < b ? a : b; }

// === Groups of channels ===

// Those that a loop over rows takes at a time: a word of bits. With NEON it is half a word, for the constants of most
// loops then stay in registers, where a vector has four lanes.
#if defined(ACDBIT_NEON)
using Group = F16;
constexpr int kGroup = 16;
static inline Group load_group(const float* p) { return load(p); }
static inline Group splat_group(float x) { return splat(x); }
static inline Group convert_group(const int32_t* p) { return convert(p); }
static inline void store_less(uint32_t* row, int channel, Group a, Group b) {
  const uint16_t bits = uint16_t(less(a, b));
  memcpy(reinterpret_cast<char*>(row) + channel / 8, &bits, sizeof bits);
}
#else
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
#endif

// === Statistics ===

// Sums of sixteen lanes each for a row: kSums of them, kBlockRows rows.
constexpr int kSums = 4;
constexpr int kRowSums = kSums * 16;
constexpr int kMean = 3;  // of BlockScratch::means; before it the mean deviations

#if defined(ACDBIT_NEON)
static inline F16 add(F16 sums, Group a) { return sums + a; }
static inline F16 add_deviations(F16 sums, Group a, Group threshold) { return sums + absolute(a - threshold); }
#else
static inline F16 add(F16 sums, Group a) { return (sums + a.low) + a.high; }
static inline F16 add_deviations(F16 sums, Group a, Group threshold) {
  return (sums + absolute(a.low - threshold.low)) + absolute(a.high - threshold.high);
}
#endif
static inline void add_to(float* sums, Group a, Group threshold) {
  const F16 deviation = add_deviations(load(sums), a, threshold), value = add(load(sums + 16), a);
  store(sums, deviation);
  store(sums + 16, value);
}

static void clear_sums(float* sums) { memset(sums, 0, kBlockRows * kRowSums * sizeof *sums); }

// Lane r of sixteen = sum(load(rows + r * kRowSums)). AVX-512 folds two rows into one vector at every level of the
// tree.
#if defined(ACDBIT_AVX512)
static inline __m512 fold_halves(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
static inline __m512 fold_quarters(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
static inline F16 row_sums(const float* rows) {
  __m512 fours[4];  // of rows i, i + 4, i + 8, i + 12: four lanes each
  for (int i = 0; i < 4; i++, rows += kRowSums)
    fours[i] = fold_quarters(fold_halves(load(rows).v, load(rows + 4 * kRowSums).v),
                             fold_halves(load(rows + 8 * kRowSums).v, load(rows + 12 * kRowSums).v));
  __m512 twos[2];  // of rows 2 i and 2 i + 1 of each four
  for (int i = 0; i < 2; i++)
    twos[i] = _mm512_add_ps(_mm512_shuffle_ps(fours[2 * i], fours[2 * i + 1], 0x44),
                            _mm512_shuffle_ps(fours[2 * i], fours[2 * i + 1], 0xee));
  return {_mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88), _mm512_shuffle_ps(twos[0], twos[1], 0xdd))};
}
#else
static inline F16 row_sums(const float* rows) {
  float sums[16];
  for (int r = 0; r < 16; r++) sums[r] = sum(load(rows + r * kRowSums));
  return load(sums);
}
#endif

// means[row] = sum `index` of the row / number
static void reduce_sums(const float* sums, int index, int number, float* means) {
  static_assert(kBlockRows % 16 == 0, "vectors of rows");
  for (int r = 0; r < kBlockRows; r += 16)
    store(means + r, row_sums(sums + r * kRowSums + 16 * index) * splat(1.0f / float(number)));
}

// Deviation and mean of the values that are a product's only input.
static void reduce_input(const float* sums, int number, float* means) {
  reduce_sums(sums, 0, number, means);
  reduce_sums(sums, 1, number, means + kMean * kBlockRows);
}

// === Products ===

// Constants of a group of outputs of a product, and the product of one row from its counts and, if dynamic, the mean
// deviation and the mean of its input.
template <bool kDynamic>
struct Columns;

template <>
struct Columns<false> {
  Group multiplier, bias, slope;

  Columns(const ProductPlan& product, int output)
      : multiplier(load_group(product.multiplier + output)),
        bias(load_group(product.bias + output)),
        slope(load_group(product.slope + output)) {}
  Group product(const int32_t* counts, const float*, const float*) const {
    return convert_group(counts) * multiplier + bias;
  }
};

template <>
struct Columns<true> {
  Group multiplier, bias, slope, row, restore;

  Columns(const ProductPlan& product, int output)
      : multiplier(load_group(product.multiplier + output)),
        bias(load_group(product.bias + output)),
        slope(load_group(product.slope + output)),
        row(load_group(product.row + output)),
        restore(load_group(product.restore + output)) {}
  Group product(const int32_t* counts, const float* deviation, const float* mean) const {
    return ((convert_group(counts) * multiplier + row) * splat(*deviation) + restore * splat(*mean)) + bias;
  }
};

// Copies the bits of some rows into section `section` of the taps, of those with `channels / 32` words to a row;
// sections after the probabilities count from there.
static void write_tap(const BlockPlan& plan, int section, const uint32_t* bits, int first_row, int rows, int words) {
  const size_t tokens = size_t(plan.height) * size_t(plan.width);
  const size_t row_words = size_t(plan.channels / 32);
  size_t offset = size_t(section) * tokens * row_words;
  if (section >= 6) offset += size_t(plan.heads) * tokens * ((tokens + 31) / 32);
  memcpy(plan.taps + offset + size_t(first_row) * size_t(words), bits, size_t(rows) * size_t(words) * sizeof *bits);
}

// === Project ===

// Whether q, k and v are computed side by side from u = gain_1 * x + shift_1, or one after the other, because the
// constants of three do not fit the registers, from u in memory.
constexpr bool kOnePass = kGroup == 32;

// Bits of u for query, key and value, [3][kBlockRows][words], its means, and unless kOnePass u itself in `normed`.
template <bool kDynamic>
static void pack_inputs(const BlockPlan& plan, const float* x, int rows, float* normed, uint32_t* bits, float* means,
                        float* sums) {
  const int channels = plan.channels, words = channels / 32;
  if constexpr (kDynamic) clear_sums(sums);
  for (int c = 0; c < channels; c += kGroup) {
    const Group gain = load_group(plan.gain_1 + c), shift = load_group(plan.shift_1 + c);
    const Group query = load_group(plan.query.threshold + c);
    const Group key = load_group(plan.key.threshold + c);
    const Group value = load_group(plan.value.threshold + c);
    for (int r = 0; r < rows; r++) {
      const Group u = gain * load_group(x + r * channels + c) + shift;
      if constexpr (!kOnePass) store(normed + r * channels + c, u);
      uint32_t* row_bits = bits + r * words;
      store_less(row_bits, c, u, query);
      store_less(row_bits + kBlockRows * words, c, u, key);
      store_less(row_bits + 2 * kBlockRows * words, c, u, value);
      if constexpr (kDynamic) {
        float* row = sums + r * kRowSums;
        const F16 query_sum = add_deviations(load(row), u, query), key_sum = add_deviations(load(row + 16), u, key);
        const F16 value_sum = add_deviations(load(row + 32), u, value), mean_sum = add(load(row + 48), u);
        store(row, query_sum);
        store(row + 16, key_sum);
        store(row + 32, value_sum);
        store(row + 48, mean_sum);
      }
    }
  }
  if constexpr (kDynamic)
    for (int i = 0; i < kSums; i++) reduce_sums(sums, i, channels, means + i * kBlockRows);
}

// Scale and offset of the queries and keys of one head.
static void write_statistics(const BlockPlan& plan, int head, int first_row, int rows, const float* sums) {
  float means[kSums][kBlockRows];
  for (int i = 0; i < kSums; i++) reduce_sums(sums, i, plan.channels / plan.heads, means[i]);
  for (int r = 0; r < rows; r++) {
    const size_t i = size_t(first_row + r) * size_t(plan.heads) + size_t(head);
    plan.query_scale[i] = means[0][r];
    plan.query_offset[i] = means[1][r] + plan.query_center[head];
    plan.key_scale[i] = means[2][r];
    plan.key_offset[i] = means[3][r] + plan.key_center[head];
  }
}

// A group of q, k or v: from its counts, with its bits.
template <bool kDynamic>
struct Projection {
  const Columns<kDynamic> columns;
  const Group threshold;
  const int channel, words;
  const int32_t* const counts;
  const float* const deviations;
  uint32_t* const bits;

  Projection(const ProductPlan& product, const float* thresholds, int first, int row_words, const int32_t* from,
             const float* of_rows, uint32_t* to)
      : columns(product, first),
        threshold(load_group(thresholds + first)),
        channel(first),
        words(row_words),
        counts(from),
        deviations(of_rows),
        bits(to) {}
  // Of row r, whose input has the mean *mean.
  Group row(int r, Group u, const float* mean) const {
    const Group z = columns.product(counts + r * kProjectChunk, deviations + r, mean) + u;
    const Group value = prelu(z, columns.slope);
    store_less(bits + r * words, channel, value, threshold);
    return value;
  }
};

// A group of q, k and v from their counts, [3][kBlockRows][kProjectChunk], and their sum.
template <bool kDynamic, bool kStatistics>
static void project_columns(const BlockPlan& plan, int channel, int first_row, int rows, const int32_t* counts,
                            const float* normed, const float* means, float* sums) {
  const int channels = plan.channels, words = channels / 32;
  const size_t offset = size_t(first_row) * size_t(channels), word = offset / 32;
  constexpr int kProduct = kBlockRows * kProjectChunk;
  const auto projection = [&](int index, const ProductPlan& product, const float* thresholds, uint32_t* bits) {
    return Projection<kDynamic>(product, thresholds, channel, words, counts + index * kProduct,
                                means + index * kBlockRows, bits + word);
  };
  const float* mean = means + kMean * kBlockRows;
  float* total = plan.output_rows + offset + channel;
  if constexpr (kOnePass) {
    auto query = projection(0, plan.query, plan.query_threshold, plan.query_bits);
    auto key = projection(1, plan.key, plan.key_threshold, plan.key_bits);
    auto value = projection(2, plan.value, plan.value_threshold, plan.value_bits);
    const Group gain = load_group(plan.gain_1 + channel), shift = load_group(plan.shift_1 + channel);
    const float* x = plan.input + offset + channel;
    for (int r = 0; r < rows; r++) {
      const Group u = gain * load_group(x) + shift;
      const Group q = query.row(r, u, mean), k = key.row(r, u, mean), v = value.row(r, u, mean);
      store(total, (q + k) + v);
      if constexpr (kStatistics) {
        add_to(sums, q, query.threshold);
        add_to(sums + 32, k, key.threshold);
        sums += kRowSums;
      }
      x += channels;
      total += channels;
      mean++;
    }
  } else {
    normed += channel;
    auto query = projection(0, plan.query, plan.query_threshold, plan.query_bits);
    for (int r = 0; r < rows; r++) {
      const Group q = query.row(r, load_group(normed + r * channels), mean + r);
      store(total + r * channels, q);
      if constexpr (kStatistics) add_to(sums + r * kRowSums, q, query.threshold);
    }
    auto key = projection(1, plan.key, plan.key_threshold, plan.key_bits);
    for (int r = 0; r < rows; r++) {
      const Group k = key.row(r, load_group(normed + r * channels), mean + r);
      store(total + r * channels, load_group(total + r * channels) + k);
      if constexpr (kStatistics) add_to(sums + r * kRowSums + 32, k, key.threshold);
    }
    auto value = projection(2, plan.value, plan.value_threshold, plan.value_bits);
    for (int r = 0; r < rows; r++) {
      const Group v = value.row(r, load_group(normed + r * channels), mean + r);
      store(total + r * channels, load_group(total + r * channels) + v);
    }
  }
}

template <bool kDynamic, bool kStatistics>
static void project_rows(const BlockPlan& plan, int first_row, int rows, void* scratch) {
  const int channels = plan.channels, words = channels / 32, head_dim = channels / plan.heads;
  uint32_t* bits = at<uint32_t>(scratch, plan.scratch.bits);
  int32_t* counts = at<int32_t>(scratch, plan.scratch.counts);
  float* means = at<float>(scratch, plan.scratch.means);
  float* sums = at<float>(scratch, plan.scratch.sums);
  const ProductPlan* products[3] = {&plan.query, &plan.key, &plan.value};
  const size_t offset = size_t(first_row) * size_t(channels), bits_offset = offset / 32;
  float* normed = plan.normed ? plan.normed + offset : at<float>(scratch, plan.scratch.normed);
  pack_inputs<kDynamic>(plan, plan.input + offset, rows, normed, bits, means, sums);
  for (int chunk = 0; chunk < channels; chunk += kProjectChunk) {
    const int width = smaller(kProjectChunk, channels - chunk);
    for (int i = 0; i < 3; i++)
      xor_popcount(bits + i * kBlockRows * words, words, rows, words, products[i]->weights, chunk, width,
                   counts + i * kBlockRows * kProjectChunk, kProjectChunk);
    for (int c = 0; c < width; c += kGroup) {
      const int channel = chunk + c;
      if (kStatistics && channel % head_dim == 0) clear_sums(sums);
      project_columns<kDynamic, kStatistics>(plan, channel, first_row, rows, counts + c, normed, means, sums);
      if (kStatistics && (channel + kGroup) % head_dim == 0)
        write_statistics(plan, channel / head_dim, first_row, rows, sums);
    }
  }
  if (!plan.taps) return;
  for (int i = 0; i < 3; i++) write_tap(plan, i, bits + i * kBlockRows * words, first_row, rows, words);
  write_tap(plan, 3, plan.query_bits + bits_offset, first_row, rows, words);
  write_tap(plan, 4, plan.key_bits + bits_offset, first_row, rows, words);
  write_tap(plan, 5, plan.value_bits + bits_offset, first_row, rows, words);
}

// === Finish ===

// o from the counts of the attention and the total in `rows_out`, which it replaces; its bits and means.
template <bool kDynamic>
static void context_rows(const BlockPlan& plan, int rows, const int32_t* counts, const int32_t* kept, float* rows_out,
                         uint32_t* bits, float* means, float* sums) {
  const int channels = plan.channels, words = channels / 32, head_dim = channels / plan.heads;
  if constexpr (kDynamic) clear_sums(sums);
  for (int c = 0; c < channels; c += kGroup) {
    const int32_t* head_kept = kept + c / head_dim;
    const Group count_multiplier = load_group(plan.context_count_multiplier + c);
    const Group kept_multiplier = load_group(plan.context_kept_multiplier + c);
    const Group bias = load_group(plan.context_bias + c), slope = load_group(plan.context_slope + c);
    const Group threshold = load_group(plan.output.threshold + c);
    for (int r = 0; r < rows; r++) {
      float* out = rows_out + r * channels + c;
      const Group count = convert_group(counts + r * channels + c) * count_multiplier;
      const Group all = kept_multiplier * splat(float(head_kept[r * plan.heads]));
      const Group o = prelu(((count + all) + bias) + load_group(out), slope);
      store(out, o);
      store_less(bits + r * words, c, o, threshold);
      if constexpr (kDynamic) add_to(sums + r * kRowSums, o, threshold);
    }
  }
  if constexpr (kDynamic) reduce_input(sums, channels, means);
}

// A group of a residual product: x + (gain * prelu(product + skip, slope) + shift).
template <bool kDynamic>
struct ResidualColumns {
  Columns<kDynamic> columns;
  Group gain, shift;

  ResidualColumns(const ProductPlan& product, int channel)
      : columns(product, channel),
        gain(product.gain ? load_group(product.gain + channel) : splat_group(1.0f)),
        shift(load_group(product.shift + channel)) {}
  Group add(const float* x, const float* skip, const int32_t* counts, const float* means) const {
    const Group z = columns.product(counts, means, means + kMean * kBlockRows) + load_group(skip);
    return load_group(x) + (gain * prelu(z, columns.slope) + shift);
  }
};

// A group of y, which replaces o in `rows_out`, of w, and its bits.
template <bool kDynamic>
static void output_columns(const BlockPlan& plan, int channel, int rows, const int32_t* counts, const float* x,
                           float* rows_out, float* normed, uint32_t* bits, const float* means, float* sums) {
  const int channels = plan.channels, words = channels / 32;
  const ResidualColumns<kDynamic> output(plan.output, channel);
  const Group gain = load_group(plan.gain_2 + channel), shift = load_group(plan.shift_2 + channel);
  const Group threshold = load_group(plan.mlp_1.threshold + channel);
  x += channel;
  rows_out += channel;
  normed += channel;
  for (int r = 0; r < rows; r++) {
    const Group y = output.add(x, rows_out, counts, means);
    const Group w = gain * y + shift;
    store(rows_out, y);
    store(normed, w);
    store_less(bits, channel, w, threshold);
    if constexpr (kDynamic) {
      add_to(sums, w, threshold);
      sums += kRowSums;
    }
    x += channels;
    rows_out += channels;
    normed += channels;
    bits += words;
    counts += kBlockChunk;
    means++;
  }
}

// Averages of kRatio adjacent channels of f, where a step of `hidden_columns` has as many averages as a vector lanes:
// a0 + a1, a2 + a3, ..., b0 + b1, ...
#if defined(ACDBIT_AVX512)
static inline F16 pair_sums(F16 a, F16 b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_add_ps(_mm512_permutex2var_ps(a.v, even, b.v), _mm512_permutex2var_ps(a.v, odd, b.v))};
}
#elif defined(ACDBIT_AVX2)
static inline __m256 pair_sums(__m256 a, __m256 b) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_hadd_ps(a, b)), 0xd8));
}
static inline F16 pair_sums(F16 a, F16 b) { return {{pair_sums(a.v[0], a.v[1]), pair_sums(b.v[0], b.v[1])}}; }
#elif !defined(ACDBIT_NEON)
static inline F16 pair_sums(F16 a, F16 b) {
  F16 r;
  for (int i = 0; i < 8; i++) {
    r.v[i] = a.v[2 * i] + a.v[2 * i + 1];
    r.v[8 + i] = b.v[2 * i] + b.v[2 * i + 1];
  }
  return r;
}
#endif

// How many groups of outputs of mlp_1 `hidden_columns` takes at a time, and how many outputs make up a chunk of a
// product. A ratio of 0 stands for all others, whose averages are taken from f in memory.
#if defined(ACDBIT_NEON)
constexpr int hidden_groups(int) { return 1; }
template <int kRatio>
static inline void store_averages(float* average, Group f) {
  const float32x4_t low = vpaddq_f32(f.v0, f.v1), high = vpaddq_f32(f.v2, f.v3);
  if constexpr (kRatio == 2) {
    vst1q_f32(average, vmulq_n_f32(low, 0.5f));
    vst1q_f32(average + 4, vmulq_n_f32(high, 0.5f));
  } else {
    vst1q_f32(average, vmulq_n_f32(vpaddq_f32(low, high), 0.25f));
  }
}
#else
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
#endif
static int hidden_chunk(int ratio) { return ratio == 1 || ratio == 2 || ratio == 4 ? kBlockChunk : 32 * ratio; }

// f of hidden_groups groups: its bits and sums, and the averages; for a ratio of 0 f itself, in place of the counts.
template <bool kDynamic, bool kStatistics, int kRatio>
static void hidden_columns(const BlockPlan& plan, int channel, int rows, int32_t* counts, int stride,
                           const float* normed, uint32_t* bits, float* average, const float* means, float* sums) {
  constexpr bool kTwo = hidden_groups(kRatio) == 2;
  const int channels = plan.channels, words = plan.mlp_1.outputs / 32;
  const int next = channel + (kTwo ? kGroup : 0);
  const Columns<kDynamic> columns(plan.mlp_1, channel), next_columns(plan.mlp_1, next);
  const Group threshold = load_group(plan.mlp_2.threshold + channel);
  const Group next_threshold = load_group(plan.mlp_2.threshold + next);
  const float* next_normed = normed + next % channels;
  normed += channel % channels;
  if constexpr (kRatio > 0) average += channel / kRatio;
  for (int r = 0; r < rows; r++) {
    const float* mean = means + kMean * kBlockRows;
    const Group f = prelu(columns.product(counts, means, mean) + load_group(normed), columns.slope);
    store_less(bits, channel, f, threshold);
    if constexpr (kTwo) {
      const Group next_z = next_columns.product(counts + kGroup, means, mean) + load_group(next_normed);
      const Group next_f = prelu(next_z, next_columns.slope);
      store_less(bits, next, next_f, next_threshold);
      if constexpr (kStatistics) {
        const F16 deviation = add_deviations(load(sums), f, threshold), value = add(load(sums + 16), f);
        store(sums, add_deviations(deviation, next_f, next_threshold));
        store(sums + 16, add(value, next_f));
      }
      store_averages<kRatio>(average, f, next_f);
    } else {
      if constexpr (kStatistics) add_to(sums, f, threshold);
      if constexpr (kRatio == 0) store(reinterpret_cast<float*>(counts), f);
      if constexpr (kRatio == 1) store(average, f);
      if constexpr (kRatio > 1) store_averages<kRatio>(average, f);
    }
    counts += stride;
    normed += channels;
    next_normed += channels;
    bits += words;
    average += channels;
    means++;
    sums += kRowSums;
  }
}

// Averages of `ratio` adjacent channels, 32 to a row.
static void average_columns(int ratio, int rows, const float* f, int stride, float* average, int average_stride) {
  const float reciprocal = 1.0f / float(ratio);
  for (int r = 0; r < rows; r++, f += stride, average += average_stride) {
    for (int i = 0; i < 32; i++) {
      float total = f[i * ratio];
      for (int j = 1; j < ratio; j++) total = total + f[i * ratio + j];
      average[i] = total * reciprocal;
    }
  }
}

// The whole of mlp_1: from the bits of w to those of f, its averages and means.
template <bool kDynamic, bool kStatistics, int kRatio>
static void hidden_rows(const BlockPlan& plan, int rows, const uint32_t* bits, const float* normed, int32_t* counts,
                        uint32_t* hidden_bits, float* average, float* means, float* sums) {
  const int words = plan.channels / 32, hidden = plan.mlp_1.outputs;
  const int stride = hidden_chunk(plan.mlp_ratio);
  if constexpr (kStatistics) clear_sums(sums);
  for (int chunk = 0; chunk < hidden; chunk += stride) {
    const int width = smaller(stride, hidden - chunk);
    xor_popcount(bits, words, rows, words, plan.mlp_1.weights, chunk, width, counts, stride);
    for (int c = 0; c < width; c += hidden_groups(kRatio) * kGroup)
      hidden_columns<kDynamic, kStatistics, kRatio>(plan, chunk + c, rows, counts + c, stride, normed, hidden_bits,
                                                    average, means, sums);
    if constexpr (kRatio == 0)
      average_columns(plan.mlp_ratio, rows, reinterpret_cast<const float*>(counts), stride,
                      average + chunk / plan.mlp_ratio, plan.channels);
  }
  if constexpr (kStatistics) reduce_input(sums, hidden, means);
}

// out = y + (gain * prelu(product + average, slope) + shift), in place of y.
template <bool kDynamic>
static void mlp_2_rows(const BlockPlan& plan, int rows, const uint32_t* bits, const float* average, int32_t* counts,
                       float* rows_out, const float* means) {
  const int channels = plan.channels, words = plan.mlp_2.inputs / 32;
  for (int chunk = 0; chunk < channels; chunk += kBlockChunk) {
    const int width = smaller(kBlockChunk, channels - chunk);
    xor_popcount(bits, words, rows, words, plan.mlp_2.weights, chunk, width, counts, kBlockChunk);
    for (int c = 0; c < width; c += kGroup) {
      const ResidualColumns<kDynamic> columns(plan.mlp_2, chunk + c);
      for (int r = 0; r < rows; r++) {
        float* out = rows_out + r * channels + chunk + c;
        store(out, columns.add(out, average + r * channels + chunk + c, counts + r * kBlockChunk + c, means + r));
      }
    }
  }
}

template <bool kDynamic, bool kStatistics>
static void finish_rows(const BlockPlan& plan, int first_row, int rows, void* scratch) {
  const int channels = plan.channels, words = channels / 32;
  const size_t offset = size_t(first_row) * size_t(channels);
  uint32_t* bits = at<uint32_t>(scratch, plan.scratch.bits);
  uint32_t* hidden_bits = at<uint32_t>(scratch, plan.scratch.hidden);
  int32_t* counts = at<int32_t>(scratch, plan.scratch.counts);
  int32_t* kept = at<int32_t>(scratch, plan.scratch.kept);
  float* means = at<float>(scratch, plan.scratch.means);
  float* sums = at<float>(scratch, plan.scratch.sums);
  float* rows_out = plan.output_rows + offset;
  float* normed = plan.normed ? plan.normed + offset : at<float>(scratch, plan.scratch.normed);

  int32_t* context = at<int32_t>(scratch, plan.scratch.context);
  attention_rows(&plan.attention, first_row, rows, context, kept);
  context_rows<kDynamic>(plan, rows, context, kept, rows_out, bits, means, sums);
  if (plan.taps) write_tap(plan, 6, bits, first_row, rows, words);

  if constexpr (kDynamic) clear_sums(sums);
  uint32_t* normed_bits = bits + kBlockRows * words;
  for (int chunk = 0; chunk < channels; chunk += kBlockChunk) {
    const int width = smaller(kBlockChunk, channels - chunk);
    xor_popcount(bits, words, rows, words, plan.output.weights, chunk, width, counts, kBlockChunk);
    for (int c = 0; c < width; c += kGroup)
      output_columns<kDynamic>(plan, chunk + c, rows, counts + c, plan.input + offset, rows_out, normed, normed_bits,
                               means, sums);
  }
  if constexpr (kDynamic) reduce_input(sums, channels, means);
  if (plan.taps) write_tap(plan, 7, normed_bits, first_row, rows, words);

  float* average = at<float>(scratch, plan.scratch.context);
  auto* hidden = plan.mlp_ratio == 1   ? hidden_rows<kDynamic, kStatistics, 1>
                 : plan.mlp_ratio == 2 ? hidden_rows<kDynamic, kStatistics, 2>
                 : plan.mlp_ratio == 4 ? hidden_rows<kDynamic, kStatistics, 4>
                                       : hidden_rows<kDynamic, kStatistics, 0>;
  hidden(plan, rows, normed_bits, normed, counts, hidden_bits, average, means, sums);
  if (plan.taps) write_tap(plan, 8, hidden_bits, first_row, rows, plan.mlp_2.inputs / 32);
  mlp_2_rows<kStatistics>(plan, rows, hidden_bits, average, counts, rows_out, means);
}

}  // namespace block

// === Stages ===

static void block_project(const BlockPlan* plan, int first_row, int num_rows, void* scratch) {
  const bool dynamic = plan->query.row, statistics = plan->query_scale;
  auto* project = dynamic && statistics ? block::project_rows<true, true>
                  : dynamic             ? block::project_rows<true, false>
                  : statistics          ? block::project_rows<false, true>
                                        : block::project_rows<false, false>;
  for (int r = 0; r < num_rows; r += kBlockRows)
    project(*plan, first_row + r, block::smaller(kBlockRows, num_rows - r), scratch);
}

static void block_finish(const BlockPlan* plan, int first_row, int num_rows, void* scratch) {
  const bool dynamic = plan->output.row, statistics = plan->mlp_2.row;
  auto* finish = dynamic && statistics ? block::finish_rows<true, true>
                 : dynamic             ? block::finish_rows<true, false>
                 : statistics          ? block::finish_rows<false, true>
                                       : block::finish_rows<false, false>;
  for (int r = 0; r < num_rows; r += kBlockRows)
    finish(*plan, first_row + r, block::smaller(kBlockRows, num_rows - r), scratch);
}

// The next sixteen of a row.
static inline F16 take(const float** next) {
  const F16 values = load(*next);
  *next += 16;
#if defined(ACDBIT_NEON)
  // The load moves the pointer itself, unless GCC makes all of them one and adds the distances each time.
  asm("" : "+r"(*next));
#endif
  return values;
}

static void block_pool(const BlockPlan* plan, int first_row, int num_rows) {
  const int channels = plan->channels, width = plan->width, height = plan->height;
  const ptrdiff_t down = ptrdiff_t(width) * channels;
  for (int token = first_row; token < first_row + num_rows; token++) {
    const int i = token / width, j = token % width;
    const float* w = plan->normed + size_t(token) * size_t(channels);
    float* out = plan->output_rows + size_t(token) * size_t(channels);
    const float* up2 = i > 1 ? w - 2 * down : plan->zeros;
    const float* up1 = i > 0 ? w - down : plan->zeros;
    const float* down1 = i + 1 < height ? w + down : plan->zeros;
    const float* down2 = i + 2 < height ? w + 2 * down : plan->zeros;
    const float* left2 = j > 1 ? w - 2 * channels : plan->zeros;
    const float* left1 = j > 0 ? w - channels : plan->zeros;
    const float* right1 = j + 1 < width ? w + channels : plan->zeros;
    const float* right2 = j + 2 < width ? w + 2 * channels : plan->zeros;
    const float *down_3 = plan->pooling[0], *down_5 = plan->pooling[1];
    const float *across_3 = plan->pooling[2], *across_5 = plan->pooling[3];
    for (const float* const end = w + channels; w < end;) {
      // One direction after the other, for the sixteen channels of many tokens do not fit the registers of NEON.
      const F16 center = take(&w);
      const F16 vertical_3 = (take(&up1) + center) + take(&down1);
      F16 total = splat(0.0f) + vertical_3 * take(&down_3);
      total = total + ((vertical_3 + take(&up2)) + take(&down2)) * take(&down_5);
      const F16 horizontal_3 = (take(&left1) + center) + take(&right1);
      total = total + horizontal_3 * take(&across_3);
      total = total + ((horizontal_3 + take(&left2)) + take(&right2)) * take(&across_5);
      store(out, load(out) + total);
      out += 16;
    }
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
