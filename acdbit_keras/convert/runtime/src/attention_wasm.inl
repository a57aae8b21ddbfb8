// Binary attention of SIMD128, which counts the bits of bytes: 64 keys at a time, a byte of each.
//
// Keys: per 64 keys, per byte of the head's bits, 64 bytes. Values: V+ per 32 keys, per channel, one word.
#include "attention_common.inl"

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

constexpr int kLanes = 64;

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

static Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys, uint8_t* out) {
  const int planes = head_dim / 8;
  packed += size_t(first) * planes;
  v128_t lowest = wasm_i8x16_const_splat(-1), highest = wasm_i8x16_const_splat(0);
  for (int j = 0; j < keys; j += kLanes, out += kLanes) {
    v128_t total[4];
    for (int i = 0; i < 4; i++) total[i] = wasm_i32x4_const_splat(0);
    for (int p = 0; p < planes; p++, packed += kLanes) {
      const v128_t byte = wasm_i8x16_splat(int8_t(query[p / 4] >> (8 * (p % 4))));
      for (int i = 0; i < 4; i++)
        total[i] = wasm_i8x16_add(total[i], wasm_i8x16_popcnt(wasm_v128_xor(byte, wasm_v128_load(packed + 16 * i))));
    }
    const int count = keys - j < kLanes ? keys - j : kLanes;
    const v128_t places = wasm_i8x16_const(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int i = 0; i < 4; i++) {
      const v128_t absent =
          wasm_i8x16_ge(wasm_i8x16_add(places, wasm_i8x16_splat(int8_t(16 * i))), wasm_i8x16_splat(int8_t(count)));
      const v128_t near = wasm_v128_or(total[i], absent);
      lowest = wasm_u8x16_min(lowest, near);
      highest = wasm_u8x16_max(highest, wasm_v128_andnot(total[i], absent));
      wasm_v128_store(out + 16 * i, near);
    }
  }
  uint8_t low[16], high[16];
  wasm_v128_store(low, lowest);
  wasm_v128_store(high, highest);
  Range range = {255, 0};
  for (int i = 0; i < 16; i++) {
    range.lowest = low[i] < range.lowest ? low[i] : range.lowest;
    range.highest = high[i] > range.highest ? high[i] : range.highest;
  }
  return range;
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
  const v128_t bound = wasm_i8x16_splat(int8_t(limit));
  for (int j = 0; j < keys; j += 32) {
    const uint32_t word = uint32_t(wasm_i8x16_bitmask(wasm_u8x16_lt(wasm_v128_load(distances + j), bound))) |
                          uint32_t(wasm_i8x16_bitmask(wasm_u8x16_lt(wasm_v128_load(distances + j + 16), bound))) << 16;
    words[j / 32] = word;
    count += __builtin_popcount(word);
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

static void count_kept(const uint32_t* words, int first_key, int keys, const uint8_t* values, int head_dim,
                       int32_t* counts) {
  const int num_words = words_of(keys);
  const size_t row = size_t(head_dim) * 4;
  values += size_t(first_key / 32) * row;
  for (int c = 0; c < head_dim; c += 32) {
    v128_t total[8];
    for (int i = 0; i < 8; i++)
      total[i] = first_key > 0 ? wasm_v128_load(counts + c + 4 * i) : wasm_i32x4_const_splat(0);
    for (int first = 0; first < num_words; first += 31) {
      v128_t bytes[8];
      for (int i = 0; i < 8; i++) bytes[i] = wasm_i32x4_const_splat(0);
      for (int w = first; w < num_words && w < first + 31; w++) {
        const v128_t word = wasm_i32x4_splat(int32_t(words[w]));
        const uint8_t* channels = values + size_t(w) * row + 4 * c;
        for (int i = 0; i < 8; i++)
          bytes[i] =
              wasm_i8x16_add(bytes[i], wasm_i8x16_popcnt(wasm_v128_and(wasm_v128_load(channels + 16 * i), word)));
      }
      for (int i = 0; i < 8; i++)
        total[i] =
            wasm_i32x4_add(total[i], wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(bytes[i])));
    }
    for (int i = 0; i < 8; i++) wasm_v128_store(counts + c + 4 * i, total[i]);
  }
}

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
