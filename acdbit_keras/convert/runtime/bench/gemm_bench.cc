// Speed of every GEMM path that this CPU can run: gemm_bench [M N K [milliseconds per path]]
//
// "bare" is xor_popcount alone, "epilogue" adds count * multiplier + bias stored as float, block of rows by block of
// rows. The paths alternate within one run; medians are printed, GOPS count 2 M N K.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cpu.h"
#include "kernels.h"
#include "timing.h"

namespace acdbit {
namespace {

constexpr int kRowsPerBlock = 8;

#if defined(__x86_64__)
#define ACDBIT_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ACDBIT_CLONES
#endif

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Counts __attribute__((vector_size(64)));

// Rows of `stride` outputs, sixteen at a time: their constants are loaded once for all rows.
ACDBIT_CLONES void affine(const int32_t* counts, const float* multiplier, const float* bias, int rows, int stride,
                          float* y) {
  for (int o = 0; o < stride; o += 16) {
    Floats m, b;
    memcpy(&m, multiplier + o, sizeof m);
    memcpy(&b, bias + o, sizeof b);
    for (int i = o; i < rows * stride; i += stride) {
      Counts count;
      memcpy(&count, counts + i, sizeof count);
      const Floats result = __builtin_convertvector(count, Floats) * m + b;
      memcpy(y + i, &result, sizeof result);
    }
  }
}

int run(int m, int n, int k, double milliseconds) {
  const int words = (k + 31) / 32, stride = (n + kOutputTile - 1) / kOutputTile * kOutputTile;
  std::mt19937 random(1);
  std::vector<uint32_t> rows(size_t(m) * words), weights(size_t(n) * words);
  for (uint32_t& word : rows) word = random();
  for (uint32_t& word : weights) word = random();
  std::vector<float> multiplier(stride, -0.5f), bias(stride, 1.0f), y(size_t(m) * stride);
  std::vector<int32_t> counts(size_t(m) * stride);

  struct Path {
    const Kernels* kernels;
    std::vector<uint32_t> packed;
    std::vector<double> bare, epilogue;
  };
  std::vector<Path> paths;
  for (const Kernels* kernels : supported_kernels()) {
    Path path{kernels, std::vector<uint32_t>(kernels->packed_weights_words(n, words)), {}, {}};
    path.kernels->pack_weights(weights.data(), n, words, path.packed.data());
    paths.push_back(path);
  }
  const double end = now_us() + 1e3 * milliseconds * paths.size();
  do {
    for (Path& path : paths) {
      for (int i = 0; i < 5; i++) {
        const double start = now_us();
        path.kernels->xor_popcount(rows.data(), words, m, words, path.packed.data(), 0, n, counts.data(), stride);
        const double middle = now_us();
        for (int r = 0; r < m; r += kRowsPerBlock) {
          const int height = std::min(kRowsPerBlock, m - r);
          path.kernels->xor_popcount(rows.data() + size_t(r) * words, words, height, words, path.packed.data(), 0, n,
                                     counts.data(), stride);
          affine(counts.data(), multiplier.data(), bias.data(), height, stride, y.data() + size_t(r) * stride);
        }
        path.bare.push_back(middle - start);
        path.epilogue.push_back(now_us() - middle);
      }
    }
  } while (now_us() < end);

  const double operations = 2.0 * m * n * k;
  printf("M=%d N=%d K=%d, medians\n", m, n, k);
  printf("%-10s %10s %8s %12s %8s\n", "path", "bare us", "GOPS", "epilogue us", "GOPS");
  for (const Path& path : paths) {
    const double bare = median(path.bare), epilogue = median(path.epilogue);
    printf("%-10s %10.2f %8.0f %12.2f %8.0f\n", path.kernels->name, bare, operations / bare * 1e-3, epilogue,
           operations / epilogue * 1e-3);
  }
  return 0;
}

}  // namespace
}  // namespace acdbit

int main(int argc, char** argv) {
  int sizes[3] = {196, 384, 384};
  for (int i = 0; i < 3 && argc >= 4; i++) sizes[i] = atoi(argv[i + 1]);
  if ((argc != 1 && argc != 4 && argc != 5) || sizes[0] < 1 || sizes[1] < 1 || sizes[2] < 1) {
    fprintf(stderr, "usage: gemm_bench [M N K [milliseconds per path]]\n");
    return 1;
  }
  return acdbit::run(sizes[0], sizes[1], sizes[2], argc == 5 ? atof(argv[4]) : 300);
}
