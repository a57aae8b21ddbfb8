// Binary attention a key at a time, for few registers and little memory: one row at once, tiles of 256 keys.
//
// Keys: as they come, the words of one behind those of the other. Values: V+ per 32 keys, per channel, one word.
#define ACDBIT_HAS_TILES
#define ACDBIT_HAS_KEEP_WEIGHTS
#define ACDBIT_HAS_SIGNED_SUMS

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

constexpr int kTileStep = 256;
constexpr int kMostRows = 1;
constexpr int kIntegerTile = 256;
constexpr int kFloatTile = 256;

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit

#include "attention_common.inl"

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

static void pack_keys(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  const size_t row = size_t(head_dim) / 8;
  for (int j = 0; j < keys; j++, rows += stride, packed += row) memcpy(packed, rows, row);
}

static void pack_values(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  uint32_t* words = reinterpret_cast<uint32_t*>(packed);
  for (int first = 0; first < keys; first += 32, words += head_dim) {
    memset(words, 0, size_t(head_dim) * sizeof *words);
    const int count = keys - first < 32 ? keys - first : 32;
    for (int j = 0; j < count; j++) {
      const uint32_t* row = rows + (first + j) * stride;
      for (int c = 0; c < head_dim; c++) words[c] |= (~row[c / 32] >> (c % 32) & 1u) << j;
    }
  }
}

static Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys, uint8_t* out) {
  const int words = head_dim / 32;
  const uint32_t* key = reinterpret_cast<const uint32_t*>(packed) + ptrdiff_t(first) * words;
  Range range = {255, 0};
  for (int j = 0; j < keys; j++) {
    int count = 0;
    for (int w = 0; w < words; w++) count += popcount32(query[w] ^ *key++);
    out[j] = uint8_t(count);
    range.lowest = count < range.lowest ? count : range.lowest;
    range.highest = count > range.highest ? count : range.highest;
  }
  for (int j = keys; j % 32 != 0; j++) out[j] = 255;
  return range;
}

static uint64_t table_sum(const uint8_t* distances, int keys, Range range, const AttentionTable& table) {
  uint64_t sum = 0;
  for (int j = 0; j < keys; j++) sum += table.values[distances[j] - range.lowest];
  return sum;
}

static int steps_above(const uint32_t* values, int entries, uint32_t weight) {
  int steps = 0;
  while (steps < entries && values[steps] > weight) steps++;
  return steps;
}

static int keep(const uint8_t* distances, int keys, int limit, uint32_t* words) {
  int count = 0;
  for (int j = 0; j < keys; j += 32) {
    uint32_t word = 0;
    for (int i = 0; i < 32; i++) word |= uint32_t(distances[j + i] < limit) << i;
    words[j / 32] = word;
    count += popcount32(word);
  }
  return count;
}

static F16 load_distances(const uint8_t* distances) {
  int32_t lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = distances[i];
  return convert(lanes);
}

static F16 weigh(const uint8_t* distances, int keys, Range, const AttentionFactors& factors, const float* key_factor,
                 float* weights, F16 sum) {
  for (int j = 0; j < keys; j++) {
    const float weight = factors.values[distances[j]] * key_factor[j];
    weights[j] = weight;
    sum.v[j % 16] += weight;
  }
  for (int j = keys; j % 16 != 0; j++) weights[j] = 0.0f;
  return sum;
}

static int keep_weights(const float* weights, int keys, float bound, bool inclusive, uint32_t* words) {
  int count = 0;
  for (int j = 0; j < keys; j += 32) {
    const int last = keys - j < 32 ? keys - j : 32;
    uint32_t word = 0;
    if (inclusive) {
      for (int i = 0; i < last; i++) word |= uint32_t(!(weights[j + i] < bound)) << i;
    } else {
      for (int i = 0; i < last; i++) word |= uint32_t(bound < weights[j + i]) << i;
    }
    words[j / 32] = word;
    count += popcount32(word);
  }
  return count;
}

static void signed_sums(const float* weights, const uint32_t* keys, ptrdiff_t stride, int num_keys, int num_words,
                        float* sums) {
  for (int j = 0; j < num_keys; j++, keys += stride) {
    F16 lanes = splat(0.0f);
    for (int w = 0; w < num_words; w++) {
      uint32_t bits = keys[w];
      for (int i = 0; i < 32; i++, bits >>= 1) {
        const float weight = weights[32 * w + i];
        lanes.v[i % 16] += bits & 1u ? -weight : weight;
      }
    }
    sums[j] = sum(lanes);
  }
}

static void count_kept(const uint32_t* words, int first_key, int keys, const uint8_t* values, int head_dim,
                       int32_t* counts) {
  const uint32_t* channels = reinterpret_cast<const uint32_t*>(values) + ptrdiff_t(first_key / 32) * head_dim;
  if (first_key == 0) memset(counts, 0, size_t(head_dim) * sizeof *counts);
  for (int w = 0; w < words_of(keys); w++, channels += head_dim) {
    const uint32_t word = words[w];
    for (int c = 0; c < head_dim; c++) counts[c] += popcount32(channels[c] & word);
  }
}

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
