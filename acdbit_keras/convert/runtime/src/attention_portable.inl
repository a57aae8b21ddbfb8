// Binary attention without vector instructions: eight keys to a 64-bit word, a byte each.
//
// Keys: per 64 keys, per byte of the head's bits, 64 bytes. Values: V+ per 32 keys, per channel, one word.
#include "attention_common.inl"

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

constexpr int kLanes = 64;

// For functions that GCC does not vectorize once they are inlined into the loop over rows.
#define ACDBIT_ALONE __attribute__((noinline))

// 32 words by 32 bits: bit j of word i becomes bit i of word j. Halves of words change places, then quarters, ...
static inline void transpose_bits(uint32_t* words) {
  uint32_t mask = 0x0000ffff;
  for (int width = 16; width > 0; width /= 2, mask ^= mask << width) {
    for (int i = 0; i < 32; i++) {
      if (i & width) continue;
      const uint32_t swapped = ((words[i] >> width) ^ words[i + width]) & mask;
      words[i + width] ^= swapped;
      words[i] ^= swapped << width;
    }
  }
}

static void pack_keys(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  for (int first = 0; first < keys; first += kLanes) {
    const int count = keys - first < kLanes ? keys - first : kLanes;
    for (int w = 0; w < head_dim / 32; w++, packed += 4 * kLanes) {
      uint32_t column[kLanes];
      load_column(rows + first * stride + w, stride, count, kLanes, column);
      split_bytes<kLanes>(column, reinterpret_cast<uint8_t(*)[kLanes]>(packed));
    }
  }
}

static void pack_values(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  for (int first = 0; first < keys; first += 32) {
    const int count = keys - first < 32 ? keys - first : 32;
    for (int w = 0; w < head_dim / 32; w++, packed += 4 * 32) {
      uint32_t column[32];
      load_column(rows + first * stride + w, stride, count, 32, column);
      transpose_bits(column);
      for (int c = 0; c < 32; c++) column[c] = ~column[c];
      memcpy(packed, column, sizeof column);
    }
  }
}

ACDBIT_ALONE static Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys,
                                    uint8_t* out) {
  const int planes = head_dim / 8;
  packed += size_t(first) * planes;
  int lowest = 255;
  int highest = 0;
  for (int j = 0; j < keys; j += kLanes, out += kLanes) {
    uint64_t total[kLanes / 8] = {};
    for (int p = 0; p < planes; p++, packed += kLanes) {
      const uint64_t byte = (query[p / 4] >> (8 * (p % 4)) & 0xff) * 0x0101010101010101u;
      uint64_t plane[kLanes / 8];
      memcpy(plane, packed, sizeof plane);
      for (int i = 0; i < kLanes / 8; i++) {
        uint64_t x = plane[i] ^ byte;
        x -= x >> 1 & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
        total[i] += (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
      }
    }
    memcpy(out, total, kLanes);
    const int count = keys - j < kLanes ? keys - j : kLanes;
    for (int i = 0; i < count; i++) {
      lowest = out[i] < lowest ? out[i] : lowest;
      highest = out[i] > highest ? out[i] : highest;
    }
    for (int i = count; i < kLanes; i++) out[i] = 255;
  }
  return {lowest, highest};
}

static uint64_t table_sum(const uint8_t* distances, int keys, Range range, const AttentionTable& table) {
  uint64_t sum = 0;
  for (int j = 0; j < keys; j++) sum += table.values[distances[j] - range.lowest];
  return sum;
}

static int steps_above(const uint32_t* values, int entries, uint32_t weight) {
  int steps = 0;
  while (entries > 1) {
    const int half = entries / 2;
    steps += values[steps + half - 1] > weight ? half : 0;
    entries -= half;
  }
  return steps + (values[steps] > weight ? 1 : 0);
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

struct Signs {
  uint32_t lanes[16][4];

  constexpr Signs() : lanes() {
    for (int bits = 0; bits < 16; bits++) {
      for (int i = 0; i < 4; i++) lanes[bits][i] = uint32_t(bits >> i & 1) << 31;
    }
  }
};
static constexpr Signs kSigns;

// Lane i, negated if bit i is 1.
static inline F16 negate_where(F16 a, uint32_t bits) {
  uint32_t lanes[16];
  memcpy(lanes, &a, sizeof lanes);
  for (int i = 0; i < 16; i += 4, bits >>= 4) {
    for (int k = 0; k < 4; k++) lanes[i + k] ^= kSigns.lanes[bits & 15][k];
  }
  memcpy(&a, lanes, sizeof lanes);
  return a;
}

static F16 weigh(const uint8_t* distances, int keys, Range, const AttentionFactors& factors, const float* key_factor,
                 float* weights, F16 sum) {
  return weigh_with(PlainLookup{factors.values}, distances, keys, key_factor, weights, sum);
}

ACDBIT_ALONE static void count_kept(const uint32_t* words, int first_key, int keys, const uint8_t* values, int head_dim,
                                    int32_t* counts) {
  const int num_words = words_of(keys);
  const size_t row = size_t(head_dim) * 4;
  values += size_t(first_key / 32) * row;
  for (int c = 0; c < head_dim; c += 16) {
    int32_t total[16] = {};
    if (first_key > 0) memcpy(total, counts + c, sizeof total);
    for (int first = 0; first < num_words; first += 31) {
      // Counts of eight keys in each byte; 31 times 8 fit.
      uint32_t bytes[16] = {};
      for (int w = first; w < num_words && w < first + 31; w++) {
        uint32_t channels[16];
        memcpy(channels, values + size_t(w) * row + 4 * c, sizeof channels);
        for (int i = 0; i < 16; i++) {
          uint32_t x = channels[i] & words[w];
          x -= x >> 1 & 0x55555555u;
          x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
          bytes[i] += (x + (x >> 4)) & 0x0f0f0f0fu;
        }
      }
      for (int i = 0; i < 16; i++) {
        const uint32_t pairs = (bytes[i] & 0x00ff00ffu) + (bytes[i] >> 8 & 0x00ff00ffu);
        total[i] += int32_t((pairs & 0xffff) + (pairs >> 16));
      }
    }
    memcpy(counts + c, total, sizeof total);
  }
}

#undef ACDBIT_ALONE

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
