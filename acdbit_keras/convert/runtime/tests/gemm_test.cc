// Every kernel path that this CPU can run against the scalar reference, on random ragged shapes; choice of the path.
#include <gtest/gtest.h>
#include <math.h>
#include <string.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "kernels.h"
#include "reference.h"

namespace acdbit {
namespace {

class KernelsTest : public testing::TestWithParam<const Kernels*> {};

std::vector<const Kernels*> all_supported() {
  const SupportedKernels supported = supported_kernels();
  return {supported.begin(), supported.end()};
}

INSTANTIATE_TEST_SUITE_P(, KernelsTest, testing::ValuesIn(all_supported()),
                         [](const auto& info) { return std::string(info.param->name); });

int uniform(std::mt19937& random, int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }

// Bits at random, or all alike: extreme counts overflow sums that are too narrow.
std::vector<uint32_t> random_words(std::mt19937& random, size_t size) {
  std::vector<uint32_t> words(size);
  const int kind = uniform(random, 0, 5);
  for (uint32_t& word : words) word = kind == 0 ? 0 : kind == 1 ? ~uint32_t(0) : random();
  return words;
}

void check_product(const Kernels& kernels, std::mt19937& random, int num_rows, int words, int all_outputs) {
  constexpr int32_t kUntouched = -123456789;
  const int first = kOutputTile * uniform(random, 0, (all_outputs - 1) / kOutputTile);
  const int outputs = uniform(random, 1, all_outputs - first);
  const int written = (outputs + kOutputTile - 1) / kOutputTile * kOutputTile;
  const int row_stride = words + uniform(random, 0, 3), stride = written + uniform(random, 0, 5);
  SCOPED_TRACE(testing::Message() << num_rows << " rows, " << words << " words, outputs " << first << " + " << outputs
                                  << " of " << all_outputs << ", strides " << row_stride << " " << stride);
  // Exact sizes, so that the address sanitizer sees every access beyond.
  const auto rows = random_words(random, num_rows == 0 ? 0 : size_t(num_rows - 1) * row_stride + words);
  const auto weights = random_words(random, size_t(all_outputs) * words);
  std::vector<uint32_t> packed(kernels.packed_weights_words(all_outputs, words), 0xdeadbeef);
  kernels.pack_weights(weights.data(), all_outputs, words, packed.data());
  std::vector<int32_t> counts(size_t(num_rows) * stride, kUntouched), expected = counts;
  kernels.xor_popcount(rows.data(), row_stride, num_rows, words, packed.data(), first, outputs, counts.data(), stride);
  reference::xor_popcount(rows.data(), row_stride, num_rows, words, weights.data() + size_t(first) * words, outputs,
                          expected.data(), stride);
  for (int r = 0; r < num_rows; r++) {
    for (int o = 0; o < stride; o++) {
      if (o >= outputs && o < written) continue;  // the rest of the last tile may be anything
      ASSERT_EQ(counts[size_t(r) * stride + o], expected[size_t(r) * stride + o]) << "row " << r << ", output " << o;
    }
  }
}

TEST_P(KernelsTest, XorPopcountOfRaggedShapes) {
  std::mt19937 random(1);
  for (int i = 0; i < 400 && !HasFatalFailure(); i++)
    check_product(*GetParam(), random, uniform(random, 0, 40), uniform(random, 1, 50), uniform(random, 1, 130));
}

TEST_P(KernelsTest, XorPopcountOfLongRows) {
  std::mt19937 random(2);
  for (int words : {59, 60, 61, 90, 91, 255, 300}) check_product(*GetParam(), random, 19, words, 65);
}

TEST_P(KernelsTest, QuantizeOfRaggedRowsAndSpecialValues) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float special[] = {0.0f, -0.0f, nan, -nan, infinity, -infinity, 1e-45f, -1e-45f, 1.0f, -1.0f};
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 600; i++) {
    const int channels = i % 2 ? uniform(random, 1, 400) : 32 * uniform(random, 0, 12);
    std::vector<float> x(channels), threshold(channels);
    for (int c = 0; c < channels; c++) {
      x[c] = uniform(random, 0, 2) ? normal(random) : special[uniform(random, 0, 9)];
      threshold[c] = uniform(random, 0, 2) ? 0.3f * normal(random) : special[uniform(random, 0, 9)];
      if (uniform(random, 0, 9) == 0) threshold[c] = x[c];
    }
    const size_t size = (channels + 31) / 32;
    for (const float* t : {static_cast<const float*>(threshold.data()), static_cast<const float*>(nullptr)}) {
      std::vector<uint32_t> words(size, 0xdeadbeef), expected(size, 0xdeadbeef);
      GetParam()->quantize(x.data(), t, channels, words.data());
      reference::quantize(x.data(), t, channels, expected.data());
      ASSERT_EQ(words, expected) << channels << " channels" << (t ? "" : ", no threshold");
    }
  }
}

TEST(SelectKernelsTest, BestByDefaultAndAnySupportedByName) {
  char message[160] = "stale";
  for (const char* unset : {static_cast<const char*>(nullptr), ""}) {
    EXPECT_EQ(select_kernels(unset, message, sizeof message), all_supported()[0]);
    EXPECT_STREQ(message, "");
  }
  for (const Kernels* kernels : all_supported()) {
    EXPECT_EQ(select_kernels(kernels->name, message, sizeof message), kernels);
    EXPECT_STREQ(message, "");
  }
}

TEST(SelectKernelsTest, UnsupportedNameIsRefusedWithTheOnesThereAre) {
#if defined(__aarch64__)
  const char* wanted = "avx2";
#else
  const char* wanted = "neon";
#endif
  char message[160];
  for (const std::string& name : {std::string(wanted), std::string("nonsense"), std::string(1000, 'x')}) {
    EXPECT_EQ(select_kernels(name.c_str(), message, sizeof message), nullptr);
    EXPECT_NE(strstr(message, name.substr(0, 32).c_str()), nullptr) << message;
    EXPECT_NE(strstr(message, "portable"), nullptr) << message;
  }
  char tiny[4];
  select_kernels("nonsense", tiny, sizeof tiny);
  EXPECT_EQ(strlen(tiny), 3u);
  EXPECT_EQ(select_kernels("nonsense", nullptr, 0), nullptr);
}

}  // namespace
}  // namespace acdbit
