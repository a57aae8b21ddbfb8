// What SVE would make of the binary product of DeiT-S, 196 x 384 x 384, for the instruction counter of tests/arm64
// (tests/arm64/count_sve.py): the reason why there is no path of its own for it, see results/README.md. Compiled with
// -march=armv8.2-a+sve; the vectors are as long as the processor's.
//
// SVE counts the ones of whole 64-bit lanes, so a lane is an output and no sums of bytes are needed: exclusive or,
// count and addition per register. Weights lie as [tile of outputs][word][output of the tile]; four rows at a time,
// whose words are broadcast when they are loaded.
#include <arm_sve.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <random>
#include <vector>

namespace {

constexpr int kTokens = 196, kOutputs = 384, kWords = 384 / 64;
constexpr long kMarker = 5000;

void product(const uint64_t* rows, const uint64_t* packed, uint32_t* counts) {
  const svbool_t all = svptrue_b64();
  const int lanes = static_cast<int>(svcntd());
  for (int r = 0; r < kTokens; r += 4) {
    const uint64_t* weights = packed;
    for (int o = 0; o < kOutputs; o += lanes, weights += kWords * lanes) {
      svuint64_t sum0, sum1, sum2, sum3;
      const auto word = [&](int row, int w) {
        const svuint64_t difference =
            sveor_x(all, svdup_u64(rows[(r + row) * kWords + w]), svld1(all, weights + w * lanes));
        return svcnt_x(all, difference);
      };
      sum0 = word(0, 0), sum1 = word(1, 0), sum2 = word(2, 0), sum3 = word(3, 0);
#pragma GCC unroll 5
      for (int w = 1; w < kWords; w++) {
        sum0 = svadd_x(all, sum0, word(0, w));
        sum1 = svadd_x(all, sum1, word(1, w));
        sum2 = svadd_x(all, sum2, word(2, w));
        sum3 = svadd_x(all, sum3, word(3, w));
      }
      svst1w(all, counts + (r + 0) * kOutputs + o, sum0);
      svst1w(all, counts + (r + 1) * kOutputs + o, sum1);
      svst1w(all, counts + (r + 2) * kOutputs + o, sum2);
      svst1w(all, counts + (r + 3) * kOutputs + o, sum3);
    }
  }
}

}  // namespace

int main() {
  std::mt19937_64 generator(1);
  std::vector<uint64_t> rows(kTokens * kWords), weights(kOutputs * kWords), packed(weights.size());
  for (uint64_t& word : rows) word = generator();
  for (uint64_t& word : weights) word = generator();
  const int lanes = static_cast<int>(svcntd());
  for (int o = 0; o < kOutputs; o++)
    for (int w = 0; w < kWords; w++) packed[(o / lanes * kWords + w) * lanes + o % lanes] = weights[o * kWords + w];
  std::vector<uint32_t> counts(kTokens * kOutputs);
  syscall(kMarker, 0L);
  product(rows.data(), packed.data(), counts.data());
  syscall(kMarker, 1L);
  for (int r = 0; r < kTokens; r++)
    for (int o = 0; o < kOutputs; o++) {
      uint32_t count = 0;
      for (int w = 0; w < kWords; w++) count += __builtin_popcountll(rows[r * kWords + w] ^ weights[o * kWords + w]);
      if (count != counts[r * kOutputs + o]) return 1;
    }
  printf("%d\n", 64 * lanes);
}
