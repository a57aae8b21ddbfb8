// Every path of the fused block against the scalar reference, over its options, grids and divisions into rows.
#include <gtest/gtest.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <string>
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
       << ", rule " << int(o.rule) << ", flags " << o.key_bias << o.branches << o.dynamic_activation << o.dynamic_hidden
       << o.dynamic_attention << (c.coarse ? ", coarse" : "");
}

struct Inputs {
  std::vector<float> vectors, x;
  std::vector<uint32_t> kernels;
};

// Values of a trained block's order of magnitude, so that signs and kept probabilities are mixed.
Inputs random_inputs(const Case& test, std::mt19937& random) {
  const BlockOptions& options = test.options;
  const int c = test.channels, heads = options.heads, hidden = c * options.mlp_ratio;
  Inputs inputs;
  std::normal_distribution<float> normal;
  auto value = [&](float center, float deviation) {
    const float x = center + deviation * normal(random);
    return test.coarse ? roundf(2.0f * x) * 0.5f : x;
  };
  auto vector = [&](int length, float center, float deviation) {
    for (int i = 0; i < length; i++) inputs.vectors.push_back(value(center, deviation));
  };
  auto product = [&](int ins, int outs, bool dynamic) {
    const float scale = 1.0f / sqrtf(float(ins));
    vector(ins, 0.0f, 0.3f);
    for (int i = 0; i < outs; i++) inputs.vectors.push_back(-2.0f * scale * (1.0f + 0.3f * normal(random)));
    vector(outs, dynamic ? 0.0f : float(ins) * scale, 0.5f);
    vector(outs, 0.25f, 0.3f);
    if (dynamic) vector(outs, float(ins) * scale, 0.5f);
    if (dynamic) vector(outs, 0.0f, 0.5f);
  };
  const bool dynamic = options.dynamic_activation;
  vector(c, 1.0f, 0.3f);
  vector(c, 0.0f, 0.3f);
  for (int i = 0; i < 3; i++) product(c, c, dynamic);
  vector(3 * c, 0.0f, 0.5f);
  for (int h = 0; h < heads; h++) inputs.vectors.push_back(sqrtf(float(heads) / float(c)) * (0.5f + 0.1f * h));
  for (int h = 0; h < heads; h++) inputs.vectors.push_back(2.0f / float(test.height * test.width));
  if (options.key_bias) vector(c, 0.0f, 0.1f);
  if (options.dynamic_attention) vector(2 * heads, 0.0f, 0.2f);
  vector(c, 0.05f, 0.02f);
  vector(c, -0.03f, 0.02f);
  vector(c, 0.0f, 0.3f);
  vector(c, 0.25f, 0.2f);
  product(c, c, dynamic);
  if (options.branches) vector(c, 0.5f, 0.2f);
  vector(c, 0.0f, 0.1f);
  vector(c, 1.0f, 0.3f);
  vector(c, 0.0f, 0.3f);
  product(c, hidden, dynamic);
  product(hidden, c, options.dynamic_hidden);
  if (options.branches) vector(c, 0.5f, 0.2f);
  vector(c, 0.0f, 0.1f);
  if (options.branches) vector(4 * c, 0.0f, 0.2f);
  for (int i = 0; i < test.height * test.width * c; i++) inputs.x.push_back(value(0.0f, 1.0f));
  inputs.kernels.resize(reference::block_kernels(options, c));
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
  if (options.branches)
    in_pieces(tokens, split, random, [&](int first, int count) { kernels->block_pool(&plan, first, count); });
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

BlockOptions options_of(int heads, int mlp_ratio, int rule, int flags) {
  return {heads,           mlp_ratio,       Rule(rule),      0.25f,           bool(flags & 1),
          bool(flags & 2), bool(flags & 4), bool(flags & 8), bool(flags & 16)};
}

TEST(Block, EveryCombinationOfOptions) {
  unsigned seed = 0;
  for (int ratio = 1; ratio <= 5; ratio++)
    for (int rule = 0; rule < 4; rule++)
      for (int flags = 0; flags < 32; flags++, seed++)
        check({options_of(seed % 2 + 1, ratio, rule, flags), 64, 5, 3, seed % 5 == 0}, seed);
}

TEST(Block, EverySizeAndGrid) {
  const int sizes[][2] = {{32, 1}, {64, 1}, {64, 2}, {96, 1}, {96, 3}, {384, 4}, {384, 6}};
  const int grids[][2] = {{1, 1}, {1, 7}, {7, 1}, {5, 3}, {8, 8}, {14, 14}};
  unsigned seed = 1000;
  for (const auto& size : sizes)
    for (const auto& grid : grids)
      for (int ratio = 1; ratio <= 4; ratio++, seed++)
        check({options_of(size[1], ratio, int(seed % 4), int(seed * 13 % 32)), size[0], grid[0], grid[1], false}, seed);
}

TEST(Block, SizesThatDoNotFit) {
  size_t vectors, kernels, taps;
  auto fits = [&](int heads, int ratio, int channels, int height, int width) {
    return block_sizes(options_of(heads, ratio, 0, 31), channels, height, width, &vectors, &kernels, &taps);
  };
  EXPECT_TRUE(fits(6, 4, 384, 14, 14));
  EXPECT_EQ(taps, size_t(196 * 12 * 12 + 6 * 196 * 7));
  EXPECT_FALSE(fits(0, 4, 384, 14, 14));
  EXPECT_FALSE(fits(-6, 4, 384, 14, 14));
  EXPECT_FALSE(fits(5, 4, 384, 14, 14));
  EXPECT_FALSE(fits(8, 4, 384, 14, 14));  // heads of 48
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
