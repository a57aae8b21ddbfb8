#include "attention_reference.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <vector>

namespace acdbit {
namespace reference {
namespace {

int bit(const uint32_t* words, int i) { return words[i / 32] >> (i % 32) & 1; }

int distance(const uint32_t* a, const uint32_t* b, int channels) {
  int count = 0;
  for (int w = 0; w < channels / 32; w++) count += __builtin_popcount(a[w] ^ b[w]);
  return count;
}

int sum_of_signs(const uint32_t* words, int channels) {
  int negative = 0;
  for (int w = 0; w < channels / 32; w++) negative += __builtin_popcount(words[w]);
  return channels - 2 * negative;
}

float sum_lanes(float* lanes) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; i++) lanes[i] = lanes[i] + lanes[i + width];
  }
  return lanes[0];
}

// e^x for x <= 0.
float exponential(float x) {
  x = -87.0f < x ? x : -87.0f;
  const float shifted = fmaf(x, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
  const float r = fmaf(n, -0.693147182f, x);
  float p = 0.00831250101f;
  for (float coefficient : {0.0418903306f, 0.166671157f, 0.499992311f, 1.0f, 1.0f}) p = fmaf(p, r, coefficient);
  return ldexpf(p, int(n));
}

// Scores that depend on the distance alone: softmax weights are multiples of 2^-31.
std::vector<bool> kept_by_integers(const AttentionPlan& plan, int head, const uint32_t* query,
                                   const uint32_t* const* key) {
  const int d = plan.head_dim, m = plan.keys;
  std::vector<int> distances(m);
  for (int j = 0; j < m; j++) distances[j] = distance(query, key[j], d);
  const int nearest = *std::min_element(distances.begin(), distances.end());
  const double half_scale = 0.5 * double(plan.probability_scale[head]);
  std::vector<uint64_t> weights(m);
  uint64_t sum = 0;
  for (int j = 0; j < m; j++) {
    const double weight = exp(-2.0 * plan.score_scale[head] * (distances[j] - nearest));
    weights[j] = uint64_t(floor(weight * 2147483648.0 + 0.5));
    sum += weights[j];
  }
  std::vector<bool> kept(m);
  for (int j = 0; j < m; j++) {
    switch (plan.rule) {
      case Rule::kElastic: kept[j] = double(weights[j]) > half_scale * double(sum); break;
      case Rule::kMaxRatio: kept[j] = double(weights[j]) >= double(plan.ratio) * 2147483648.0; break;
      case Rule::kZero: kept[j] = d - 2 * distances[j] >= 0; break;
      case Rule::kMean: kept[j] = weights[j] * uint64_t(m) >= sum; break;
    }
  }
  return kept;
}

std::vector<bool> kept_by_floats(const AttentionPlan& plan, int head, int row, const uint32_t* query,
                                 const uint32_t* const* key) {
  const int d = plan.head_dim, m = plan.keys;
  const float scale = plan.score_scale[head];
  std::vector<float> scores(m), beta(m), sums(m);
  // With statistics per token: what no score exceeds, if it is small enough to stand for the largest.
  float base = 0.0f;
  if (plan.query_scale != nullptr) {
    float most_scale = 0.0f, most_offset = 0.0f, most_sum = 0.0f;
    for (int j = 0; j < m; j++) {
      const int k = j * plan.heads + head;
      sums[j] = plan.key_scale[k] * float(sum_of_signs(key[j], d));
      most_scale = std::max(most_scale, fabsf(plan.key_scale[k]));
      most_offset = std::max(most_offset, fabsf(plan.key_offset[k]));
      most_sum = std::max(most_sum, fabsf(sums[j]));
    }
    const int q = row * plan.heads + head;
    const float p = scale * plan.query_scale[q], g = scale * plan.query_offset[q];
    const float e = p * float(sum_of_signs(query, d)) + (scale * float(d)) * plan.query_offset[q];
    base = 1.000001f * ((most_scale * fabsf(p * float(d)) + most_offset * fabsf(e)) + most_sum * fabsf(g));
    if (!(base <= 30.0f) || (plan.rule != Rule::kElastic && plan.rule != Rule::kMean)) base = 0.0f;
  }
  for (int j = 0; j < m; j++) {
    if (plan.query_scale != nullptr) {
      const int q = row * plan.heads + head, k = j * plan.heads + head;
      const float p = scale * plan.query_scale[q];
      const float g = scale * plan.query_offset[q];
      const float e = p * float(sum_of_signs(query, d)) + (scale * float(d)) * plan.query_offset[q];
      const float product = fmaf(float(distance(query, key[j], d)), -(p + p), p * float(d));
      scores[j] = fmaf(plan.key_scale[k], product, fmaf(plan.key_offset[k], e, fmaf(sums[j], g, -base)));
    } else {
      float lanes[16] = {};
      for (int c = 0; c < d; c++) {
        const float weight = plan.key_weights[head * d + c];
        lanes[c % 16] = lanes[c % 16] + (bit(key[j], c) ? -weight : weight);
      }
      beta[j] = sum_lanes(lanes);
      scores[j] = scale * float(d - 2 * distance(query, key[j], d)) + beta[j];
    }
  }
  std::vector<bool> kept(m);
  if (plan.rule == Rule::kZero) {
    for (int j = 0; j < m; j++) kept[j] = !(scores[j] < 0.0f);
    return kept;
  }
  // The weight of the row's best key, of which the others are fractions.
  const float largest = base > 0.0f ? 0.0f : *std::max_element(scores.begin(), scores.end());
  std::vector<float> weights(m);
  const float top = *std::max_element(beta.begin(), beta.end());
  const float bottom = *std::min_element(beta.begin(), beta.end());
  const double span = 2.0 * scale * d + (double(top) - double(bottom));
  const bool factors = plan.query_scale == nullptr && scale >= 0.0f && span <= 60.0;
  for (int j = 0; j < m; j++) {
    if (factors) {
      const int k = distance(query, key[j], d);
      const float by_distance = float(exp(-2.0 * scale * (k / 8 * 8))) * float(exp(-2.0 * scale * (k % 8)));
      weights[j] = by_distance * exponential(beta[j] - top);
    } else {
      weights[j] = exponential(scores[j] - largest);
    }
  }
  const float best = factors ? *std::max_element(weights.begin(), weights.end()) : 1.0f;
  float lanes[16] = {};
  for (int j = 0; j < m; j++) lanes[j % 16] = lanes[j % 16] + weights[j];
  const float sum = sum_lanes(lanes);
  for (int j = 0; j < m; j++) {
    switch (plan.rule) {
      case Rule::kElastic: kept[j] = weights[j] > 0.5f * plan.probability_scale[head] * sum; break;
      case Rule::kMaxRatio: kept[j] = !(weights[j] < plan.ratio * best); break;
      default: kept[j] = !(weights[j] < sum / float(m)); break;
    }
  }
  return kept;
}

}  // namespace

void attention(const AttentionPlan& plan, int first, int num_rows, int32_t* counts, int32_t* kept) {
  const int d = plan.head_dim, m = plan.keys, words = (m + 31) / 32;
  std::vector<const uint32_t*> key(m);
  for (int head = 0; head < plan.heads; head++) {
    for (int j = 0; j < m; j++) key[j] = plan.key + j * plan.key_stride + head * d / 32;
    for (int r = 0; r < num_rows; r++) {
      const int row = first + r;
      const uint32_t* query = plan.query + row * plan.query_stride + head * d / 32;
      const bool floats = plan.key_weights != nullptr || plan.query_scale != nullptr;
      const std::vector<bool> keep =
          floats ? kept_by_floats(plan, head, row, query, key.data()) : kept_by_integers(plan, head, query, key.data());
      int32_t* count = counts + (r * plan.heads + head) * d;
      memset(count, 0, sizeof(int32_t) * d);
      kept[r * plan.heads + head] = 0;
      uint32_t* tap = nullptr;
      if (plan.probabilities != nullptr) {
        tap = plan.probabilities + (size_t(head) * plan.queries + row) * words;
        memset(tap, 0, sizeof(uint32_t) * words);
      }
      for (int j = 0; j < m; j++) {
        if (!keep[j]) continue;
        kept[r * plan.heads + head]++;
        if (tap != nullptr) tap[j / 32] |= uint32_t(1) << (j % 32);
        const uint32_t* value = plan.value + j * plan.value_stride + head * d / 32;
        for (int c = 0; c < d; c++) count[c] += !bit(value, c);
      }
    }
  }
}

}  // namespace reference
}  // namespace acdbit
