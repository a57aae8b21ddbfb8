// The stages of a fused transformer block, see block.h; the arithmetic is in acdbit_keras/device_ops.py.
//
// Products run over kBlockRows rows and a chunk of outputs; then, for a group of outputs at a time (group_*.inl), the
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

// === Statistics ===

// Sums of sixteen lanes each for a row: kSums of them, kBlockRows rows.
constexpr int kSums = 4;
constexpr int kRowSums = kSums * 16;
constexpr int kMean = 3;  // of BlockScratch::means; before it the mean deviations

static inline void add_to(float* sums, Group a, Group threshold) {
  const F16 deviation = add_deviations(load(sums), a, threshold), value = add(load(sums + 16), a);
  store(sums, deviation);
  store(sums + 16, value);
}

static void clear_sums(float* sums) { memset(sums, 0, kBlockRows * kRowSums * sizeof *sums); }

// means[row] = sum `index` of the row / number
static void reduce_sums(const float* sums, int index, int number, float* means) {
  static_assert(kBlockRows % 16 == 0, "vectors of rows");
  for (int r = 0; r < kBlockRows; r += 16)
    store(means + r, sixteen_sums(sums + r * kRowSums + 16 * index, kRowSums) * splat(1.0f / float(number)));
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

// Copies the bits of some rows into their section of the taps, if there are any.
static void write_tap(uint32_t* section, const uint32_t* bits, int first_row, int rows, int words) {
  if (section == nullptr) return;
  memcpy(section + size_t(first_row) * size_t(words), bits, size_t(rows) * size_t(words) * sizeof *bits);
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
  const BlockTaps& taps = plan.taps;
  uint32_t* const inputs[3] = {taps.query_input, taps.key_input, taps.value_input};
  for (int i = 0; i < 3; i++) write_tap(inputs[i], bits + i * kBlockRows * words, first_row, rows, words);
  write_tap(taps.query, plan.query_bits + bits_offset, first_row, rows, words);
  write_tap(taps.key, plan.key_bits + bits_offset, first_row, rows, words);
  write_tap(taps.value, plan.value_bits + bits_offset, first_row, rows, words);
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
    const Group count_multiplier = load_group(plan.context.count_multiplier + c);
    const Group kept_multiplier = load_group(plan.context.kept_multiplier + c);
    const Group bias = load_group(plan.context.bias + c), slope = load_group(plan.context.slope + c);
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

// How many outputs of mlp_1 make up a chunk of a product. A ratio of 0 stands for all but 1, 2 and 4, whose averages
// are taken from f in memory.
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
  write_tap(plan.taps.output_input, bits, first_row, rows, words);

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
  write_tap(plan.taps.mlp_1_input, normed_bits, first_row, rows, words);

  float* average = at<float>(scratch, plan.scratch.context);
  auto* hidden = plan.mlp_ratio == 1   ? hidden_rows<kDynamic, kStatistics, 1>
                 : plan.mlp_ratio == 2 ? hidden_rows<kDynamic, kStatistics, 2>
                 : plan.mlp_ratio == 4 ? hidden_rows<kDynamic, kStatistics, 4>
                                       : hidden_rows<kDynamic, kStatistics, 0>;
  hidden(plan, rows, normed_bits, normed, counts, hidden_bits, average, means, sums);
  write_tap(plan.taps.mlp_2_input, hidden_bits, first_row, rows, plan.mlp_2.inputs / 32);
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

namespace block {

inline void pool_rows(const BlockPlan* plan, int first_row, int num_rows) {
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
    const float *down_3 = plan->pooling.vertical_3, *down_5 = plan->pooling.vertical_5;
    const float *across_3 = plan->pooling.horizontal_3, *across_5 = plan->pooling.horizontal_5;
    for (const float* const end = w + channels; w < end;) {
      // One direction after the other, for the sixteen channels of many tokens do not fit few registers.
      const F16 center = load_next(&w);
      const F16 vertical_3 = (load_next(&up1) + center) + load_next(&down1);
      F16 total = splat(0.0f) + vertical_3 * load_next(&down_3);
      total = total + ((vertical_3 + load_next(&up2)) + load_next(&down2)) * load_next(&down_5);
      const F16 horizontal_3 = (load_next(&left1) + center) + load_next(&right1);
      total = total + horizontal_3 * load_next(&across_3);
      total = total + ((horizontal_3 + load_next(&left2)) + load_next(&right2)) * load_next(&across_5);
      store(out, load(out) + total);
      out += 16;
    }
  }
}

inline void convolve_rows(const BlockPlan* plan, int first_row, int num_rows) {
  const int channels = plan->channels, width = plan->width, height = plan->height;
  for (int token = first_row; token < first_row + num_rows; token++) {
    const int i = token / width, j = token % width;
    const float* w[9];
    for (int k = 0; k < 9; k++) {
      const int row = i + k / 3 - 1, column = j + k % 3 - 1;
      const bool inside = row >= 0 && row < height && column >= 0 && column < width;
      w[k] = inside ? plan->normed + (size_t(row) * size_t(width) + size_t(column)) * size_t(channels) : plan->zeros;
    }
    float* out = plan->output_rows + size_t(token) * size_t(channels);
    for (int c = 0; c < channels; c += 16) {
      F16 total = splat(0.0f);
      const float* kernel = plan->depthwise + c;
      for (int k = 0; k < 9; k++, kernel += channels) total = total + load(w[k] + c) * load(kernel);
      store(out + c, load(out + c) + total);
    }
  }
}

}  // namespace block

static void block_mix(const BlockPlan* plan, int first_row, int num_rows) {
  if (plan->depthwise != nullptr) {
    block::convolve_rows(plan, first_row, num_rows);
  } else {
    block::pool_rows(plan, first_row, num_rows);
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
