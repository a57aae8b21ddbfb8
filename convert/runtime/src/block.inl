// The stages of a fused transformer block, see block.h; the arithmetic is in acdbit_keras/device_ops.py.
//
// Products run over kBlockRows rows and a chunk of outputs; then, for 32 outputs at a time (one word of bits), the
// constants are loaded once and a loop over the rows does everything that follows from the counts.

#include "block.h"

namespace acdbit {
namespace ACDBIT_ISA {
namespace block {

template <typename T>
static inline T* at(void* memory, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + offset);
}

static inline int smaller(int a, int b) { return a < b ? a : b; }

// === 32 channels, a word of bits ===

struct Pair {
  F16 low, high;
};
static inline Pair load_pair(const float* p) { return {load(p), load(p + 16)}; }
static inline Pair convert_pair(const int32_t* p) { return {convert(p), convert(p + 16)}; }
static inline void store(float* p, Pair a) {
  store(p, a.low);
  store(p + 16, a.high);
}
static inline Pair operator+(Pair a, Pair b) { return {a.low + b.low, a.high + b.high}; }
static inline Pair operator*(Pair a, Pair b) { return {a.low * b.low, a.high * b.high}; }
static inline Pair operator*(Pair a, F16 b) { return {a.low * b, a.high * b}; }
static inline Pair prelu(Pair z, Pair slope) { return {prelu(z.low, slope.low), prelu(z.high, slope.high)}; }
static inline uint32_t less(Pair a, Pair b) { return less32(a.low, b.low, a.high, b.high); }

// === Statistics ===

// Sums of sixteen lanes each for a row: kSums of them, kBlockRows rows.
constexpr int kSums = 4;
constexpr int kRowSums = kSums * 16;
constexpr int kMean = 3;  // of BlockScratch::means; before it the mean deviations

static inline F16 add(F16 sums, Pair a) { return (sums + a.low) + a.high; }
static inline F16 add_deviations(F16 sums, Pair a, Pair threshold) {
  return (sums + absolute(a.low - threshold.low)) + absolute(a.high - threshold.high);
}
static inline void add_to(float* sums, Pair a, Pair threshold) {
  const F16 deviation = add_deviations(load(sums), a, threshold), value = add(load(sums + 16), a);
  store(sums, deviation);
  store(sums + 16, value);
}

static void clear_sums(float* sums) { memset(sums, 0, kBlockRows * kRowSums * sizeof *sums); }

// Lane r = sum(load(rows + r * kRowSums)). AVX-512 folds two rows into one vector at every level of the tree.
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
  float sums[kBlockRows];
  for (int r = 0; r < kBlockRows; r++) sums[r] = sum(load(rows + r * kRowSums));
  return load(sums);
}
#endif

// means[row] = sum `index` of the row / number
static void reduce_sums(const float* sums, int index, int number, float* means) {
  static_assert(kBlockRows == 16, "a vector of rows");
  store(means, row_sums(sums + 16 * index) * splat(1.0f / float(number)));
}

// Deviation and mean of the values that are a product's only input.
static void reduce_input(const float* sums, int number, float* means) {
  reduce_sums(sums, 0, number, means);
  reduce_sums(sums, 1, number, means + kMean * kBlockRows);
}

// === Products ===

// Constants of 32 outputs of a product, and the product of one row from its counts and, if dynamic, the mean deviation
// and the mean of its input.
template <bool kDynamic>
struct Columns;

template <>
struct Columns<false> {
  Pair multiplier, bias, slope;

  Columns(const ProductPlan& product, int output)
      : multiplier(load_pair(product.multiplier + output)),
        bias(load_pair(product.bias + output)),
        slope(load_pair(product.slope + output)) {}
  Pair product(const int32_t* counts, const float*, const float*) const {
    return convert_pair(counts) * multiplier + bias;
  }
};

template <>
struct Columns<true> {
  Pair multiplier, bias, slope, row, restore;

  Columns(const ProductPlan& product, int output)
      : multiplier(load_pair(product.multiplier + output)),
        bias(load_pair(product.bias + output)),
        slope(load_pair(product.slope + output)),
        row(load_pair(product.row + output)),
        restore(load_pair(product.restore + output)) {}
  Pair product(const int32_t* counts, const float* deviation, const float* mean) const {
    return ((convert_pair(counts) * multiplier + row) * splat(*deviation) + restore * splat(*mean)) + bias;
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

// Bits of u = gain_1 * x + shift_1 for query, key and value, [3][kBlockRows][words], and its means.
template <bool kDynamic>
static void pack_inputs(const BlockPlan& plan, const float* x, int rows, uint32_t* bits, float* means, float* sums) {
  const int channels = plan.channels, words = channels / 32;
  if constexpr (kDynamic) clear_sums(sums);
  for (int c = 0; c < channels; c += 32) {
    const Pair gain = load_pair(plan.gain_1 + c), shift = load_pair(plan.shift_1 + c);
    const Pair query = load_pair(plan.query.threshold + c);
    const Pair key = load_pair(plan.key.threshold + c);
    const Pair value = load_pair(plan.value.threshold + c);
    for (int r = 0; r < rows; r++) {
      const Pair u = gain * load_pair(x + r * channels + c) + shift;
      uint32_t* word = bits + r * words + c / 32;
      word[0] = less(u, query);
      word[kBlockRows * words] = less(u, key);
      word[2 * kBlockRows * words] = less(u, value);
      if constexpr (kDynamic) {
        float* row = sums + r * kRowSums;
        const F16 query_sum = add_deviations(load(row), u, query), key_sum = add_deviations(load(row + 16), u, key);
        const F16 value_sum = add_deviations(load(row + 32), u, value), mean_sum = add(load(row + 48), u);
        store(row, {query_sum, key_sum});
        store(row + 32, {value_sum, mean_sum});
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

// Channels [channel, channel + 32) of q, k and v from their counts, [3][kBlockRows][kProjectChunk].
template <bool kDynamic, bool kStatistics>
static void project_columns(const BlockPlan& plan, int channel, int first_row, int rows, const int32_t* counts,
                            const float* means, float* sums) {
  const size_t channels = size_t(plan.channels), words = channels / 32;
  const float* x = plan.input + size_t(first_row) * channels + channel;
  float* total = plan.output_rows + size_t(first_row) * channels + channel;
  const size_t word = size_t(first_row) * words + size_t(channel / 32);
  uint32_t* query_bits = plan.query_bits + word;
  uint32_t* key_bits = plan.key_bits + word;
  uint32_t* value_bits = plan.value_bits + word;
  const Pair gain = load_pair(plan.gain_1 + channel), shift = load_pair(plan.shift_1 + channel);
  const Columns<kDynamic> query(plan.query, channel), key(plan.key, channel), value(plan.value, channel);
  const Pair query_threshold = load_pair(plan.query_threshold + channel);
  const Pair key_threshold = load_pair(plan.key_threshold + channel);
  const Pair value_threshold = load_pair(plan.value_threshold + channel);
  constexpr int kProduct = kBlockRows * kProjectChunk;
  for (int r = 0; r < rows; r++) {
    const float* mean = means + kMean * kBlockRows;
    const Pair u = gain * load_pair(x) + shift;
    const Pair query_sum = query.product(counts, means, mean) + u;
    const Pair key_sum = key.product(counts + kProduct, means + kBlockRows, mean) + u;
    const Pair value_sum = value.product(counts + 2 * kProduct, means + 2 * kBlockRows, mean) + u;
    const Pair q = prelu(query_sum, query.slope), k = prelu(key_sum, key.slope), v = prelu(value_sum, value.slope);
    store(total, (q + k) + v);
    *query_bits = less(q, query_threshold);
    *key_bits = less(k, key_threshold);
    *value_bits = less(v, value_threshold);
    if constexpr (kStatistics) {
      add_to(sums, q, query_threshold);
      add_to(sums + 32, k, key_threshold);
      sums += kRowSums;
    }
    x += channels;
    total += channels;
    counts += kProjectChunk;
    means++;
    query_bits += words;
    key_bits += words;
    value_bits += words;
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
  pack_inputs<kDynamic>(plan, plan.input + size_t(first_row) * size_t(channels), rows, bits, means, sums);
  for (int chunk = 0; chunk < channels; chunk += kProjectChunk) {
    const int width = smaller(kProjectChunk, channels - chunk);
    for (int i = 0; i < 3; i++)
      xor_popcount(bits + i * kBlockRows * words, words, rows, words, products[i]->weights, chunk, width,
                   counts + i * kBlockRows * kProjectChunk, kProjectChunk);
    for (int c = 0; c < width; c += 32) {
      const int channel = chunk + c;
      if (kStatistics && channel % head_dim == 0) clear_sums(sums);
      project_columns<kDynamic, kStatistics>(plan, channel, first_row, rows, counts + c, means, sums);
      if (kStatistics && (channel + 32) % head_dim == 0)
        write_statistics(plan, channel / head_dim, first_row, rows, sums);
    }
  }
  if (!plan.taps) return;
  const size_t offset = size_t(first_row) * size_t(words);
  for (int i = 0; i < 3; i++) write_tap(plan, i, bits + i * kBlockRows * words, first_row, rows, words);
  write_tap(plan, 3, plan.query_bits + offset, first_row, rows, words);
  write_tap(plan, 4, plan.key_bits + offset, first_row, rows, words);
  write_tap(plan, 5, plan.value_bits + offset, first_row, rows, words);
}

// === Finish ===

// o from the counts of the attention and the total in `rows_out`, which it replaces; its bits and means.
template <bool kDynamic>
static void context_rows(const BlockPlan& plan, int rows, const int32_t* counts, const int32_t* kept, float* rows_out,
                         uint32_t* bits, float* means, float* sums) {
  const int channels = plan.channels, words = channels / 32, head_dim = channels / plan.heads;
  if constexpr (kDynamic) clear_sums(sums);
  for (int c = 0; c < channels; c += 32) {
    const int32_t* head_kept = kept + c / head_dim;
    const Pair count_multiplier = load_pair(plan.context_count_multiplier + c);
    const Pair kept_multiplier = load_pair(plan.context_kept_multiplier + c);
    const Pair bias = load_pair(plan.context_bias + c), slope = load_pair(plan.context_slope + c);
    const Pair threshold = load_pair(plan.output.threshold + c);
    for (int r = 0; r < rows; r++) {
      float* out = rows_out + r * channels + c;
      const Pair count = convert_pair(counts + r * channels + c) * count_multiplier;
      const Pair all = kept_multiplier * splat(float(head_kept[r * plan.heads]));
      const Pair o = prelu(((count + all) + bias) + load_pair(out), slope);
      store(out, o);
      bits[r * words + c / 32] = less(o, threshold);
      if constexpr (kDynamic) add_to(sums + r * kRowSums, o, threshold);
    }
  }
  if constexpr (kDynamic) reduce_input(sums, channels, means);
}

// 32 channels of a residual product: x + (gain * prelu(product + skip, slope) + shift).
template <bool kDynamic>
struct ResidualColumns {
  Columns<kDynamic> columns;
  Pair gain, shift;

  ResidualColumns(const ProductPlan& product, int channel)
      : columns(product, channel),
        gain(product.gain ? load_pair(product.gain + channel) : Pair{splat(1.0f), splat(1.0f)}),
        shift(load_pair(product.shift + channel)) {}
  Pair add(const float* x, const float* skip, const int32_t* counts, const float* means) const {
    const Pair z = columns.product(counts, means, means + kMean * kBlockRows) + load_pair(skip);
    return load_pair(x) + (gain * prelu(z, columns.slope) + shift);
  }
};

// Channels [channel, channel + 32) of y, which replaces o in `rows_out`, of w, and its bits.
template <bool kDynamic>
static void output_columns(const BlockPlan& plan, int channel, int rows, const int32_t* counts, const float* x,
                           float* rows_out, float* normed, uint32_t* bits, const float* means, float* sums) {
  const int channels = plan.channels, words = channels / 32;
  const ResidualColumns<kDynamic> output(plan.output, channel);
  const Pair gain = load_pair(plan.gain_2 + channel), shift = load_pair(plan.shift_2 + channel);
  const Pair threshold = load_pair(plan.mlp_1.threshold + channel);
  x += channel;
  rows_out += channel;
  normed += channel;
  bits += channel / 32;
  for (int r = 0; r < rows; r++) {
    const Pair y = output.add(x, rows_out, counts, means);
    const Pair w = gain * y + shift;
    store(rows_out, y);
    store(normed, w);
    *bits = less(w, threshold);
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
#elif defined(ACDBIT_NEON)
static inline F16 pair_sums(F16 a, F16 b) {
  return {vpaddq_f32(a.v0, a.v1), vpaddq_f32(a.v2, a.v3), vpaddq_f32(b.v0, b.v1), vpaddq_f32(b.v2, b.v3)};
}
#else
static inline F16 pair_sums(F16 a, F16 b) {
  F16 r;
  for (int i = 0; i < 8; i++) {
    r.v[i] = a.v[2 * i] + a.v[2 * i + 1];
    r.v[8 + i] = b.v[2 * i] + b.v[2 * i + 1];
  }
  return r;
}
#endif
static inline F16 pair_sums(Pair a) { return pair_sums(a.low, a.high); }

// Outputs of mlp_1 that `hidden_columns` works on at a time, and how many of them make up a chunk of a product. A ratio
// of 0 stands for all others, whose averages are taken from f in memory.
constexpr int hidden_step(int ratio) { return ratio == 4 ? 64 : 32; }
static int hidden_chunk(int ratio) { return ratio == 1 || ratio == 2 || ratio == 4 ? kBlockChunk : 32 * ratio; }

// f of hidden_step channels: its bits and sums, and the averages; for a ratio of 0 f itself, in place of the counts.
template <bool kDynamic, bool kStatistics, int kRatio>
static void hidden_columns(const BlockPlan& plan, int channel, int rows, int32_t* counts, int stride,
                           const float* normed, uint32_t* bits, float* average, const float* means, float* sums) {
  const int channels = plan.channels, words = plan.mlp_1.outputs / 32;
  const int next = channel + hidden_step(kRatio) - 32;  // the second 32 channels of a step, if it has them
  const Columns<kDynamic> columns(plan.mlp_1, channel), next_columns(plan.mlp_1, next);
  const Pair threshold = load_pair(plan.mlp_2.threshold + channel);
  const Pair next_threshold = load_pair(plan.mlp_2.threshold + next);
  const float* next_normed = normed + next % channels;
  normed += channel % channels;
  bits += channel / 32;
  if constexpr (kRatio > 0) average += channel / kRatio;
  for (int r = 0; r < rows; r++) {
    const Pair z = columns.product(counts, means, means + kMean * kBlockRows) + load_pair(normed);
    if constexpr (kRatio == 4) {
      const Pair next_z =
          next_columns.product(counts + 32, means, means + kMean * kBlockRows) + load_pair(next_normed);
      const Pair f = prelu(z, columns.slope), next_f = prelu(next_z, next_columns.slope);
      bits[0] = less(f, threshold);
      bits[1] = less(next_f, next_threshold);
      if constexpr (kStatistics) {
        const F16 deviation = add_deviations(load(sums), f, threshold), value = add(load(sums + 16), f);
        store(sums, {add_deviations(deviation, next_f, next_threshold), add(value, next_f)});
      }
      store(average, pair_sums(pair_sums(f), pair_sums(next_f)) * splat(0.25f));
    } else {
      const Pair f = prelu(z, columns.slope);
      bits[0] = less(f, threshold);
      if constexpr (kStatistics) add_to(sums, f, threshold);
      if constexpr (kRatio == 0) store(reinterpret_cast<float*>(counts), f);
      if constexpr (kRatio == 1) store(average, f);
      if constexpr (kRatio == 2) store(average, pair_sums(f) * splat(0.5f));
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
    for (int c = 0; c < width; c += hidden_step(kRatio))
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
    for (int c = 0; c < width; c += 32) {
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
    for (int c = 0; c < width; c += 32)
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
    for (int c = 0; c < channels; c += 16) {
      const F16 center = load(w + c);
      const F16 vertical_3 = (load(up1 + c) + center) + load(down1 + c);
      const F16 horizontal_3 = (load(left1 + c) + center) + load(right1 + c);
      const F16 vertical_5 = (vertical_3 + load(up2 + c)) + load(down2 + c);
      const F16 horizontal_5 = (horizontal_3 + load(left2 + c)) + load(right2 + c);
      F16 total = splat(0.0f) + vertical_3 * load(plan->pooling[0] + c);
      total = total + vertical_5 * load(plan->pooling[1] + c);
      total = total + horizontal_3 * load(plan->pooling[2] + c);
      total = total + horizontal_5 * load(plan->pooling[3] + c);
      store(out + c, load(out + c) + total);
    }
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
