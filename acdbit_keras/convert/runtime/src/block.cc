// The plan of a fused block: which constant stands where in the op's inputs, and what goes where in memory.
#include "block.h"

#include <limits.h>
#include <string.h>

#include "kernels.h"

namespace acdbit {
namespace {

constexpr size_t kAlignment = 64;
constexpr int kWordBits = 32;

// Adds up the parts of one piece of memory; `ok` turns false where a size overflows.
struct Layout {
  size_t bytes = 0;
  bool ok = true;

  // Offset of `count` elements of `size` bytes, aligned.
  size_t add(size_t count, size_t size) {
    const size_t offset = bytes;
    size_t part;
    if (__builtin_mul_overflow(count, size, &part) || __builtin_add_overflow(part, kAlignment - 1, &part) ||
        __builtin_add_overflow(bytes, part / kAlignment * kAlignment, &bytes)) {
      ok = false;
      return 0;
    }
    return offset;
  }
};

struct Workspace {
  size_t bits[3];
  size_t statistics[4];
  size_t attention;
  size_t normed;
  size_t zeros;
  Layout layout;
};

Workspace workspace_layout(const BlockOptions& options, int channels, int height, int width) {
  Workspace w = {};
  const size_t c = size_t(channels);
  const size_t tokens = size_t(height) * size_t(width);
  for (size_t& offset : w.bits) offset = w.layout.add(tokens * (c / kWordBits), sizeof(uint32_t));
  if (options.dynamic_attention)
    for (size_t& offset : w.statistics) offset = w.layout.add(tokens * size_t(options.heads), sizeof(float));
  const size_t attention = attention_workspace_bytes(options.heads, channels / options.heads, int(tokens));
  if (attention == 0) w.layout.ok = false;
  w.attention = w.layout.add(attention, 1);
  if (options.branches) {
    w.normed = w.layout.add(tokens * c, sizeof(float));
    w.zeros = w.layout.add(c, sizeof(float));
  }
  return w;
}

BlockScratch scratch_layout(const BlockOptions& options, int channels) {
  const size_t c = size_t(channels), hidden = c * size_t(options.mlp_ratio), rows = kBlockRows;
  size_t chunk = 3 * size_t(kProjectChunk);
  if (chunk < size_t(kBlockChunk)) chunk = size_t(kBlockChunk);
  if (chunk < size_t(kWordBits) * size_t(options.mlp_ratio)) chunk = size_t(kWordBits) * size_t(options.mlp_ratio);
  Layout layout;
  BlockScratch s;
  s.bits = layout.add(3 * rows * (c / kWordBits), sizeof(uint32_t));
  s.hidden = layout.add(rows * (hidden / kWordBits), sizeof(uint32_t));
  s.context = layout.add(rows * c, sizeof(float));
  s.kept = layout.add(rows * size_t(options.heads), sizeof(int32_t));
  s.counts = layout.add(rows * chunk, sizeof(int32_t));
  s.normed = layout.add(options.branches ? 0 : rows * c, sizeof(float));
  s.sums = layout.add(rows * 4 * 16, sizeof(float));
  s.means = layout.add(4 * rows, sizeof(float));
  s.bytes = layout.bytes;
  return s;
}

// Hands out the constants in the order of block_vectors and block_kernels in acdbit_keras/device_ops.py. Without
// `vectors` it only counts.
struct Reader {
  const float* vectors;
  const uint32_t* words;
  size_t floats_read = 0;
  size_t words_read = 0;

  const float* take(size_t count) {
    const float* result = vectors ? vectors + floats_read : nullptr;
    floats_read += count;
    return result;
  }
  const uint32_t* take_kernel(int outputs, int inputs) {
    const uint32_t* result = words ? words + words_read : nullptr;
    words_read += size_t(outputs) * size_t(inputs / kWordBits);
    return result;
  }
  void take_product(int inputs, int outputs, bool dynamic, ProductPlan* product) {
    product->inputs = inputs;
    product->outputs = outputs;
    product->threshold = take(size_t(inputs));
    product->multiplier = take(size_t(outputs));
    product->bias = take(size_t(outputs));
    product->slope = take(size_t(outputs));
    product->row = dynamic ? take(size_t(outputs)) : nullptr;
    product->restore = dynamic ? take(size_t(outputs)) : nullptr;
  }
};

void read_vectors(const BlockOptions& options, int channels, Reader* reader, BlockPlan* plan) {
  const size_t c = size_t(channels), heads = size_t(options.heads);
  const int hidden = channels * options.mlp_ratio;
  const bool dynamic = options.dynamic_activation;
  plan->gain_1 = reader->take(c);
  plan->shift_1 = reader->take(c);
  reader->take_product(channels, channels, dynamic, &plan->query);
  reader->take_product(channels, channels, dynamic, &plan->key);
  reader->take_product(channels, channels, dynamic, &plan->value);
  plan->query_threshold = reader->take(c);
  plan->key_threshold = reader->take(c);
  plan->value_threshold = reader->take(c);
  plan->attention.score_scale = reader->take(heads);
  plan->attention.probability_scale = reader->take(heads);
  plan->attention.key_weights = options.key_bias ? reader->take(c) : nullptr;
  plan->query_center = options.dynamic_attention ? reader->take(heads) : nullptr;
  plan->key_center = options.dynamic_attention ? reader->take(heads) : nullptr;
  plan->context_count_multiplier = reader->take(c);
  plan->context_kept_multiplier = reader->take(c);
  plan->context_bias = reader->take(c);
  plan->context_slope = reader->take(c);
  reader->take_product(channels, channels, dynamic, &plan->output);
  plan->output.gain = options.branches ? reader->take(c) : nullptr;
  plan->output.shift = reader->take(c);
  plan->gain_2 = reader->take(c);
  plan->shift_2 = reader->take(c);
  reader->take_product(channels, hidden, dynamic, &plan->mlp_1);
  reader->take_product(hidden, channels, options.dynamic_hidden, &plan->mlp_2);
  plan->mlp_2.gain = options.branches ? reader->take(c) : nullptr;
  plan->mlp_2.shift = reader->take(c);
  for (const float*& gain : plan->pooling) gain = options.branches ? reader->take(c) : nullptr;
}

// The products, in the order of block_kernels.
struct Products {
  ProductPlan* products[6];

  explicit Products(BlockPlan* plan)
      : products{&plan->query, &plan->key, &plan->value, &plan->output, &plan->mlp_1, &plan->mlp_2} {}
  ProductPlan* const* begin() const { return products; }
  ProductPlan* const* end() const { return products + 6; }
};

size_t packed_words(const ProductPlan& product, const Kernels* kernels) {
  return kernels->packed_weights_words(product.outputs, product.inputs / kWordBits);
}

template <typename T>
T* at(void* memory, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + offset);
}

}  // namespace

bool block_sizes(const BlockOptions& options, int channels, int height, int width, size_t* vectors, size_t* kernels,
                 size_t* taps) {
  if (channels < 1 || height < 1 || width < 1 || options.heads < 1 || options.mlp_ratio < 1) return false;
  if (channels % options.heads != 0 || channels / options.heads % kWordBits != 0) return false;
  if (channels / options.heads > kMaxHeadDim) return false;
  // The largest tensors and constants must be addressable in bytes with an int: no model comes near, and no offset in
  // the kernels can overflow.
  int tokens, hidden, elements;
  if (__builtin_mul_overflow(height, width, &tokens) || tokens > INT_MAX - kWordBits) return false;
  if (__builtin_mul_overflow(channels, options.mlp_ratio, &hidden)) return false;
  if (__builtin_mul_overflow(hidden, 4 * kBlockRows, &elements)) return false;
  if (__builtin_mul_overflow(tokens, hidden, &elements) || elements > INT_MAX / 4) return false;
  if (__builtin_mul_overflow(hidden, channels, &elements) || elements > INT_MAX / 4) return false;
  const size_t bit_rows = (size_t(tokens) + kWordBits - 1) / kWordBits;
  if (size_t(options.heads) * bit_rows > size_t(INT_MAX) / size_t(tokens)) return false;
  if (!workspace_layout(options, channels, height, width).layout.ok) return false;

  BlockPlan plan;
  Reader reader = {nullptr, nullptr};
  read_vectors(options, channels, &reader, &plan);
  for (ProductPlan* product : Products(&plan)) reader.take_kernel(product->outputs, product->inputs);
  *vectors = reader.floats_read;
  *kernels = reader.words_read;
  const size_t row_words = size_t(tokens) * size_t(channels / kWordBits);
  *taps = row_words * (8 + size_t(options.mlp_ratio)) + size_t(options.heads) * size_t(tokens) * bit_rows;
  return true;
}

size_t block_weights_bytes(const BlockOptions& options, int channels, const Kernels* kernels) {
  BlockPlan plan;
  Reader reader = {nullptr, nullptr};
  read_vectors(options, channels, &reader, &plan);
  Layout layout;
  for (ProductPlan* product : Products(&plan)) layout.add(packed_words(*product, kernels), sizeof(uint32_t));
  return layout.bytes;
}

size_t block_workspace_bytes(const BlockOptions& options, int channels, int height, int width) {
  return workspace_layout(options, channels, height, width).layout.bytes;
}

size_t block_scratch_bytes(const BlockOptions& options, int channels) {
  return scratch_layout(options, channels).bytes;
}

void block_prepare(const BlockOptions& options, int channels, const float* vectors, const uint32_t* kernel_words,
                   const Kernels* kernels, void* weights, BlockPlan* plan) {
  memset(plan, 0, sizeof *plan);
  plan->channels = channels;
  plan->heads = options.heads;
  plan->mlp_ratio = options.mlp_ratio;
  plan->scratch = scratch_layout(options, channels);
  plan->kernels = kernels;
  plan->attention.heads = options.heads;
  plan->attention.head_dim = channels / options.heads;
  plan->attention.rule = options.rule;
  plan->attention.ratio = options.ratio;
  Reader reader = {vectors, kernel_words};
  read_vectors(options, channels, &reader, plan);
  Layout layout;
  for (ProductPlan* product : Products(plan)) {
    uint32_t* packed = at<uint32_t>(weights, layout.add(packed_words(*product, kernels), sizeof(uint32_t)));
    kernels->pack_weights(reader.take_kernel(product->outputs, product->inputs), product->outputs,
                          product->inputs / kWordBits, packed);
    product->weights = packed;
  }
}

void block_place(const BlockOptions& options, int height, int width, void* workspace, BlockPlan* plan) {
  const Workspace layout = workspace_layout(options, plan->channels, height, width);
  plan->height = height;
  plan->width = width;
  plan->query_bits = at<uint32_t>(workspace, layout.bits[0]);
  plan->key_bits = at<uint32_t>(workspace, layout.bits[1]);
  plan->value_bits = at<uint32_t>(workspace, layout.bits[2]);
  if (options.dynamic_attention) {
    plan->query_scale = at<float>(workspace, layout.statistics[0]);
    plan->query_offset = at<float>(workspace, layout.statistics[1]);
    plan->key_scale = at<float>(workspace, layout.statistics[2]);
    plan->key_offset = at<float>(workspace, layout.statistics[3]);
  }
  if (options.branches) {
    plan->normed = at<float>(workspace, layout.normed);
    plan->zeros = at<float>(workspace, layout.zeros);
    memset(at<float>(workspace, layout.zeros), 0, size_t(plan->channels) * sizeof(float));
  }
  AttentionPlan* attention = &plan->attention;
  attention->queries = attention->keys = height * width;
  attention->query_stride = attention->key_stride = attention->value_stride = plan->channels / kWordBits;
  attention->query = plan->query_bits;
  attention->key = plan->key_bits;
  attention->value = plan->value_bits;
  attention->query_scale = plan->query_scale;
  attention->query_offset = plan->query_offset;
  attention->key_scale = plan->key_scale;
  attention->key_offset = plan->key_offset;
  attention->workspace = static_cast<char*>(workspace) + layout.attention;
}

void block_bind(const float* input, float* output, uint32_t* taps, BlockPlan* plan) {
  plan->input = input;
  plan->output_rows = output;
  plan->taps = taps;
  // After the inputs and outputs of query, key and value, see block_taps in acdbit_keras/device_ops.py.
  const size_t row_words = size_t(plan->height) * size_t(plan->width) * size_t(plan->channels / kWordBits);
  plan->attention.probabilities = taps ? taps + 6 * row_words : nullptr;
}

}  // namespace acdbit
