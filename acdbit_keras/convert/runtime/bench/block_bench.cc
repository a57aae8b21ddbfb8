// Speed of the fused block on every path that this CPU can run: block_bench [milliseconds per path and form]
//
// One thread, two sizes, with frozen and with dynamic statistics. Paths and forms alternate within one run; medians are
// printed. Beside the stages stand two of their parts on their own: the binary products, cut as in the stages, and the
// attention of all rows.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <random>
#include <vector>

#include "block.h"
#include "cpu.h"
#include "kernels.h"
#include "timing.h"

namespace acdbit {
namespace {

struct Size {
  const char* name;
  int height, width, channels, heads, mlp_ratio;
};

enum { kProject, kKeys, kFinish, kMix, kTotal, kProducts, kAttention, kColumns };

char* aligned(std::vector<char>& memory) {
  return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
}

// One block on one path, with its memory.
struct Run {
  const Kernels* kernels;
  bool dynamic;
  BlockOptions options;
  std::vector<float> vectors;
  std::vector<uint32_t> words;
  std::vector<char> weights, workspace, scratch, input, output;
  std::vector<int32_t> counts, kept;
  BlockPlan plan;
  std::vector<double> times[kColumns];

  Run(const Size& size, const Kernels* path, bool with_dynamic)
      : kernels(path), dynamic(with_dynamic), options{size.heads,   size.mlp_ratio, Rule::kElastic,
                                                      0.0f,         false,          Branches::kPooling,
                                                      with_dynamic, with_dynamic,   with_dynamic} {
    size_t num_floats, num_words, num_taps;
    const int tokens = size.height * size.width;
    if (!block_sizes(options, size.channels, size.height, size.width, &num_floats, &num_words, &num_taps)) abort();
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    vectors.resize(num_floats);
    for (float& value : vectors) value = 0.1f * normal(random);
    words.resize(num_words);
    for (uint32_t& word : words) word = random();
    const size_t elements = size_t(tokens) * size.channels;
    input.resize(elements * sizeof(float) + 64);
    output.resize(elements * sizeof(float) + 64);
    float* x = reinterpret_cast<float*>(aligned(input));
    for (size_t i = 0; i < elements; i++) x[i] = normal(random);
    counts.resize(elements);
    kept.resize(size_t(tokens) * size.heads);
    weights.resize(block_weights_bytes(options, size.channels, kernels) + 64);
    workspace.resize(block_workspace_bytes(options, size.channels, size.height, size.width) + 64);
    scratch.resize(block_scratch_bytes(options, size.channels) + 64);
    block_prepare(options, size.channels, vectors.data(), words.data(), kernels, aligned(weights), &plan);
    block_place(options, size.height, size.width, aligned(workspace), &plan);
    block_bind(x, reinterpret_cast<float*>(aligned(output)), nullptr, &plan);
    // Scales as in a trained block, so that about a quarter of the probabilities are kept.
    for (int h = 0; h < size.heads; h++) {
      const_cast<float*>(plan.attention.score_scale)[h] = 0.05f;
      const_cast<float*>(plan.attention.probability_scale)[h] = 2.0f / float(tokens);
    }
  }

  void products() {
    const int tokens = plan.height * plan.width;
    const ProductPlan* all[] = {&plan.query, &plan.key, &plan.value, &plan.output, &plan.mlp_1, &plan.mlp_2};
    for (int row = 0; row < tokens; row += kBlockRows) {
      const int rows = std::min(kBlockRows, tokens - row);
      for (int i = 0; i < 6; i++) {
        const int chunk = i < 3 ? kProjectChunk : kBlockChunk, in_words = all[i]->inputs / 32;
        for (int first = 0; first < all[i]->outputs; first += chunk)
          kernels->xor_popcount(words.data() + (row * in_words) % 256, in_words, rows, in_words, all[i]->weights, first,
                                std::min(chunk, all[i]->outputs - first), counts.data(), chunk);
      }
    }
  }

  void measure() {
    const int tokens = plan.height * plan.width;
    char* memory = aligned(scratch);
    double marks[kColumns + 1] = {now_us()};
    kernels->block_project(&plan, 0, tokens, memory);
    marks[1] = now_us();
    for (int head = 0; head < plan.heads; head++) kernels->attention_keys(&plan.attention, head);
    marks[2] = now_us();
    kernels->block_finish(&plan, 0, tokens, memory);
    marks[3] = now_us();
    kernels->block_mix(&plan, 0, tokens);
    marks[4] = now_us();
    products();
    marks[5] = now_us();
    for (int row = 0; row < tokens; row += kBlockRows)
      kernels->attention_rows(&plan.attention, row, std::min(kBlockRows, tokens - row), counts.data(), kept.data());
    marks[6] = now_us();
    for (int i = 0; i < 4; i++) times[i].push_back(marks[i + 1] - marks[i]);
    times[kTotal].push_back(marks[4] - marks[0]);
    times[kProducts].push_back(marks[5] - marks[4]);
    times[kAttention].push_back(marks[6] - marks[5]);
  }
};

void bench(const Size& size, double milliseconds) {
  std::vector<Run> runs;
  runs.reserve(8);
  for (const Kernels* kernels : supported_kernels())
    for (const bool dynamic : {false, true}) runs.emplace_back(size, kernels, dynamic);
  const double end = now_us() + 1e3 * milliseconds * double(runs.size());
  do {
    for (Run& run : runs)
      for (int i = 0; i < 4; i++) run.measure();
  } while (now_us() < end);
  printf("%s: %d x %d tokens, %d channels, %d heads, ratio %d; medians in us\n", size.name, size.height, size.width,
         size.channels, size.heads, size.mlp_ratio);
  printf("%-9s %-8s %8s %8s %8s %8s %9s | %8s %9s\n", "path", "form", "project", "keys", "finish", "mix", "total",
         "products", "attention");
  for (const Run& run : runs) {
    printf("%-9s %-8s", run.kernels->name, run.dynamic ? "dynamic" : "frozen");
    for (int i = 0; i < kColumns; i++)
      printf(i == kTotal ? " %9.1f |" : i == kAttention ? " %9.1f" : " %8.1f", median(run.times[i]));
    printf("\n");
  }
}

}  // namespace
}  // namespace acdbit

int main(int argc, char** argv) {
  const double milliseconds = argc > 1 ? atof(argv[1]) : 300;
  acdbit::bench({"DeiT-S", 14, 14, 384, 6, 4}, milliseconds);
  acdbit::bench({"small", 8, 8, 96, 3, 2}, milliseconds);
  return 0;
}
