// Speed of every attention path that this CPU can run: attention_bench [tokens heads head_dim [milliseconds per path]]
//
// attention_keys for every head and attention_rows for every query, one thread, in blocks of rows as the ops call it.
// The paths alternate within one run; medians are printed, in microseconds: the whole and the part of attention_keys.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <random>
#include <vector>

#include "attention.h"
#include "cpu.h"
#include "kernels.h"
#include "timing.h"

namespace acdbit {
namespace {

constexpr int kRowsPerBlock = 16;

template <class T>
T* data_or_null(std::vector<T>& values, bool wanted) {
  return wanted ? values.data() : nullptr;
}

void run(const char* name, bool key_bias, bool dynamic, int tokens, int heads, int head_dim, double milliseconds) {
  const int channels = heads * head_dim, words = channels / 32;
  std::mt19937 random(1);
  std::vector<uint32_t> bits[3];
  for (auto& vector : bits) {
    vector.resize(size_t(tokens) * words);
    for (uint32_t& word : vector) word = random();
  }
  std::vector<float> score_scale(heads, 1.0f / 8.0f), probability_scale(heads, 2.0f / tokens);
  std::vector<float> key_weights(channels, 0.01f), scale(size_t(tokens) * heads, 0.9f), offset(scale.size(), 0.1f);
  std::vector<int32_t> counts(size_t(kRowsPerBlock) * channels), kept(size_t(tokens) * heads);

  AttentionPlan plan;
  plan.heads = heads;
  plan.head_dim = head_dim;
  plan.queries = plan.keys = tokens;
  plan.rule = Rule::kElastic;
  plan.ratio = 0.0f;
  plan.query = bits[0].data();
  plan.key = bits[1].data();
  plan.value = bits[2].data();
  plan.query_stride = plan.key_stride = plan.value_stride = words;
  plan.score_scale = score_scale.data();
  plan.probability_scale = probability_scale.data();
  plan.key_weights = data_or_null(key_weights, key_bias);
  plan.query_scale = plan.key_scale = data_or_null(scale, dynamic);
  plan.query_offset = plan.key_offset = data_or_null(offset, dynamic);
  plan.table = nullptr;
  plan.tables = nullptr;
  plan.factors = nullptr;
  plan.probabilities = nullptr;
  const size_t bytes = attention_workspace_bytes(heads, head_dim, tokens);
  plan.workspace = aligned_alloc(64, bytes);

  struct Path {
    const Kernels* kernels;
    std::vector<double> keys, all;
  };
  std::vector<Path> paths;
  for (const Kernels* kernels : supported_kernels()) paths.push_back({kernels, {}, {}});
  const double end = now_us() + 1e3 * milliseconds * paths.size();
  do {
    for (Path& path : paths) {
      const double start = now_us();
      for (int head = 0; head < heads; head++) path.kernels->attention_keys(&plan, head);
      const double packed = now_us();
      for (int first = 0; first < tokens; first += kRowsPerBlock) {
        const int rows = std::min(kRowsPerBlock, tokens - first);
        path.kernels->attention_rows(&plan, first, rows, counts.data(), kept.data() + size_t(first) * heads);
      }
      path.keys.push_back(packed - start);
      path.all.push_back(now_us() - start);
    }
  } while (now_us() < end);
  int64_t total = 0;
  for (int32_t k : kept) total += k;
  printf("%s (%.0f %% kept)\n", name, 100.0 * total / (double(kept.size()) * tokens));
  for (const Path& path : paths) {
    printf("  %-10s %8.1f us, keys %6.1f us\n", path.kernels->name, median(path.all), median(path.keys));
  }
  free(plan.workspace);
}

}  // namespace
}  // namespace acdbit

int main(int argc, char** argv) {
  const int tokens = argc > 3 ? atoi(argv[1]) : 196;
  const int heads = argc > 3 ? atoi(argv[2]) : 6;
  const int head_dim = argc > 3 ? atoi(argv[3]) : 64;
  const double milliseconds = argc > 4 ? atof(argv[4]) : 200.0;
  if (tokens < 1 || heads < 1 || head_dim < 32 || head_dim % 32 != 0 ||
      acdbit::attention_workspace_bytes(heads, head_dim, tokens) == 0) {
    fprintf(stderr, "usage: attention_bench [tokens heads head_dim [milliseconds per path]]\n");
    return 1;
  }
  printf("%d tokens, %d heads of %d\n", tokens, heads, head_dim);
  acdbit::run("distances only", false, false, tokens, heads, head_dim, milliseconds);
  acdbit::run("key bias", true, false, tokens, heads, head_dim, milliseconds);
  acdbit::run("dynamic", false, true, tokens, heads, head_dim, milliseconds);
  return 0;
}
