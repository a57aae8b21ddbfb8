// Every path of the fused block against the scalar reference, over its options, grids and divisions into rows.
#include <gtest/gtest.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "block.h"
#include "block_reference.h"
#include "cpu.h"
#include "kernels.h"

namespace acdbit {
namespace {

// Memory as the plan wants it, full of ones so that nothing is taken for zero by luck.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes + 64, char(0xff)) {}
  char* data() { return bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64); }

 private:
  std::vector<char> bytes_;
};

struct Case {
  BlockOptions options;
  int channels, height, width;
  bool coarse;  // few different values, many of them equal to a threshold or zero
};

void PrintTo(const Case& c, std::ostream* out) {
  const BlockOptions& o = c.options;
  *out << c.height << " x " << c.width << " x " << c.channels << ", " << o.heads << " heads, ratio " << o.mlp_ratio
       << ", rule " << int(o.rule) << ", branches " << int(o.branches) << ", flags " << o.key_bias
       << o.dynamic_activation << o.dynamic_hidden << o.dynamic_attention << (c.coarse ? ", coarse" : "");
}

struct Inputs {
  std::vector<float> vectors, x;
  std::vector<uint32_t> kernels;
};

// Center and deviation of a vector's values, of a trained block's order of magnitude, so that signs and kept
// probabilities are mixed. `fan_in` is the number of inputs of the product that it belongs to.
std::pair<float, float> distribution(const std::string& name, bool dynamic, int fan_in) {
  static const std::map<std::string, std::pair<float, float>> kOf = {
      {"gain_1", {1.0f, 0.3f}},
      {"gain_2", {1.0f, 0.3f}},
      {"key_weights", {0.0f, 0.1f}},
      {"query_center", {0.0f, 0.2f}},
      {"key_center", {0.0f, 0.2f}},
      {"context.count_multiplier", {0.05f, 0.02f}},
      {"context.kept_multiplier", {-0.03f, 0.02f}},
      {"context.bias", {0.0f, 0.3f}},
      {"context.slope", {0.25f, 0.2f}},
  };
  if (const auto found = kOf.find(name); found != kOf.end()) return found->second;
  const float scale = 1.0f / sqrtf(float(fan_in));
  const std::string part = name.substr(name.find('.') + 1);
  if (part == "multiplier") return {-2.0f * scale, 0.6f * scale};
  if (part == "bias") return {dynamic ? 0.0f : float(fan_in) * scale, 0.5f};
  if (part == "slope") return {0.25f, 0.3f};
  if (part == "row") return {float(fan_in) * scale, 0.5f};
  if (part == "restore") return {0.0f, 0.5f};
  if (part == "gain") return {0.5f, 0.2f};
  if (part == "shift") return {0.0f, 0.1f};
  if (name.compare(0, 8, "pooling.") == 0 || name == "depthwise") return {0.0f, 0.2f};
  return {0.0f, name.find("_threshold") != std::string::npos ? 0.5f : 0.3f};
}

Inputs random_inputs(const Case& test, std::mt19937& random) {
  const BlockOptions& options = test.options;
  const int channels = test.channels, heads = options.heads, hidden = channels * options.mlp_ratio;
  const int tokens = test.height * test.width;
  Inputs inputs;
  std::normal_distribution<float> normal;
  const auto value = [&](float center, float deviation) {
    const float x = center + deviation * normal(random);
    return test.coarse ? roundf(2.0f * x) * 0.5f : x;
  };
  const auto vector = [&](const std::string& name, int length, bool given) {
    const bool mlp_2 = name.compare(0, 6, "mlp_2.") == 0;
    const auto [center, deviation] =
        distribution(name, mlp_2 ? options.dynamic_hidden : options.dynamic_activation, mlp_2 ? hidden : channels);
    for (int i = 0; i < length && given; i++) {
      if (name == "score_scale") {
        inputs.vectors.push_back(sqrtf(float(heads) / float(channels)) * (0.5f + 0.1f * i));
      } else if (name == "probability_scale") {
        inputs.vectors.push_back(2.0f / float(tokens));
      } else if (name.find(".multiplier") != std::string::npos) {
        inputs.vectors.push_back(center + deviation * normal(random));  // far below what is coarse
      } else {
        inputs.vectors.push_back(value(center, deviation));
      }
    }
  };
#define ACDBIT_VECTOR(name, length, given) vector(#name, length, given);
  ACDBIT_BLOCK_VECTORS(ACDBIT_VECTOR)
#undef ACDBIT_VECTOR
  for (int i = 0; i < tokens * channels; i++) inputs.x.push_back(value(0.0f, 1.0f));
  inputs.kernels.resize(reference::block_kernels(options, channels));
  for (uint32_t& word : inputs.kernels) word = random();
  return inputs;
}

// Calls stage(first, count) on pieces of [0, rows), in any order.
template <typename Stage>
void in_pieces(int rows, bool split, std::mt19937& random, Stage stage) {
  std::vector<int> cuts = {0};
  while (split && rows - cuts.back() > 1) {
    const int most = std::min(rows - cuts.back(), 2 * kBlockRows);
    cuts.push_back(cuts.back() + std::uniform_int_distribution<int>(1, most)(random));
  }
  if (cuts.back() < rows) cuts.push_back(rows);
  std::vector<int> pieces(cuts.size() - 1);
  for (size_t i = 0; i < pieces.size(); i++) pieces[i] = int(i);
  if (split) std::shuffle(pieces.begin(), pieces.end(), random);
  for (int i : pieces) stage(cuts[i], cuts[i + 1] - cuts[i]);
}

reference::BlockResult run(const Case& test, const Inputs& inputs, const Kernels* kernels, bool split, bool with_taps,
                           std::mt19937& random) {
  const BlockOptions& options = test.options;
  const int tokens = test.height * test.width;
  size_t num_floats, num_words, num_taps;
  EXPECT_TRUE(block_sizes(options, test.channels, test.height, test.width, &num_floats, &num_words, &num_taps));
  EXPECT_EQ(num_floats, inputs.vectors.size());
  EXPECT_EQ(num_words, inputs.kernels.size());
  Memory weights(block_weights_bytes(options, test.channels, kernels));
  Memory workspace(block_workspace_bytes(options, test.channels, test.height, test.width));
  Memory scratch(block_scratch_bytes(options, test.channels));
  reference::BlockResult result;
  result.output.resize(size_t(tokens) * test.channels, NAN);
  result.taps.resize(with_taps ? num_taps : 0, 0xaaaaaaaa);

  BlockPlan plan;
  block_prepare(options, test.channels, inputs.vectors.data(), inputs.kernels.data(), kernels, weights.data(), &plan);
  block_place(options, test.height, test.width, workspace.data(), &plan);
  block_bind(inputs.x.data(), result.output.data(), with_taps ? result.taps.data() : nullptr, &plan);
  in_pieces(tokens, split, random,
            [&](int first, int count) { kernels->block_project(&plan, first, count, scratch.data()); });
  for (int head = 0; head < options.heads; head++) kernels->attention_keys(&plan.attention, head);
  in_pieces(tokens, split, random,
            [&](int first, int count) { kernels->block_finish(&plan, first, count, scratch.data()); });
  if (options.branches != Branches::kNone)
    in_pieces(tokens, split, random, [&](int first, int count) { kernels->block_mix(&plan, first, count); });
  return result;
}

void expect_same_bits(const reference::BlockResult& expected, const reference::BlockResult& result, bool with_taps) {
  ASSERT_EQ(expected.output.size(), result.output.size());
  for (size_t i = 0; i < expected.output.size(); i++)
    ASSERT_EQ(0, memcmp(&expected.output[i], &result.output[i], sizeof(float)))
        << "element " << i << ": " << expected.output[i] << " and " << result.output[i];
  if (!with_taps) return;
  ASSERT_EQ(expected.taps.size(), result.taps.size());
  for (size_t i = 0; i < expected.taps.size(); i++) ASSERT_EQ(expected.taps[i], result.taps[i]) << "tap word " << i;
}

void check(const Case& test, unsigned seed) {
  SCOPED_TRACE(testing::PrintToString(test));
  std::mt19937 random(seed);
  const Inputs inputs = random_inputs(test, random);
  ASSERT_EQ(reference::block_vectors(test.options, test.channels), inputs.vectors.size());
  const reference::BlockResult expected =
      reference::block(test.options, test.channels, test.height, test.width, inputs.vectors.data(),
                       inputs.kernels.data(), inputs.x.data());
  for (const Kernels* kernels : supported_kernels()) {
    SCOPED_TRACE(kernels->name);
    for (const bool split : {false, true}) {
      const bool with_taps = split != (seed % 2 == 0);
      expect_same_bits(expected, run(test, inputs, kernels, split, with_taps, random), with_taps);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

constexpr int kChoices = 16 * kBranches;

// `choice`, below kChoices: four flags, and what mixes neighbouring tokens.
BlockOptions options_of(int heads, int mlp_ratio, int rule, int choice) {
  return {heads,
          mlp_ratio,
          Rule(rule),
          0.25f,
          bool(choice & 1),
          Branches(choice / 16),
          bool(choice & 2),
          bool(choice & 4),
          bool(choice & 8)};
}

TEST(Block, EveryCombinationOfOptions) {
  unsigned seed = 0;
  for (int ratio = 1; ratio <= 5; ratio++)
    for (int rule = 0; rule < kRules; rule++)
      for (int choice = 0; choice < kChoices; choice++, seed++)
        check({options_of(seed % 2 + 1, ratio, rule, choice), 64, 5, 3, seed % 5 == 0}, seed);
}

TEST(Block, EverySizeAndGrid) {
  const int sizes[][2] = {{32, 1}, {64, 1}, {64, 2}, {96, 1}, {96, 3}, {384, 4}, {384, 6}};
  const int grids[][2] = {{1, 1}, {1, 7}, {7, 1}, {5, 3}, {8, 8}, {14, 14}};
  unsigned seed = 1000;
  for (const auto& size : sizes)
    for (const auto& grid : grids)
      for (int ratio = 1; ratio <= 4; ratio++, seed++)
        check({options_of(size[1], ratio, int(seed % kRules), int(seed * 13 % kChoices)), size[0], grid[0], grid[1],
               false},
              seed);
}

TEST(Block, SizesThatDoNotFit) {
  size_t vectors, kernels, taps;
  auto fits = [&](int heads, int ratio, int channels, int height, int width) {
    return block_sizes(options_of(heads, ratio, 0, kChoices - 1), channels, height, width, &vectors, &kernels, &taps);
  };
  EXPECT_TRUE(fits(6, 4, 384, 14, 14));
  EXPECT_EQ(taps, size_t(196 * 12 * 12 + 6 * 196 * 7));
  EXPECT_FALSE(fits(0, 4, 384, 14, 14));
  EXPECT_FALSE(fits(-6, 4, 384, 14, 14));
  EXPECT_FALSE(fits(5, 4, 384, 14, 14));
  EXPECT_FALSE(fits(8, 4, 384, 14, 14));  // heads of 48
  EXPECT_TRUE(fits(2, 4, 2 * kMaxHeadDim, 14, 14));
  EXPECT_FALSE(fits(2, 4, 2 * (kMaxHeadDim + 32), 14, 14));
  EXPECT_FALSE(fits(6, 0, 384, 14, 14));
  EXPECT_FALSE(fits(6, -1, 384, 14, 14));
  EXPECT_FALSE(fits(6, 4, 0, 14, 14));
  EXPECT_FALSE(fits(6, 4, -384, 14, 14));
  EXPECT_FALSE(fits(6, 4, 384, 0, 14));
  EXPECT_FALSE(fits(6, 4, 384, 14, -1));
  EXPECT_FALSE(fits(6, 4, 384, INT_MAX, INT_MAX));
  EXPECT_FALSE(fits(6, 4, 384, 1, INT_MAX));
  EXPECT_FALSE(fits(6, INT_MAX, 384, 14, 14));
  EXPECT_FALSE(fits(1, 4, INT_MAX / 32 * 32, 1, 1));
  EXPECT_FALSE(fits(1, 1 << 20, 1 << 20, 1, 1));
  EXPECT_FALSE(fits(1, 1, 32, 1 << 16, 1 << 14));
}

}  // namespace
}  // namespace acdbit
