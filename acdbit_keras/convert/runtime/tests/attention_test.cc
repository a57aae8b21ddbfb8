// Binary attention: every kernel path that this CPU can run equals the scalar reference, and the reference's arithmetic
// (integers from a table, or floats) decides as a softmax in double precision does.
#include <gtest/gtest.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention.h"
#include "attention_reference.h"
#include "cpu.h"
#include "kernels.h"

namespace acdbit {
namespace {

std::vector<const Kernels*> all_supported() {
  const SupportedKernels supported = supported_kernels();
  return {supported.begin(), supported.end()};
}

int uniform(std::mt19937& random, int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }
float uniform(std::mt19937& random, float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(random);
}

struct Shape {
  int heads, head_dim, queries, keys;
};

// A random call of the op, with all memory that its plan points to.
class Attention {
 public:
  Attention(std::mt19937& random, const Shape& shape, Rule rule, bool key_bias, bool dynamic) {
    const int words = shape.heads * shape.head_dim / 32;
    plan.heads = shape.heads;
    plan.head_dim = shape.head_dim;
    plan.queries = shape.queries;
    plan.keys = shape.keys;
    plan.rule = rule;
    plan.ratio = uniform(random, 0.0f, 0.5f);
    plan.query_stride = words + uniform(random, 0, 3);
    plan.key_stride = words + uniform(random, 0, 3);
    plan.value_stride = words + uniform(random, 0, 3);
    query_ = bits(random, shape.queries * plan.query_stride);
    key_ = bits(random, shape.keys * plan.key_stride);
    value_ = bits(random, shape.keys * plan.value_stride);
    // The extreme distances: some keys equal a query's bits, or their complement.
    for (int i = 0; i < shape.queries; i++) {
      if (uniform(random, 0, 3) > 0) continue;
      const uint32_t flip = uniform(random, 0, 1) ? ~uint32_t(0) : 0;
      const int j = uniform(random, 0, shape.keys - 1);
      for (int w = 0; w < words; w++) key_[j * plan.key_stride + w] = query_[i * plan.query_stride + w] ^ flip;
    }
    score_scale_ = floats(random, shape.heads, 0.3f / sqrtf(shape.head_dim), 2.0f / sqrtf(shape.head_dim));
    probability_scale_ = floats(random, shape.heads, 0.2f / shape.keys, 6.0f / shape.keys);
    plan.query = query_.data();
    plan.key = key_.data();
    plan.value = value_.data();
    plan.score_scale = score_scale_.data();
    plan.probability_scale = probability_scale_.data();
    plan.key_weights = nullptr;
    plan.query_scale = plan.query_offset = plan.key_scale = plan.key_offset = nullptr;
    if (key_bias) {
      key_weights_ = floats(random, shape.heads * shape.head_dim, -0.2f, 0.2f);
      plan.key_weights = key_weights_.data();
    }
    if (dynamic) {
      query_scale_ = floats(random, shape.queries * shape.heads, 0.5f, 1.5f);
      query_offset_ = floats(random, shape.queries * shape.heads, -0.3f, 0.3f);
      key_scale_ = floats(random, shape.keys * shape.heads, 0.5f, 1.5f);
      key_offset_ = floats(random, shape.keys * shape.heads, -0.3f, 0.3f);
      plan.query_scale = query_scale_.data();
      plan.query_offset = query_offset_.data();
      plan.key_scale = key_scale_.data();
      plan.key_offset = key_offset_.data();
    }
    taps_.resize(size_t(shape.heads) * shape.queries * words_of_keys());
    plan.table = nullptr;
    plan.tables = nullptr;
    plan.factors = nullptr;
    plan.probabilities = taps_.data();
    // Exactly as long as promised, aligned to 64 and no more, and full of what must not matter.
    const size_t bytes = attention_workspace_bytes(shape.heads, shape.head_dim, shape.keys);
    EXPECT_GT(bytes, 0u);
    workspace_.reset(static_cast<uint8_t*>(aligned_alloc(64, (bytes + 63) / 64 * 64)));
    memset(workspace_.get(), 0xff, bytes);
    plan.workspace = workspace_.get();
  }

  // Made once, as the ops do, instead of each time.
  void use_tables() {
    const size_t bytes = attention_tables_bytes(plan);
    tables_.reset(static_cast<uint8_t*>(aligned_alloc(64, (bytes + 63) / 64 * 64 + 64)));
    memset(tables_.get(), 0xff, bytes);
    attention_prepare(tables_.get(), &plan);
  }

  int words_of_keys() const { return (plan.keys + 31) / 32; }

  struct Result {
    std::vector<int32_t> counts, kept;
    std::vector<uint32_t> probabilities;
  };

  Result expected() {
    Result result = empty();
    reference::attention(plan, 0, plan.queries, result.counts.data(), result.kept.data());
    result.probabilities = taps_;
    return result;
  }

  // In pieces of `step` rows.
  Result actual(const Kernels& kernels, int step) {
    Result result = empty();
    std::fill(taps_.begin(), taps_.end(), 0xdeadbeef);
    for (int head = plan.heads - 1; head >= 0; head--) kernels.attention_keys(&plan, head);
    for (int first = 0; first < plan.queries; first += step) {
      const int rows = std::min(step, plan.queries - first);
      kernels.attention_rows(&plan, first, rows, result.counts.data() + size_t(first) * plan.heads * plan.head_dim,
                             result.kept.data() + size_t(first) * plan.heads);
    }
    result.probabilities = taps_;
    return result;
  }

  AttentionPlan plan;

 private:
  struct Free {
    void operator()(uint8_t* p) const { free(p); }
  };

  Result empty() const {
    return {std::vector<int32_t>(size_t(plan.queries) * plan.heads * plan.head_dim, -1),
            std::vector<int32_t>(size_t(plan.queries) * plan.heads, -1),
            {}};
  }
  static std::vector<uint32_t> bits(std::mt19937& random, size_t size) {
    std::vector<uint32_t> words(size);
    for (uint32_t& word : words) word = random();
    return words;
  }
  static std::vector<float> floats(std::mt19937& random, size_t size, float low, float high) {
    std::vector<float> values(size);
    for (float& value : values) value = uniform(random, low, high);
    return values;
  }

  std::vector<uint32_t> query_, key_, value_, taps_;
  std::vector<float> score_scale_, probability_scale_, key_weights_;
  std::vector<float> query_scale_, query_offset_, key_scale_, key_offset_;
  std::unique_ptr<uint8_t[], Free> workspace_, tables_;
};

constexpr Rule kAllRules[kRules] = {Rule::kElastic, Rule::kMaxRatio, Rule::kZero, Rule::kMean};

struct Form {
  bool key_bias, dynamic;
};
constexpr Form kForms[] = {{false, false}, {true, false}, {false, true}, {true, true}};

void check(std::mt19937& random, const Shape& shape, Rule rule, const Form& form) {
  Attention attention(random, shape, rule, form.key_bias, form.dynamic);
  if (uniform(random, 0, 3) == 0) attention.plan.probabilities = nullptr;
  if (uniform(random, 0, 1) == 0) attention.use_tables();
  const int step = uniform(random, 1, std::max(1, shape.queries));
  Attention::Result expected = attention.expected();
  for (const Kernels* kernels : all_supported()) {
    const Attention::Result actual = attention.actual(*kernels, step);
    const std::string where = std::string(kernels->name) + ": " + std::to_string(shape.heads) + " x " +
                              std::to_string(shape.head_dim) + ", " + std::to_string(shape.queries) + " queries, " +
                              std::to_string(shape.keys) + " keys, rule " + std::to_string(int(rule)) + ", key bias " +
                              std::to_string(form.key_bias) + ", dynamic " + std::to_string(form.dynamic);
    ASSERT_EQ(actual.kept, expected.kept) << where;
    ASSERT_EQ(actual.counts, expected.counts) << where;
    if (attention.plan.probabilities != nullptr) {
      ASSERT_EQ(actual.probabilities, expected.probabilities) << where;
    }
  }
}

TEST(AttentionTest, EqualsReferenceForEveryHeadWidth) {
  std::mt19937 random(1);
  for (int head_dim = kWordBits; head_dim <= kMaxHeadDim; head_dim += kWordBits) {
    for (Rule rule : kAllRules) {
      for (const Form& form : kForms) {
        check(random, {uniform(random, 1, 3), head_dim, uniform(random, 1, 12), uniform(random, 1, 150)}, rule, form);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(AttentionTest, EqualsReferenceForEveryNumberOfKeys) {
  std::mt19937 random(2);
  for (int keys = 1; keys <= 300; keys++) {
    const Rule rule = kAllRules[uniform(random, 0, 3)];
    for (const Form& form : {kForms[0], kForms[uniform(random, 1, 3)]}) {
      check(random, {1, 32 * uniform(random, 1, 3), uniform(random, 1, 10), keys}, rule, form);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(AttentionTest, EqualsReferenceForManyKeys) {
  std::mt19937 random(3);
  // Two rows at once, one, and several tiles to a row.
  for (int keys : {3136, 4096, 4097, 9000, 20001}) {
    for (const Form& form : kForms) {
      const Rule rule = keys == 9000 ? Rule::kMean : Rule::kElastic;
      check(random, {1, keys == 9000 ? kMaxHeadDim : 64, 3, keys}, rule, form);
      check(random, {1, 32, 2, keys}, Rule::kZero, form);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(AttentionTest, ExtremeScales) {
  std::mt19937 random(4);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // 0.4 and 0.45 lie on either side of where factors give way to exponentials.
  const float scales[] = {0.0f,   1e-30f, 1e-6f, 0.01f,  0.4f,      0.45f,      3.0f,
                          100.0f, 1e30f,  -1.0f, -1e30f, kInfinity, -kInfinity, std::nanf("")};
  for (float scale : scales) {
    for (Rule rule : kAllRules) {
      for (const Form& form : kForms) {
        Attention attention(random, {1, 64, 9, 75}, rule, form.key_bias, form.dynamic);
        const_cast<float*>(attention.plan.score_scale)[0] = scale;
        Attention::Result first;
        for (const Kernels* kernels : all_supported()) {
          const Attention::Result result = attention.actual(*kernels, 9);
          if (first.kept.empty()) first = result;
          ASSERT_EQ(result.kept, first.kept) << kernels->name << " scale " << scale;
          ASSERT_EQ(result.counts, first.counts) << kernels->name << " scale " << scale;
        }
        // Scales that the delegate lets through.
        if (scale > 0 && scale < 1e3f) {
          ASSERT_EQ(attention.expected().kept, first.kept) << "scale " << scale;
        }
        for (int32_t kept : first.kept) ASSERT_TRUE(kept >= 0 && kept <= 75);
      }
    }
  }
}

TEST(AttentionTest, ExtremeThresholds) {
  std::mt19937 random(5);
  for (const Form& form : kForms) {
    for (float threshold : {-1.0f, 0.0f, 1.0f, 2.0f, 1e30f, std::nanf("")}) {
      for (Rule rule : {Rule::kElastic, Rule::kMaxRatio}) {
        Attention attention(random, {2, 32, 5, 40}, rule, form.key_bias, form.dynamic);
        for (int h = 0; h < 2; h++) const_cast<float*>(attention.plan.probability_scale)[h] = threshold;
        attention.plan.ratio = threshold;
        const Attention::Result expected = attention.expected();
        for (const Kernels* kernels : all_supported()) {
          if (threshold != threshold && rule == Rule::kMaxRatio) continue;
          ASSERT_EQ(attention.actual(*kernels, 5).kept, expected.kept) << kernels->name << " " << threshold;
        }
      }
    }
  }
}

TEST(AttentionTest, IntegersAndFloatsDecideAsDoubleSoftmax) {
  std::mt19937 random(6);
  constexpr double kNear = 4e-6;  // relative; closer to its threshold a probability may fall either way
  int decided = 0, near = 0, all_kept = 0;
  for (int round = 0; round < 40; round++) {
    const Form form = kForms[round % 4];
    const Rule rule = kAllRules[round / 4 % 4];
    const int d = 32 * uniform(random, 1, 4), keys = uniform(random, 1, 250), queries = 6, words = (keys + 31) / 32;
    Attention attention(random, {1, d, queries, keys}, rule, form.key_bias, form.dynamic);
    const AttentionPlan& plan = attention.plan;
    const Attention::Result result = attention.actual(*all_supported()[0], queries);
    const auto sign = [](const uint32_t* bits, int c) { return bits[c / 32] >> (c % 32) & 1 ? -1.0 : 1.0; };
    for (int i = 0; i < queries; i++) {
      const uint32_t* query = plan.query + i * plan.query_stride;
      std::vector<double> scores(keys), probabilities(keys);
      double largest = -INFINITY, sum = 0.0;
      for (int j = 0; j < keys; j++) {
        const uint32_t* key = plan.key + j * plan.key_stride;
        double score = 0.0;
        for (int c = 0; c < d; c++) {
          // The rank-1 terms of the op's contract are this product written out.
          const double q = form.dynamic ? plan.query_scale[i] * sign(query, c) + plan.query_offset[i] : sign(query, c);
          const double k = form.dynamic ? plan.key_scale[j] * sign(key, c) + plan.key_offset[j] : sign(key, c);
          score += plan.score_scale[0] * q * k;
          if (form.key_bias && !form.dynamic) score += plan.key_weights[c] * sign(key, c);
        }
        scores[j] = score;
        largest = std::max(largest, score);
      }
      for (int j = 0; j < keys; j++) sum += exp(scores[j] - largest);
      for (int j = 0; j < keys; j++) {
        const double probability = exp(scores[j] - largest) / sum;
        const double threshold = rule == Rule::kElastic    ? 0.5 * plan.probability_scale[0]
                                 : rule == Rule::kMaxRatio ? plan.ratio / sum
                                                           : 1.0 / keys;
        const double value = rule == Rule::kZero ? scores[j] : probability;
        const double bound = rule == Rule::kZero ? 0.0 : threshold;
        const bool exact = !form.key_bias && !form.dynamic && rule == Rule::kZero;
        if (!exact && fabs(value - bound) <= (rule == Rule::kZero ? kNear : kNear * bound)) {
          near++;
          continue;
        }
        const bool kept = result.probabilities[i * words + j / 32] >> (j % 32) & 1;
        // In double precision the score 0 comes out a little off.
        ASSERT_EQ(kept, exact ? value > -1e-9 : value > bound)
            << "rule " << int(rule) << " key bias " << form.key_bias << " dynamic " << form.dynamic << " value "
            << value << " bound " << bound;
        decided++;
        all_kept += kept;
      }
    }
  }
  EXPECT_LT(near, decided / 100);
  EXPECT_GT(all_kept, decided / 10);
  EXPECT_LT(all_kept, decided * 9 / 10);
}

TEST(AttentionTest, NoQueries) {
  std::mt19937 random(7);
  Attention attention(random, {2, 64, 0, 33}, Rule::kElastic, false, false);
  for (const Kernels* kernels : all_supported()) {
    for (int head = 0; head < 2; head++) kernels->attention_keys(&attention.plan, head);
    kernels->attention_rows(&attention.plan, 0, 0, nullptr, nullptr);
  }
}

TEST(AttentionTest, WorkspaceSizes) {
  EXPECT_EQ(attention_workspace_bytes(6, 64, 196) % 64, 0u);
  EXPECT_EQ(attention_workspace_bytes(12, 64, 196), 2 * attention_workspace_bytes(6, 64, 196));
  EXPECT_GT(attention_workspace_bytes(1, kMaxHeadDim, 100000), size_t(kMaxHeadDim) / 4 * 100000);
  EXPECT_EQ(attention_workspace_bytes(1, kMaxHeadDim + kWordBits, 196), 0u);
  EXPECT_EQ(attention_workspace_bytes(INT_MAX, kMaxHeadDim, INT_MAX), 0u);
  EXPECT_EQ(attention_workspace_bytes(0, 64, 196), 0u);
  EXPECT_EQ(attention_workspace_bytes(6, -64, 196), 0u);
  EXPECT_EQ(attention_workspace_bytes(6, 64, 0), 0u);
}

}  // namespace
}  // namespace acdbit
