// A fused transformer block one output channel at a time, for all tokens; the arithmetic is in
// acdbit_keras/device_ops.py, and every bit that of block.inl.
//
// For an output its weights and constants are loaded once - from flash, in the precision the file has them in - and the
// loops over the tokens keep them in registers. Attention is done head by head, in the memory of one. T is what the
// vectors are stored as: float, or Half.
#include "half.h"

namespace acdbit {
namespace ACDBIT_ISA {
namespace block {

struct Half {
  uint16_t bits;
  explicit operator float() const { return widened(bits); }
};

// === Constants ===

template <typename T>
struct Product {
  int inputs, outputs;
  const uint32_t* weights;
  const T *threshold, *multiplier, *bias, *slope, *row, *restore, *gain, *shift;
};

template <typename T>
struct Constants {
  const T *gain_1, *shift_1, *query_threshold, *key_threshold, *value_threshold, *score_scale, *probability_scale;
  const T *key_weights, *query_center, *key_center, *gain_2, *shift_2;
  Product<T> query, key, value, output, mlp_1, mlp_2;
  struct {
    const T *count_multiplier, *kept_multiplier, *bias, *slope;
  } context;
  struct {
    const T *vertical_3, *vertical_5, *horizontal_3, *horizontal_5;
  } pooling;
  const T* depthwise;

  Constants(const BlockOptions& options, int num_channels, const T* vectors, const uint32_t* kernels) {
    const size_t channels = size_t(num_channels), heads = size_t(options.heads);
    const size_t hidden = channels * size_t(options.mlp_ratio);
#define ACDBIT_TAKE(name, length, given) \
  name = (given) ? vectors : nullptr;    \
  vectors += (given) ? (length) : 0;
    ACDBIT_BLOCK_VECTORS(ACDBIT_TAKE)
#undef ACDBIT_TAKE
#define ACDBIT_TAKE(name, num_outputs, num_inputs) \
  name.inputs = int(num_inputs);                   \
  name.outputs = int(num_outputs);                 \
  name.weights = kernels;                          \
  kernels += (num_outputs) * ((num_inputs) / kWordBits);
    ACDBIT_BLOCK_KERNELS(ACDBIT_TAKE)
#undef ACDBIT_TAKE
  }
};

// === Memory ===

constexpr int kLanesOfRow = 4 * 16;  // sums of four statistics in sixteen lanes

struct Memory {
  size_t inputs;      // uint32_t [3][tokens][words]: of query, key, value; then of output and of mlp_1
  size_t bits;        // uint32_t [3][tokens][words]: query, key, value
  size_t hidden;      // uint32_t [tokens][hidden words]
  size_t counts;      // int32_t [3][tokens]
  size_t columns;     // float [mlp_ratio][tokens]: f of the channels of an average
  size_t normed;      // float [tokens][channels]: w
  size_t means;       // float [4][tokens]: mean deviations of up to three products' inputs, and the mean
  size_t lanes;       // float [tokens][4][16], dynamic statistics only
  size_t statistics;  // float [4][heads][tokens], dynamic attention only
  size_t head;        // float [7 head_dim + 2]: constants of a head
  size_t kept;        // int32_t [head_dim + 1]: counts of a row
  size_t attention;   // workspace of a head
  Layout layout;

  Memory(const BlockOptions& options, int channels, int tokens) {
    const size_t n = size_t(tokens), words = size_t(channels) / kWordBits, ratio = size_t(options.mlp_ratio);
    const size_t head_dim = size_t(channels / options.heads);
    inputs = layout.add(3 * n * words, sizeof(uint32_t));
    bits = layout.add(3 * n * words, sizeof(uint32_t));
    hidden = layout.add(n * words * ratio, sizeof(uint32_t));
    counts = layout.add(3 * n, sizeof(int32_t));
    columns = layout.add(ratio * n, sizeof(float));
    normed = layout.add(n * size_t(channels), sizeof(float));
    const bool dynamic = options.dynamic_activation || options.dynamic_hidden || options.dynamic_attention;
    means = layout.add(dynamic ? 4 * n : 0, sizeof(float));
    lanes = layout.add(options.dynamic_hidden || options.dynamic_attention ? kLanesOfRow * n : 0, sizeof(float));
    statistics = layout.add(options.dynamic_attention ? 4 * n * size_t(options.heads) : 0, sizeof(float));
    head = layout.add(7 * head_dim + 2, sizeof(float));
    kept = layout.add(head_dim + 1, sizeof(int32_t));
    attention = layout.add(attention_workspace_bytes(1, int(head_dim), tokens), 1);
  }
};

template <typename T>
static inline T* at(void* memory, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + offset);
}

// === One output ===

static inline float prelu(float z, float slope) { return z > 0.0f ? z : slope * z; }

// The constants of an output, and its product from a count.
template <bool kDynamic>
struct Column {
  float multiplier, bias, slope, row, restore;

  template <typename T>
  Column(const Product<T>& product, int output)
      : multiplier(float(product.multiplier[output])),
        bias(float(product.bias[output])),
        slope(float(product.slope[output])),
        row(kDynamic ? float(product.row[output]) : 0.0f),
        restore(kDynamic ? float(product.restore[output]) : 0.0f) {}
  float product(int32_t count, const float* deviation, const float* mean) const {
    if constexpr (kDynamic) return ((float(count) * multiplier + row) * *deviation + restore * *mean) + bias;
    return float(count) * multiplier + bias;
  }
};

// The first output of a word clears what was there.
static inline void set_bit(uint32_t* word, uint32_t bit, bool is) {
  const uint32_t before = bit == 1u ? 0u : *word;
  *word = is ? before | bit : before;
}

// === Statistics ===

static inline float of_lanes(const float* lanes, float reciprocal) {
  F16 all;
  memcpy(all.v, lanes, sizeof all.v);
  return sum(all) * reciprocal;
}

// Mean deviations from up to three thresholds, and the mean, of rows of `value(row, channel)`: [4][rows], the mean
// last.
template <typename T, int kThresholds, typename Value>
static void input_means(int rows, int channels, const T* const* thresholds, const Value& value, float* means) {
  for (int r = 0; r < rows; r++) {
    float lanes[4][16] = {};
    for (int c = 0; c < channels; c++) {
      const float v = value(r, c);
      for (int i = 0; i < kThresholds; i++) lanes[i][c % 16] += __builtin_fabsf(v - float(thresholds[i][c]));
      lanes[3][c % 16] += v;
    }
    for (int i = 0; i < 4; i++)
      if (i < kThresholds || i == 3) means[i * rows + r] = of_lanes(lanes[i], 1.0f / float(channels));
  }
}

static inline void add_to(float* lanes, int channel, float value, float threshold) {
  lanes[channel % 16] += __builtin_fabsf(value - threshold);
  lanes[16 + channel % 16] += value;
}

// === The stages ===

template <typename T>
struct Run {
  const model::Block& block;
  const Constants<T> constants;
  const Memory memory;
  void* const scratch;
  float* const x;  // and then the averages of f
  float* const y;  // q + k + v, then o, then y
  const int tokens, channels, words;

  Run(const model::Block& of, float* input, float* output, void* memory_of_call)
      : block(of),
        constants(of.options, of.channels, static_cast<const T*>(of.vectors), of.kernels),
        memory(of.options, of.channels, of.height * of.width),
        scratch(memory_of_call),
        x(input),
        y(output),
        tokens(of.height * of.width),
        channels(of.channels),
        words(of.channels / kWordBits) {}

  uint32_t* bits(size_t offset, int number) const { return at<uint32_t>(scratch, offset) + number * tokens * words; }
  float* means() const { return at<float>(scratch, memory.means); }
  int32_t* counts() const { return at<int32_t>(scratch, memory.counts); }
  float* normed() const { return at<float>(scratch, memory.normed); }

  void count(const Product<T>& product, const uint32_t* rows, int output, int32_t* to) const {
    const int row_words = product.inputs / kWordBits;
    count_output(rows, row_words, tokens, product.weights + ptrdiff_t(output) * row_words, to);
  }

  // Bits of u for query, key and value.
  void pack_inputs() const {
    uint32_t *const q = bits(memory.inputs, 0), *const k = bits(memory.inputs, 1), *const v = bits(memory.inputs, 2);
    for (int c = 0; c < channels; c += 2) {
      float gain[2], shift[2], query[2], key[2], value[2];
      for (int i = 0; i < 2; i++) {
        gain[i] = float(constants.gain_1[c + i]);
        shift[i] = float(constants.shift_1[c + i]);
        query[i] = float(constants.query.threshold[c + i]);
        key[i] = float(constants.key.threshold[c + i]);
        value[i] = float(constants.value.threshold[c + i]);
      }
      const uint32_t first = 1u << (c % 32), second = first << 1, keep = first == 1u ? 0u : ~0u;
      const float* from = x + c;
      for (int at_word = c / 32, last = at_word + tokens * words; at_word != last; at_word += words, from += channels) {
        const float u0 = gain[0] * from[0] + shift[0], u1 = gain[1] * from[1] + shift[1];
        uint32_t word = q[at_word] & keep;
        if (u0 < query[0]) word |= first;
        if (u1 < query[1]) word |= second;
        q[at_word] = word;
        word = k[at_word] & keep;
        if (u0 < key[0]) word |= first;
        if (u1 < key[1]) word |= second;
        k[at_word] = word;
        word = v[at_word] & keep;
        if (u0 < value[0]) word |= first;
        if (u1 < value[1]) word |= second;
        v[at_word] = word;
      }
    }
  }

  // Bits of q, k and v and their sum, of output c.
  template <bool kDynamic, bool kStatistics>
  void project_output(int c, float* lanes) const {
    const uint32_t bit = 1u << (c % 32);
    const int32_t *query_count = counts(), *key_count = query_count + tokens, *value_count = key_count + tokens;
    const Column<kDynamic> query(constants.query, c), key(constants.key, c), value(constants.value, c);
    const float query_threshold = float(constants.query_threshold[c]),
                key_threshold = float(constants.key_threshold[c]);
    const float value_threshold = float(constants.value_threshold[c]);
    const float gain = float(constants.gain_1[c]), shift = float(constants.shift_1[c]);
    uint32_t *q_bits = bits(memory.bits, 0) + c / 32, *k_bits = bits(memory.bits, 1) + c / 32;
    uint32_t* v_bits = bits(memory.bits, 2) + c / 32;
    const float* deviation = kDynamic ? means() : nullptr;
    const float* from = x + c;
    float* to = y + c;
    for (int r = 0; r < tokens; r++) {
      const float u = gain * *from + shift;
      const float* const key_deviation = kDynamic ? deviation + tokens : nullptr;
      const float* const value_deviation = kDynamic ? deviation + 2 * tokens : nullptr;
      const float* const mean = kDynamic ? deviation + 3 * tokens : nullptr;
      const float q = prelu(query.product(*query_count++, deviation, mean) + u, query.slope);
      const float k = prelu(key.product(*key_count++, key_deviation, mean) + u, key.slope);
      const float v = prelu(value.product(*value_count++, value_deviation, mean) + u, value.slope);
      set_bit(q_bits, bit, q < query_threshold);
      set_bit(k_bits, bit, k < key_threshold);
      set_bit(v_bits, bit, v < value_threshold);
      *to = (q + k) + v;
      if constexpr (kStatistics) {
        add_to(lanes, c, q, query_threshold);
        add_to(lanes + 32, c, k, key_threshold);
        lanes += kLanesOfRow;
      }
      q_bits += words;
      k_bits += words;
      v_bits += words;
      from += channels;
      to += channels;
      if constexpr (kDynamic) deviation++;
    }
  }

  template <bool kDynamic, bool kStatistics>
  void project() const {
    const int head_dim = channels / block.options.heads;
    float* const lanes = at<float>(scratch, memory.lanes);
    pack_inputs();
    if constexpr (kDynamic) {
      const T* const thresholds[] = {constants.query.threshold, constants.key.threshold, constants.value.threshold};
      input_means<T, 3>(
          tokens, channels, thresholds,
          [&](int r, int c) { return float(constants.gain_1[c]) * x[r * channels + c] + float(constants.shift_1[c]); },
          means());
    }
    for (int c = 0; c < channels; c++) {
      if (kStatistics && c % head_dim == 0) memset(lanes, 0, size_t(tokens) * kLanesOfRow * sizeof *lanes);
      count(constants.query, bits(memory.inputs, 0), c, counts());
      count(constants.key, bits(memory.inputs, 1), c, counts() + tokens);
      count(constants.value, bits(memory.inputs, 2), c, counts() + 2 * tokens);
      project_output<kDynamic, kStatistics>(c, lanes);
      if (kStatistics && (c + 1) % head_dim == 0) write_statistics(c / head_dim, lanes);
    }
  }

  float* statistics(int number, int head) const {
    return at<float>(scratch, memory.statistics) + (ptrdiff_t(number) * block.options.heads + head) * tokens;
  }

  void write_statistics(int head, const float* lanes) const {
    const float reciprocal = 1.0f / float(channels / block.options.heads);
    const float query_center = float(constants.query_center[head]), key_center = float(constants.key_center[head]);
    for (int r = 0; r < tokens; r++, lanes += kLanesOfRow) {
      statistics(0, head)[r] = of_lanes(lanes, reciprocal);
      statistics(1, head)[r] = of_lanes(lanes + 16, reciprocal) + query_center;
      statistics(2, head)[r] = of_lanes(lanes + 32, reciprocal);
      statistics(3, head)[r] = of_lanes(lanes + 48, reciprocal) + key_center;
    }
  }

  // o of a head, in place of q + k + v, and its bits.
  void attend(int head) const {
    const int head_dim = channels / block.options.heads, first = head * head_dim;
    float* const widened = at<float>(scratch, memory.head);
    const auto widen = [&](const T* from, int number) {
      float* const to = widened + number * head_dim;
      for (int i = 0; i < head_dim; i++) to[i] = float(from[first + i]);
      return to;
    };
    const float* const count_multiplier = widen(constants.context.count_multiplier, 0);
    const float* const kept_multiplier = widen(constants.context.kept_multiplier, 1);
    const float* const bias = widen(constants.context.bias, 2);
    const float* const slope = widen(constants.context.slope, 3);
    const float* const threshold = widen(constants.output.threshold, 4);
    float* const scales = widened + 7 * head_dim;
    scales[0] = float(constants.score_scale[head]);
    scales[1] = float(constants.probability_scale[head]);

    const bool dynamic = block.options.dynamic_attention;
    const ptrdiff_t head_words = first / kWordBits;
    AttentionPlan plan = {};
    plan.heads = 1;
    plan.head_dim = head_dim;
    plan.queries = plan.keys = tokens;
    plan.rule = block.options.rule;
    plan.ratio = block.options.ratio;
    plan.query = bits(memory.bits, 0) + head_words;
    plan.key = bits(memory.bits, 1) + head_words;
    plan.value = bits(memory.bits, 2) + head_words;
    plan.query_stride = plan.key_stride = plan.value_stride = words;
    plan.score_scale = scales;
    plan.probability_scale = scales + 1;
    plan.key_weights = constants.key_weights ? widen(constants.key_weights, 5) : nullptr;
    if (dynamic) {
      plan.query_scale = statistics(0, head);
      plan.query_offset = statistics(1, head);
      plan.key_scale = statistics(2, head);
      plan.key_offset = statistics(3, head);
    }
    plan.table = block.table ? block.table + ptrdiff_t(head) * (head_dim + 1) : nullptr;
    plan.workspace = at<void>(scratch, memory.attention);
    attention_keys(&plan, 0);

    int32_t* const kept = at<int32_t>(scratch, memory.kept);
    int32_t* const of_channel = kept + 1;
    uint32_t* to_bits = bits(memory.inputs, 0) + head_words;
    float* out = y + first;
    for (int r = 0; r < tokens; r++, out += channels, to_bits += words) {
      attention_rows(&plan, r, 1, of_channel, kept);
      const float all = float(*kept);
      for (int c = 0; c < head_dim; c++) {
        const float z = ((float(of_channel[c]) * count_multiplier[c] + kept_multiplier[c] * all) + bias[c]) + out[c];
        const float o = prelu(z, slope[c]);
        out[c] = o;
        set_bit(to_bits + c / 32, 1u << (c % 32), o < threshold[c]);
      }
    }
  }

  // y, in place of o, and w with its bits, of output c.
  template <bool kDynamic>
  void output(int c) const {
    const uint32_t bit = 1u << (c % 32);
    const Column<kDynamic> column(constants.output, c);
    const float out_gain = constants.output.gain ? float(constants.output.gain[c]) : 1.0f;
    const float out_shift = float(constants.output.shift[c]), gain = float(constants.gain_2[c]);
    const float shift = float(constants.shift_2[c]), threshold = float(constants.mlp_1.threshold[c]);
    const int32_t* of = counts();
    const float* deviation = kDynamic ? means() : nullptr;
    const float* from = x + c;
    float *to = y + c, *to_normed = normed() + c;
    uint32_t* to_bits = bits(memory.inputs, 1) + c / 32;
    for (int r = 0; r < tokens; r++) {
      const float* const mean = kDynamic ? deviation + 3 * tokens : nullptr;
      const float z = column.product(*of++, deviation, mean) + *to;
      const float value = *from + (out_gain * prelu(z, column.slope) + out_shift);
      const float w = gain * value + shift;
      *to = value;
      *to_normed = w;
      set_bit(to_bits, bit, w < threshold);
      from += channels;
      to += channels;
      to_normed += channels;
      to_bits += words;
      if constexpr (kDynamic) deviation++;
    }
  }

  // f of hidden channel h to `column`, and its bits.
  template <bool kDynamic, bool kStatistics>
  void hidden(int h, float* column, float* lanes) const {
    const int row_words = constants.mlp_1.outputs / kWordBits;
    const uint32_t bit = 1u << (h % 32);
    const Column<kDynamic> constant(constants.mlp_1, h);
    const float threshold = float(constants.mlp_2.threshold[h]);
    const int32_t* of = counts();
    const float* deviation = kDynamic ? means() : nullptr;
    const float* from = normed() + h % channels;
    uint32_t* to_bits = at<uint32_t>(scratch, memory.hidden) + h / 32;
    for (int r = 0; r < tokens; r++) {
      const float* const mean = kDynamic ? deviation + 3 * tokens : nullptr;
      const float f = prelu(constant.product(*of++, deviation, mean) + *from, constant.slope);
      *column++ = f;
      set_bit(to_bits, bit, f < threshold);
      if constexpr (kStatistics) {
        add_to(lanes, h, f, threshold);
        lanes += kLanesOfRow;
      }
      from += channels;
      to_bits += row_words;
      if constexpr (kDynamic) deviation++;
    }
  }

  // The averages of `ratio` columns of f, in place of x.
  void average(int c, const float* columns) const {
    const int ratio = block.options.mlp_ratio;
    const float reciprocal = 1.0f / float(ratio);
    float* to = x + c;
    for (int r = 0; r < tokens; r++, columns++, to += channels) {
      float total = columns[0];
      if (ratio == 4) {
        total = (total + columns[tokens]) + (columns[2 * tokens] + columns[3 * tokens]);
      } else {
        for (int i = 1; i < ratio; i++) total += columns[i * tokens];
      }
      *to = total * reciprocal;
    }
  }

  // y of output c at last, without the pooling.
  template <bool kDynamic>
  void residual(int c) const {
    const Column<kDynamic> column(constants.mlp_2, c);
    const float gain = constants.mlp_2.gain ? float(constants.mlp_2.gain[c]) : 1.0f;
    const float shift = float(constants.mlp_2.shift[c]);
    const int32_t* of = counts();
    const float* deviation = kDynamic ? means() : nullptr;
    const float* from = x + c;
    float* to = y + c;
    for (int r = 0; r < tokens; r++) {
      const float* const mean = kDynamic ? deviation + 3 * tokens : nullptr;
      const float z = column.product(*of++, deviation, mean) + *from;
      *to = *to + (gain * prelu(z, column.slope) + shift);
      from += channels;
      to += channels;
      if constexpr (kDynamic) deviation++;
    }
  }

  template <bool kDynamic, bool kStatistics>
  void finish() const {
    for (int head = 0; head < block.options.heads; head++) attend(head);
    if constexpr (kDynamic)
      input_means<T, 1>(
          tokens, channels, &constants.output.threshold, [&](int r, int c) { return y[r * channels + c]; }, means());
    for (int c = 0; c < channels; c++) {
      count(constants.output, bits(memory.inputs, 0), c, counts());
      output<kDynamic>(c);
    }
    if constexpr (kDynamic)
      input_means<T, 1>(
          tokens, channels, &constants.mlp_1.threshold, [&](int r, int c) { return normed()[r * channels + c]; },
          means());
    const int ratio = block.options.mlp_ratio, num_hidden = constants.mlp_1.outputs;
    float *const columns = at<float>(scratch, memory.columns), *const lanes = at<float>(scratch, memory.lanes);
    if constexpr (kStatistics) memset(lanes, 0, size_t(tokens) * kLanesOfRow * sizeof *lanes);
    for (int h = 0; h < num_hidden; h++) {
      count(constants.mlp_1, bits(memory.inputs, 1), h, counts());
      hidden<kDynamic, kStatistics>(h, columns + ptrdiff_t(h % ratio) * tokens, lanes);
      if ((h + 1) % ratio == 0) average(h / ratio, columns);
    }
    if constexpr (kStatistics) {
      float* const to = means();
      for (int r = 0; r < tokens; r++) {
        to[r] = of_lanes(lanes + r * kLanesOfRow, 1.0f / float(num_hidden));
        to[3 * tokens + r] = of_lanes(lanes + r * kLanesOfRow + 16, 1.0f / float(num_hidden));
      }
    }
    for (int c = 0; c < channels; c++) {
      count(constants.mlp_2, at<const uint32_t>(scratch, memory.hidden), c, counts());
      residual<kStatistics>(c);
    }
  }

  // The sums of three and of five neighbours of each token on a line of w, `step` apart, times their constants, added
  // to `totals`, or without kAdd put there; a neighbour that is not there counts as 0.
  template <bool kAdd>
  static void pool_line(const float* w, int step, int length, float three, float five, float* totals) {
    float before_2 = 0.0f, before_1 = 0.0f, here = *w, after_1 = length > 1 ? w[step] : 0.0f;
    const float* const end = w + ptrdiff_t(length) * step;
    for (const float* next = w + 2 * step; w != end; w += step, next += step, totals += step) {
      const float after_2 = next < end ? *next : 0.0f;
      const float narrow = (before_1 + here) + after_1;
      const float total = (kAdd ? *totals : 0.0f) + narrow * three;
      *totals = total + ((narrow + before_2) + after_2) * five;
      before_2 = before_1;
      before_1 = here;
      here = after_1;
      after_1 = after_2;
    }
  }

  // The sums of both directions, in place of x, whose averages are no longer needed, and then into y.
  void pool() const {
    const int height = block.height, width = block.width, down = width * channels;
    for (int c = 0; c < channels; c++) {
      const float* const w = normed() + c;
      float* const totals = x + c;
      const float down_3 = float(constants.pooling.vertical_3[c]), down_5 = float(constants.pooling.vertical_5[c]);
      for (int at = 0; at < down; at += channels) pool_line<false>(w + at, down, height, down_3, down_5, totals + at);
      const float across_3 = float(constants.pooling.horizontal_3[c]);
      const float across_5 = float(constants.pooling.horizontal_5[c]);
      for (int at = 0; at < tokens * channels; at += down)
        pool_line<true>(w + at, channels, width, across_3, across_5, totals + at);
    }
    add_totals();
  }

  // A line of three columns of a kernel on a line of w, added to `totals`, or without kAdd put there.
  template <bool kAdd>
  static void convolve_line(const float* w, int step, int length, const float* kernel, float* totals) {
    float before = 0.0f, here = *w;
    for (int j = 0; j < length; j++, w += step, totals += step) {
      const float after = j + 1 < length ? w[step] : 0.0f;
      const float total = (kAdd ? *totals : 0.0f) + before * kernel[0];
      *totals = (total + here * kernel[1]) + after * kernel[2];
      before = here;
      here = after;
    }
  }

  // Likewise in place of x. A line beyond the border would add zeros, which changes no sum.
  void convolve() const {
    const int height = block.height, width = block.width, down = width * channels;
    for (int c = 0; c < channels; c++) {
      float kernel[9];
      for (int k = 0; k < 9; k++) kernel[k] = float(constants.depthwise[k * channels + c]);
      const float* w = normed() + c;
      float* totals = x + c;
      for (int i = 0; i < height; i++, w += down, totals += down) {
        if (i == 0) {
          convolve_line<false>(w, channels, width, kernel + 3, totals);
        } else {
          convolve_line<false>(w - down, channels, width, kernel, totals);
          convolve_line<true>(w, channels, width, kernel + 3, totals);
        }
        if (i + 1 < height) convolve_line<true>(w + down, channels, width, kernel + 6, totals);
      }
    }
    add_totals();
  }

  void add_totals() const {
    for (int i = 0; i < tokens * channels; i++) y[i] = y[i] + x[i];
  }

  void all() const {
    const BlockOptions& o = block.options;
    if (o.dynamic_activation) {
      o.dynamic_attention ? project<true, true>() : project<true, false>();
    } else {
      o.dynamic_attention ? project<false, true>() : project<false, false>();
    }
    if (o.dynamic_activation) {
      o.dynamic_hidden ? finish<true, true>() : finish<true, false>();
    } else {
      o.dynamic_hidden ? finish<false, true>() : finish<false, false>();
    }
    if (o.branches == Branches::kPooling) pool();
    if (o.branches == Branches::kDepthwise) convolve();
  }
};

}  // namespace block
}  // namespace ACDBIT_ISA
}  // namespace acdbit
