// Regions for the instruction counter of tests/arm64: every kernel once, at the sizes of DeiT-S at 224 x 224.
//
//     instructions_bench [kernels]        a name of kernels.h; the best by default
//
// Prints "tag name" for every region, and ends it with syscall(5000, tag), which does nothing outside the emulator.
// The data are random with a fixed seed, so the counts repeat.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <random>
#include <vector>

#include "attention.h"
#include "block.h"
#include "cpu.h"
#include "kernels.h"

namespace acdbit {
namespace {

constexpr int kGrid = 14;
constexpr int kTokens = kGrid * kGrid;
constexpr int kChannels = 384;
constexpr int kHeads = 6;
constexpr int kWords = kChannels / 32;
constexpr long kMarker = 5000;

// The region is what runs between the two calls.
void begin() { syscall(kMarker, 0L); }
void end(const char* name) {
  static long tag = 0;
  syscall(kMarker, ++tag);
  printf("%ld %s\n", tag, name);
}

std::mt19937 generator(1);

std::vector<uint32_t> random_words(size_t size) {
  std::vector<uint32_t> words(size);
  for (uint32_t& word : words) word = generator();
  return words;
}

std::vector<float> random_floats(size_t size, float mean, float deviation) {
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = normal(generator);
  return values;
}

// Cache lines to themselves, as the kernels want their workspaces.
void* allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

void product(const Kernels& kernels) {
  const auto rows = random_words(kTokens * kWords), weights = random_words(kChannels * kWords);
  std::vector<uint32_t> packed(kernels.packed_weights_words(kChannels, kWords));
  std::vector<int32_t> counts(kTokens * kChannels);
  const auto multiplier = random_floats(kChannels, -0.5f, 0.1f), bias = random_floats(kChannels, 0, 1);
  std::vector<float> y(kTokens * kChannels);
  begin();
  kernels.pack_weights(weights.data(), kChannels, kWords, packed.data());
  end("pack_weights 384x384");
  begin();
  kernels.xor_popcount(rows.data(), kWords, kTokens, kWords, packed.data(), 0, kChannels, counts.data(), kChannels);
  end("xor_popcount 196x384x384");
  begin();
  const float *m = multiplier.data(), *b = bias.data();
  for (int r = 0; r < kTokens; r++) {
    const int32_t* row = counts.data() + r * kChannels;
    float* out = y.data() + r * kChannels;
    for (int c = 0; c < kChannels; c++) out[c] = float(row[c]) * m[c] + b[c];
  }
  end("count * multiplier + bias 196x384");
  std::vector<uint32_t> bits(kTokens * kWords);
  begin();
  for (int r = 0; r < kTokens; r++)
    kernels.quantize(y.data() + r * kChannels, multiplier.data(), kChannels, bits.data() + r * kWords);
  end("quantize 196x384");
}

void attention(const Kernels& kernels, bool key_bias, bool dynamic, const char* keys_name, const char* rows_name) {
  const auto query = random_words(kTokens * kWords), key = random_words(kTokens * kWords);
  const auto value = random_words(kTokens * kWords);
  const std::vector<float> score_scale(kHeads, 1.0f / 8.0f), probability_scale(kHeads, 2.0f / kTokens);
  const auto key_weights = random_floats(kChannels, 0, 0.01f);
  const auto scale = random_floats(kTokens * kHeads, 0.9f, 0.1f), offset = random_floats(kTokens * kHeads, 0, 0.1f);
  std::vector<int32_t> counts(kTokens * kChannels), kept(kTokens * kHeads);
  AttentionPlan plan = {};
  plan.heads = kHeads;
  plan.head_dim = kChannels / kHeads;
  plan.queries = plan.keys = kTokens;
  plan.rule = Rule::kElastic;
  plan.query = query.data();
  plan.key = key.data();
  plan.value = value.data();
  plan.query_stride = plan.key_stride = plan.value_stride = kWords;
  plan.score_scale = score_scale.data();
  plan.probability_scale = probability_scale.data();
  if (key_bias) plan.key_weights = key_weights.data();
  if (dynamic) {
    plan.query_scale = plan.key_scale = scale.data();
    plan.query_offset = plan.key_offset = offset.data();
  }
  plan.workspace = allocate(attention_workspace_bytes(plan.heads, plan.head_dim, plan.keys));
  begin();
  for (int head = 0; head < kHeads; head++) kernels.attention_keys(&plan, head);
  end(keys_name);
  begin();
  kernels.attention_rows(&plan, 0, kTokens, counts.data(), kept.data());
  end(rows_name);
  free(plan.workspace);
}

void block(const Kernels& kernels, bool dynamic, Branches branches, const char* const* names) {
  BlockOptions options = {};
  options.heads = kHeads;
  options.mlp_ratio = 4;
  options.rule = Rule::kElastic;
  options.branches = branches;
  options.dynamic_activation = options.dynamic_hidden = options.dynamic_attention = dynamic;
  size_t num_vectors, num_words, num_taps;
  block_sizes(options, kChannels, kGrid, kGrid, &num_vectors, &num_words, &num_taps);
  const auto vectors = random_floats(num_vectors, 0.01f, 0.01f), x = random_floats(kTokens * kChannels, 0, 1);
  const auto words = random_words(num_words);
  std::vector<float> y(kTokens * kChannels);
  void* const weights = allocate(block_weights_bytes(options, kChannels, &kernels));
  void* const workspace = allocate(block_workspace_bytes(options, kChannels, kGrid, kGrid));
  void* const scratch = allocate(block_scratch_bytes(options, kChannels));
  BlockPlan plan = {};
  block_prepare(options, kChannels, vectors.data(), words.data(), &kernels, weights, &plan);
  block_place(options, kGrid, kGrid, workspace, &plan);
  block_bind(x.data(), y.data(), nullptr, &plan);
  begin();
  kernels.block_project(&plan, 0, kTokens, scratch);
  end(names[0]);
  begin();
  for (int head = 0; head < kHeads; head++) kernels.attention_keys(&plan.attention, head);
  end(names[1]);
  begin();
  kernels.block_finish(&plan, 0, kTokens, scratch);
  end(names[2]);
  begin();
  kernels.block_mix(&plan, 0, kTokens);
  end(names[3]);
  free(weights);
  free(workspace);
  free(scratch);
}

int run(const char* wanted) {
  char message[160];
  const Kernels* const selected = select_kernels(wanted, message, sizeof message);
  if (selected == nullptr) {
    fprintf(stderr, "%s\n", message);
    return 1;
  }
  const Kernels& kernels = *selected;
  product(kernels);
  attention(kernels, false, false, "attention_keys frozen", "attention_rows frozen");
  attention(kernels, true, false, "attention_keys key bias", "attention_rows key bias");
  attention(kernels, false, true, "attention_keys dynamic", "attention_rows dynamic");
  const char* const frozen[] = {"block_project frozen", "block keys frozen", "block_finish frozen", "block_mix frozen"};
  const char* const dynamic[] = {"block_project dynamic", "block keys dynamic", "block_finish dynamic",
                                 "block_mix dynamic"};
  const char* const depthwise[] = {"block_project depthwise", "block keys depthwise", "block_finish depthwise",
                                   "block_mix depthwise"};
  block(kernels, false, Branches::kPooling, frozen);
  block(kernels, true, Branches::kPooling, dynamic);
  block(kernels, false, Branches::kDepthwise, depthwise);
  return 0;
}

}  // namespace
}  // namespace acdbit

int main(int argc, char** argv) { return acdbit::run(argc > 1 ? argv[1] : nullptr); }
