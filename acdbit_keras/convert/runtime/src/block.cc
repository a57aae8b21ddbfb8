// The plan of a fused block: which constant stands where in the op's inputs, and what goes where in memory.
#include "block.h"

#include <limits.h>
#include <string.h>

#include "kernels.h"
#include "layout.h"

namespace acdbit {
namespace {

struct Workspace {
  size_t bits[3];
  size_t statistics[4];
  size_t attention;
  size_t normed;
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
  if (options.branches != Branches::kNone) w.normed = w.layout.add(tokens * c, sizeof(float));
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
  s.normed = layout.add(options.branches != Branches::kNone ? 0 : rows * c, sizeof(float));
  s.sums = layout.add(rows * 4 * 16, sizeof(float));
  s.means = layout.add(4 * rows, sizeof(float));
  s.bytes = layout.bytes;
  return s;
}

// Hands out sections of one input after the other. Without a start it only counts.
template <typename T>
struct Reader {
  const T* start;
  size_t taken = 0;

  const T* take(size_t count) {
    const T* section = start ? start + taken : nullptr;
    taken += count;
    return section;
  }
};

// Points the plan to its vectors; returns how many floats they have.
size_t read_vectors(const BlockOptions& options, int num_channels, const float* vectors, BlockPlan* plan) {
  const size_t channels = size_t(num_channels), heads = size_t(options.heads);
  const size_t hidden = channels * size_t(options.mlp_ratio);
  Reader<float> reader = {vectors};
#define ACDBIT_READ(name, length, given) plan->name = (given) ? reader.take(length) : nullptr;
  ACDBIT_BLOCK_VECTORS(ACDBIT_READ)
#undef ACDBIT_READ
  return reader.taken;
}

// One of the products, in the order of their kernels.
struct Product {
  ProductPlan* plan;
  const uint32_t* kernel;
};
struct Products {
#define ACDBIT_COUNT(...) +1
  static constexpr int kCount = 0 ACDBIT_BLOCK_KERNELS(ACDBIT_COUNT);
#undef ACDBIT_COUNT
  Product products[kCount];
  size_t words;  // of all kernels

  const Product* begin() const { return products; }
  const Product* end() const { return products + kCount; }
};

// Sets the sizes of the products, and finds their kernels.
Products read_kernels(const BlockOptions& options, int channels, const uint32_t* kernels, BlockPlan* plan) {
  const int hidden = channels * options.mlp_ratio;
  Reader<uint32_t> reader = {kernels};
  const auto read = [&reader](ProductPlan* product, int outputs, int inputs) {
    product->outputs = outputs;
    product->inputs = inputs;
    return Product{product, reader.take(size_t(outputs) * size_t(inputs / kWordBits))};
  };
#define ACDBIT_READ(name, outputs, inputs) read(&plan->name, outputs, inputs),
  Products all = {{ACDBIT_BLOCK_KERNELS(ACDBIT_READ)}, 0};
#undef ACDBIT_READ
  all.words = reader.taken;
  return all;
}

// Points to the sections of the taps; returns how many words they have.
size_t place_taps(int num_heads, int num_channels, int mlp_ratio, int num_tokens, uint32_t* words, BlockTaps* taps) {
  const size_t heads = size_t(num_heads), channels = size_t(num_channels), tokens = size_t(num_tokens);
  const size_t hidden = channels * size_t(mlp_ratio);
  size_t placed = 0;
#define ACDBIT_PLACE(name, rows, bits)           \
  taps->name = words ? words + placed : nullptr; \
  placed += (rows) * ((bits + kWordBits - 1) / kWordBits);
  ACDBIT_BLOCK_TAPS(ACDBIT_PLACE)
#undef ACDBIT_PLACE
  return placed;
}

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
  *vectors = read_vectors(options, channels, nullptr, &plan);
  *kernels = read_kernels(options, channels, nullptr, &plan).words;
  *taps = place_taps(options.heads, channels, options.mlp_ratio, tokens, nullptr, &plan.taps);
  return true;
}

size_t block_weights_bytes(const BlockOptions& options, int channels, const Kernels* kernels) {
  BlockPlan plan;
  Layout layout;
  for (const Product& product : read_kernels(options, channels, nullptr, &plan))
    layout.add(packed_words(*product.plan, kernels), sizeof(uint32_t));
  if (options.branches != Branches::kNone) layout.add(size_t(channels), sizeof(float));
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
  read_vectors(options, channels, vectors, plan);
  plan->attention.score_scale = plan->score_scale;
  plan->attention.probability_scale = plan->probability_scale;
  plan->attention.key_weights = plan->key_weights;
  Layout layout;
  for (const Product& product : read_kernels(options, channels, kernel_words, plan)) {
    uint32_t* packed = at<uint32_t>(weights, layout.add(packed_words(*product.plan, kernels), sizeof(uint32_t)));
    kernels->pack_weights(product.kernel, product.plan->outputs, product.plan->inputs / kWordBits, packed);
    product.plan->weights = packed;
  }
  if (options.branches != Branches::kNone) {
    float* zeros = at<float>(weights, layout.add(size_t(channels), sizeof(float)));
    memset(zeros, 0, size_t(channels) * sizeof(float));
    plan->zeros = zeros;
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
  if (options.branches != Branches::kNone) plan->normed = at<float>(workspace, layout.normed);
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
  place_taps(plan->heads, plan->channels, plan->mlp_ratio, plan->height * plan->width, taps, &plan->taps);
  plan->attention.probabilities = plan->taps.probabilities;
}

}  // namespace acdbit
