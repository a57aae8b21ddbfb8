// Binary attention with NEON, which counts the bits of bytes. Several query rows share what is loaded.
//
// Keys: per 16 keys, per 64 bits of the head, 8 bytes of each key; the last key fills up its sixteen, and zeros the
// last 64 bits. Values: V+ per 8 keys, per channel, one byte.
#include "attention_common.inl"

#define ACDBIT_HAS_DISTANCES_OF_ROWS
#define ACDBIT_HAS_TABLE_SUMS_OF_ROWS
#define ACDBIT_HAS_COUNT_KEPT_OF_ROWS
#define ACDBIT_HAS_KEEP_WEIGHTS
#define ACDBIT_HAS_SIGNED_SUMS

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

constexpr int kLanes = 16;
constexpr int kPieceBytes = 8;  // 64 bits of a key
constexpr int kPiece = kLanes * kPieceBytes;
constexpr int kByteRounds = 31;  // popcounts that a byte can add up

static int pieces_of(int head_dim) { return (head_dim + 63) / 64; }

static void pack_keys(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  const int words = head_dim / 32, pieces = pieces_of(head_dim);
  const int padded = (keys + kLanes - 1) / kLanes * kLanes;
  for (int j = 0; j < padded; j++) {
    const uint32_t* row = rows + (j < keys ? j : keys - 1) * stride;
    uint8_t* out = packed + size_t(j / kLanes) * pieces * kPiece + j % kLanes * kPieceBytes;
    for (int w = 0; w < words; w += 2, out += kPiece) {
      const uint32_t piece[2] = {row[w], w + 1 < words ? row[w + 1] : 0};
      memcpy(out, piece, kPieceBytes);
    }
  }
}

// Byte lane c: all ones if bit c of the word, its bytes in lanes 0 to 3, is set; of 16 bits that start at byte `first`.
template <int kFirst>
static inline uint8x16_t spread_bits(uint8x16_t word) {
  constexpr uint8_t a = kFirst, b = kFirst + 1;
  const uint8x16_t bytes = {a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
  const uint8x16_t own_bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return vtstq_u8(vqtbl1q_u8(word, bytes), own_bit);
}

static void pack_values(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  for (int first = 0; first < keys; first += 8, packed += head_dim) {
    for (int w = 0; w < head_dim / 32; w++) {
      uint8x16_t low[8], high[8];
      for (int k = 0; k < 8; k++) {
        const uint32_t* word = rows + (first + k < keys ? first + k : keys - 1) * stride + w;
        const uint8x16_t bytes = vreinterpretq_u8_u32(vld1q_dup_u32(word));
        low[k] = spread_bits<0>(bytes);
        high[k] = spread_bits<2>(bytes);
      }
      // Every shift replaces all bits from k on, of which the next ones replace all but bit k.
      uint8x16_t bits0 = low[0], bits1 = high[0];
#define ACDBIT_INSERT(k)                \
  bits0 = vsliq_n_u8(bits0, low[k], k); \
  bits1 = vsliq_n_u8(bits1, high[k], k)
      ACDBIT_INSERT(1);
      ACDBIT_INSERT(2);
      ACDBIT_INSERT(3);
      ACDBIT_INSERT(4);
      ACDBIT_INSERT(5);
      ACDBIT_INSERT(6);
      ACDBIT_INSERT(7);
#undef ACDBIT_INSERT
      vst1q_u8(packed + 32 * w, vmvnq_u8(bits0));
      vst1q_u8(packed + 32 * w + 16, vmvnq_u8(bits1));
    }
  }
}

// Bytes of 16 keys, two to a register, to one sum per key.
static inline uint8x16_t sum_keys(const uint8x16_t* sums) {
  const uint8x16_t low = vpaddq_u8(vpaddq_u8(sums[0], sums[1]), vpaddq_u8(sums[2], sums[3]));
  const uint8x16_t high = vpaddq_u8(vpaddq_u8(sums[4], sums[5]), vpaddq_u8(sums[6], sums[7]));
  return vpaddq_u8(low, high);
}

// 64 bits of a query in both halves.
static inline uint8x16_t load_query(const uint32_t* query, int words) {
  const uint32_t piece[2] = {query[0], words > 1 ? query[1] : 0};
  uint64_t both;
  memcpy(&both, piece, sizeof both);
  return vreinterpretq_u8_u64(vdupq_n_u64(both));
}

// Marks the absent keys up to a multiple of 64.
static inline void mark_absent(int keys, uint8_t* out) {
  int j = keys / kLanes * kLanes;
  if (j < keys) {
    const uint8x16_t lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vst1q_u8(out + j, vorrq_u8(vld1q_u8(out + j), vcgeq_u8(lane, vdupq_n_u8(uint8_t(keys - j)))));
    j += kLanes;
  }
  for (; j % 64 != 0; j += kLanes) vst1q_u8(out + j, vdupq_n_u8(255));
}

// Heads of up to 64 bits.
template <int kRows>
static inline void distances_64(const uint32_t* query, ptrdiff_t stride, const uint8_t* packed, int head_dim, int keys,
                                uint8_t* out, ptrdiff_t out_stride, Range* range) {
  uint8x16_t rows[kRows], lowest[kRows], highest[kRows];
  for (int r = 0; r < kRows; r++) {
    rows[r] = load_query(query + r * stride, head_dim / 32);
    lowest[r] = vdupq_n_u8(255);
    highest[r] = vdupq_n_u8(0);
  }
  for (int j = 0; j < keys; j += kLanes, packed += kPiece) {
    uint8x16_t pairs[8];
    for (int i = 0; i < 8; i++) pairs[i] = vld1q_u8(packed + 16 * i);
    for (int r = 0; r < kRows; r++) {
      uint8x16_t sums[8];
      for (int i = 0; i < 8; i++) sums[i] = vcntq_u8(veorq_u8(pairs[i], rows[r]));
      const uint8x16_t near = sum_keys(sums);
      lowest[r] = vminq_u8(lowest[r], near);
      highest[r] = vmaxq_u8(highest[r], near);
      vst1q_u8(out + r * out_stride + j, near);
    }
  }
  for (int r = 0; r < kRows; r++) {
    mark_absent(keys, out + r * out_stride);
    range[r] = {vminvq_u8(lowest[r]), vmaxvq_u8(highest[r])};
  }
}

static void distances_of_rows(const uint32_t* query, ptrdiff_t stride, int num_rows, const uint8_t* packed,
                              int head_dim, int first, int keys, uint8_t* out, ptrdiff_t out_stride, Range* range) {
  const int pieces = pieces_of(head_dim);
  packed += size_t(first / kLanes) * pieces * kPiece;
  if (pieces == 1) {
    for (; num_rows >= 4; num_rows -= 4, query += 4 * stride, out += 4 * out_stride, range += 4)
      distances_64<4>(query, stride, packed, head_dim, keys, out, out_stride, range);
    if (num_rows & 2) {
      distances_64<2>(query, stride, packed, head_dim, keys, out, out_stride, range);
      query += 2 * stride;
      out += 2 * out_stride;
      range += 2;
    }
    if (num_rows & 1) distances_64<1>(query, stride, packed, head_dim, keys, out, out_stride, range);
    return;
  }
  for (int r = 0; r < num_rows; r++, query += stride, out += out_stride) {
    const uint8_t* next = packed;
    uint8x16_t lowest = vdupq_n_u8(255), highest = vdupq_n_u8(0);
    for (int j = 0; j < keys; j += kLanes) {
      uint8x16_t sums[8] = {};
      for (int w = 0; w < head_dim / 32; w += 2, next += kPiece) {
        const uint8x16_t row = load_query(query + w, head_dim / 32 - w);
        for (int i = 0; i < 8; i++) sums[i] = vaddq_u8(sums[i], vcntq_u8(veorq_u8(vld1q_u8(next + 16 * i), row)));
      }
      const uint8x16_t near = sum_keys(sums);
      lowest = vminq_u8(lowest, near);
      highest = vmaxq_u8(highest, near);
      vst1q_u8(out + j, near);
    }
    mark_absent(keys, out);
    range[r] = {vminvq_u8(lowest), vmaxvq_u8(highest)};
  }
}

static inline Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys,
                              uint8_t* out) {
  Range range;
  distances_of_rows(query, 0, 1, packed, head_dim, first, keys, out, 0, &range);
  return range;
}

// 16 * kRegisters entries of a plane. An index outside them gives 0. Loaded as one, for its registers must be adjacent.
template <int kRegisters>
struct Entries;
template <>
struct Entries<1> {
  uint8x16_t table;
  void load(const uint8_t* plane) { table = vld1q_u8(plane); }
  uint8x16_t at(uint8x16_t index) const { return vqtbl1q_u8(table, index); }
};
template <>
struct Entries<2> {
  uint8x16x2_t table;
  void load(const uint8_t* plane) { table = vld1q_u8_x2(plane); }
  uint8x16_t at(uint8x16_t index) const { return vqtbl2q_u8(table, index); }
};
template <>
struct Entries<3> {
  uint8x16x3_t table;
  void load(const uint8_t* plane) { table = vld1q_u8_x3(plane); }
  uint8x16_t at(uint8x16_t index) const { return vqtbl3q_u8(table, index); }
};
template <>
struct Entries<4> {
  uint8x16x4_t table;
  void load(const uint8_t* plane) { table = vld1q_u8_x4(plane); }
  uint8x16_t at(uint8x16_t index) const { return vqtbl4q_u8(table, index); }
};

// Adds the entries from `first_entry` on.
template <int kRegisters>
static inline void sum_entries(const uint8_t* distances, ptrdiff_t stride, int num_rows, int keys, const Range* range,
                               const AttentionTable& table, int first_entry, uint64_t* sums) {
  constexpr int kRounds = 128;  // sums of byte pairs that 16 bits can add up
  Entries<kRegisters> plane0, plane1, plane2, plane3;
  plane0.load(table.planes[0] + first_entry);
  plane1.load(table.planes[1] + first_entry);
  plane2.load(table.planes[2] + first_entry);
  plane3.load(table.planes[3] + first_entry);
  for (int r = 0; r < num_rows; r++, distances += stride) {
    const uint8x16_t base = vdupq_n_u8(uint8_t(range[r].lowest + first_entry));
    for (int first = 0; first < keys; first += kRounds * kLanes) {
      const uint8_t* next = distances + first;
      const uint8_t* const end = distances + (keys - first < kRounds * kLanes ? keys : first + kRounds * kLanes);
      uint16x8_t sum0 = vdupq_n_u16(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
      for (; next < end; next += kLanes) {
        const uint8x16_t index = vsubq_u8(vld1q_u8(next), base);
        sum0 = vpadalq_u8(sum0, plane0.at(index));
        sum1 = vpadalq_u8(sum1, plane1.at(index));
        sum2 = vpadalq_u8(sum2, plane2.at(index));
        sum3 = vpadalq_u8(sum3, plane3.at(index));
      }
      const uint64_t low = vaddlvq_u16(sum0) + (uint64_t(vaddlvq_u16(sum1)) << 8);
      const uint64_t high = vaddlvq_u16(sum2) + (uint64_t(vaddlvq_u16(sum3)) << 8);
      sums[r] += low + (high << 16);
    }
  }
}

// As many entries, to sixteen, as the widest range asks for. An index below them wraps around to 64 or more.
static void table_sums_of_rows(const uint8_t* distances, ptrdiff_t stride, int num_rows, int keys, const Range* range,
                               const AttentionTable& table, uint64_t* sums) {
  int span = 0, lowest = 0;
  for (int r = 0; r < num_rows; r++) {
    const int here = range[r].highest - range[r].lowest;
    span = here > span ? here : span;
    lowest = range[r].lowest > lowest ? range[r].lowest : lowest;
  }
  span = span < table.last ? span : table.last;
  // An absent key, at 255, must lie beyond the entries. It does if there is one row, as kMaxHeadDim leaves 31 free.
  if (num_rows > 1 && 255 - lowest < span / 16 * 16 + 16) {
    for (int r = 0; r < num_rows; r++)
      table_sums_of_rows(distances + r * stride, 0, 1, keys, range + r, table, sums + r);
    return;
  }
  for (int chunk = 0; chunk <= span; chunk += 64) {
    const int last = (span - chunk) / 16;
    const auto sum = last == 0   ? sum_entries<1>
                     : last == 1 ? sum_entries<2>
                     : last == 2 ? sum_entries<3>
                                 : sum_entries<4>;
    sum(distances, stride, num_rows, keys, range, table, chunk, sums);
  }
}

// Most weights are among the first: sixteen entries at a time until one is not above.
static int steps_above(const uint32_t* values, int entries, uint32_t weight) {
  const uint32x4_t bound = vdupq_n_u32(weight);
  int steps = 0;
  for (int k = 0; k < entries; k += 16) {
    uint32x4_t above[4];
    for (int i = 0; i < 4; i++) above[i] = vcgtq_u32(vld1q_u32(values + k + 4 * i), bound);
    const uint32x4_t sum = vaddq_u32(vaddq_u32(above[0], above[1]), vaddq_u32(above[2], above[3]));
    const int here = -int32_t(vaddvq_u32(sum));
    steps += here;
    if (here < 16) break;
  }
  return steps;
}

static int keep(const uint8_t* distances, int keys, int limit, uint32_t* words) {
  const uint8x16_t own_bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bound = vdupq_n_u8(uint8_t(limit));
  uint16x4_t count = vdup_n_u16(0);
  for (int j = 0; j < keys; j += 64, words += 2) {
    uint8x16_t bits[4];
    for (int i = 0; i < 4; i++) bits[i] = vandq_u8(vcltq_u8(vld1q_u8(distances + j + 16 * i), bound), own_bit);
    const uint8x16_t fours = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
    const uint8x8_t bytes = vget_low_u8(vpaddq_u8(fours, fours));
    vst1_u8(reinterpret_cast<uint8_t*>(words), bytes);
    count = vpadal_u8(count, vcnt_u8(bytes));
  }
  return int(vaddlv_u16(count));
}

static F16 load_distances(const uint8_t* distances) {
  const uint8x16_t bytes = vld1q_u8(distances);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))};
}

// Sixteen floats from their bytes.
static inline F16 join_bytes(uint8x16_t byte0, uint8x16_t byte1, uint8x16_t byte2, uint8x16_t byte3) {
  const uint16x8_t low0 = vreinterpretq_u16_u8(vzip1q_u8(byte0, byte1));
  const uint16x8_t low1 = vreinterpretq_u16_u8(vzip2q_u8(byte0, byte1));
  const uint16x8_t high0 = vreinterpretq_u16_u8(vzip1q_u8(byte2, byte3));
  const uint16x8_t high1 = vreinterpretq_u16_u8(vzip2q_u8(byte2, byte3));
  return {vreinterpretq_f32_u16(vzip1q_u16(low0, high0)), vreinterpretq_f32_u16(vzip2q_u16(low0, high0)),
          vreinterpretq_f32_u16(vzip1q_u16(low1, high1)), vreinterpretq_f32_u16(vzip2q_u16(low1, high1))};
}

// For a range of up to 16 * kRegisters distances. The tables are locals, for members GCC would leave in memory.
template <int kRegisters>
static inline F16 weigh_entries(const uint8_t* distances, int keys, Range range, const AttentionFactors& factors,
                                const float* key_factor, float* weights, F16 sum) {
  Entries<kRegisters> plane0, plane1, plane2, plane3;
  plane0.load(factors.planes[0] + range.lowest);
  plane1.load(factors.planes[1] + range.lowest);
  plane2.load(factors.planes[2] + range.lowest);
  plane3.load(factors.planes[3] + range.lowest);
  const uint8x16_t base = vdupq_n_u8(uint8_t(range.lowest));
  for (int j = 0; j < keys; j += kLanes) {
    const uint8x16_t k = vsubq_u8(vld1q_u8(distances + j), base);
    const F16 factor = join_bytes(plane0.at(k), plane1.at(k), plane2.at(k), plane3.at(k));
    const F16 weight = factor * load(key_factor + j);
    store(weights + j, weight);
    sum = sum + weight;
  }
  return sum;
}

static F16 weigh(const uint8_t* distances, int keys, Range range, const AttentionFactors& factors,
                 const float* key_factor, float* weights, F16 sum) {
  switch ((range.highest - range.lowest) / 16) {
    case 0: return weigh_entries<1>(distances, keys, range, factors, key_factor, weights, sum);
    case 1: return weigh_entries<2>(distances, keys, range, factors, key_factor, weights, sum);
    case 2: return weigh_entries<3>(distances, keys, range, factors, key_factor, weights, sum);
    case 3: return weigh_entries<4>(distances, keys, range, factors, key_factor, weights, sum);
  }
  return weigh_with(PlainLookup{factors.values}, distances, keys, key_factor, weights, sum);
}

// Bit i of sixteen, in byte i, = weight i is kept.
template <bool kInclusive>
static inline uint8x16_t kept_bits(const float* weights, F16 threshold) {
  const uint8x16_t own_bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  // Not as one load of four registers, which GCC would copy.
  const F16 weight = {vld1q_f32(weights), vld1q_f32(weights + 4), vld1q_f32(weights + 8), vld1q_f32(weights + 12)};
  return kInclusive ? vbicq_u8(own_bit, less_bytes(weight, threshold))
                    : vandq_u8(own_bit, less_bytes(threshold, weight));
}

template <bool kInclusive>
static inline int keep_weights(const float* weights, int keys, F16 threshold, uint32_t* words) {
  uint8_t* out = reinterpret_cast<uint8_t*>(words);
  uint16x4_t count = vdup_n_u16(0);
  int j = 0;
  for (; j + 64 <= keys; j += 64, out += 8) {
    uint8x16_t bits[4];
    for (int i = 0; i < 4; i++) bits[i] = kept_bits<kInclusive>(weights + j + 16 * i, threshold);
    const uint8x16_t fours = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
    const uint8x8_t bytes = vget_low_u8(vpaddq_u8(fours, fours));
    vst1_u8(out, bytes);
    count = vpadal_u8(count, vcnt_u8(bytes));
  }
  if (j < keys) {
    uint64_t last = 0;
    for (int i = j; i < keys; i += kLanes) {
      uint8x16_t bits = kept_bits<kInclusive>(weights + i, threshold);
      for (int step = 0; step < 3; step++) bits = vpaddq_u8(bits, bits);
      last |= uint64_t(vgetq_lane_u16(vreinterpretq_u16_u8(bits), 0)) << (i - j);
    }
    last &= ~uint64_t(0) >> (64 - (keys - j));
    const uint8x8_t bytes = vcreate_u8(last);
    vst1_u8(out, bytes);
    count = vpadal_u8(count, vcnt_u8(bytes));
  }
  return int(vaddlv_u16(count));
}

static int keep_weights(const float* weights, int keys, float bound, bool inclusive, uint32_t* words) {
  return inclusive ? keep_weights<true>(weights, keys, splat(bound), words)
                   : keep_weights<false>(weights, keys, splat(bound), words);
}

// Magnitudes with the sign of bit kFirst + i in lane i, which is shifted to where the sign stands.
template <int kFirst>
static inline float32x4_t signed_by(float32x4_t magnitude, uint32x4_t bits) {
  const int32x4_t to_top = {31 - kFirst, 30 - kFirst, 29 - kFirst, 28 - kFirst};
  return vreinterpretq_f32_u32(
      vbslq_u32(vdupq_n_u32(0x80000000u), vshlq_u32(bits, to_top), vreinterpretq_u32_f32(magnitude)));
}
template <int kFirst>
static inline F16 signed_by(F16 magnitude, uint32x4_t bits) {
  return {signed_by<kFirst>(magnitude.v0, bits), signed_by<kFirst + 4>(magnitude.v1, bits),
          signed_by<kFirst + 8>(magnitude.v2, bits), signed_by<kFirst + 12>(magnitude.v3, bits)};
}

// Bit i = the sign of float i.
static inline uint32_t sign_bits(const float* values) {
  uint32_t bits = 0;
  for (int i = 0; i < 32; i++) bits |= load_word(values + i) >> 31 << i;
  return bits;
}

// Of each key the sum over the channels of the weights, negated where its bit is 1. kWords words to a head, whose
// magnitudes then stay in registers; 0 for any number.
template <int kWords>
static void signed_sums_of(const float* weights, const uint32_t* keys, ptrdiff_t stride, int num_keys, int num_words,
                           float* sums) {
  if constexpr (kWords > 0) {
    uint32_t negative[kWords];
    F16 low[kWords], high[kWords];
    for (int w = 0; w < kWords; w++) {
      negative[w] = sign_bits(weights + 32 * w);
      low[w] = absolute(load(weights + 32 * w));
      high[w] = absolute(load(weights + 32 * w + 16));
    }
    for (int j = 0; j < num_keys; j++, keys += stride) {
      F16 lanes = splat(0.0f);
#pragma GCC unroll 2
      for (int w = 0; w < kWords; w++) {
        const uint32x4_t bits = vdupq_n_u32(keys[w] ^ negative[w]);
        lanes = lanes + signed_by<0>(low[w], bits);
        lanes = lanes + signed_by<16>(high[w], bits);
      }
      sums[j] = sum(lanes);
    }
  } else {
    for (int j = 0; j < num_keys; j++, keys += stride) {
      F16 lanes = splat(0.0f);
      for (int w = 0; w < num_words; w++) {
        const uint32x4_t bits = vdupq_n_u32(keys[w] ^ sign_bits(weights + 32 * w));
        lanes = lanes + signed_by<0>(absolute(load(weights + 32 * w)), bits);
        lanes = lanes + signed_by<16>(absolute(load(weights + 32 * w + 16)), bits);
      }
      sums[j] = sum(lanes);
    }
  }
}

static void signed_sums(const float* weights, const uint32_t* keys, ptrdiff_t stride, int num_keys, int num_words,
                        float* sums) {
  const auto of_head = num_words == 1 ? signed_sums_of<1> : num_words == 2 ? signed_sums_of<2> : signed_sums_of<0>;
  of_head(weights, keys, stride, num_keys, num_words, sums);
}

// Sixteen counts in bytes to 32-bit ones.
static inline void store_counts(uint8x16_t bytes, bool add, int32_t* counts) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  const uint32x4_t wide[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)),
                              vmovl_high_u16(high)};
  if (add) {
    for (int i = 0; i < 4; i++)
      vst1q_s32(counts + 4 * i, vaddq_s32(vld1q_s32(counts + 4 * i), vreinterpretq_s32_u32(wide[i])));
  } else {
    for (int i = 0; i < 4; i++) vst1q_s32(counts + 4 * i, vreinterpretq_s32_u32(wide[i]));
  }
}

// 16 * kVectors channels of kRows rows, of which 8 * rounds keys are read.
template <int kRows, int kVectors>
static inline void count_channels(const uint32_t* words, ptrdiff_t words_stride, int rounds, const uint8_t* values,
                                  int head_dim, bool add, int32_t* counts, ptrdiff_t stride) {
  const uint8_t* kept[kRows];
  for (int r = 0; r < kRows; r++) kept[r] = reinterpret_cast<const uint8_t*>(words + r * words_stride);
  for (int first = 0; first < rounds; first += kByteRounds) {
    const int end = rounds - first < kByteRounds ? rounds : first + kByteRounds;
    uint8x16_t total[kRows][kVectors];
    for (int r = 0; r < kRows; r++) {
      for (int v = 0; v < kVectors; v++) total[r][v] = vdupq_n_u8(0);
    }
    for (int j = first; j < end; j++, values += head_dim) {
      uint8x16_t plus[kVectors];
      for (int v = 0; v < kVectors; v++) plus[v] = vld1q_u8(values + 16 * v);
      for (int r = 0; r < kRows; r++) {
        const uint8x16_t keys = vld1q_dup_u8(kept[r]);
        // An address of its own to each row, which the load moves on: GCC would add the rows' distance each time.
        kept[r]++;
        asm("" : "+r"(kept[r]));
        for (int v = 0; v < kVectors; v++) total[r][v] = vaddq_u8(total[r][v], vcntq_u8(vandq_u8(plus[v], keys)));
      }
    }
    // Loops would keep the sums in memory.
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) store_counts(total[r][v], add, counts + r * stride + 16 * v);
    }
    add = true;
  }
}

template <int kRows>
static void count_kept(const uint32_t* words, ptrdiff_t words_stride, int first_key, int keys, const uint8_t* values,
                       int head_dim, int32_t* counts, ptrdiff_t stride) {
  const int rounds = (keys + 7) / 8;
  values += size_t(first_key / 8) * head_dim;
  int c = 0;
  for (; c + 64 <= head_dim; c += 64)
    count_channels<kRows, 4>(words, words_stride, rounds, values + c, head_dim, first_key > 0, counts + c, stride);
  if (c < head_dim)
    count_channels<kRows, 2>(words, words_stride, rounds, values + c, head_dim, first_key > 0, counts + c, stride);
}

static void count_kept_of_rows(const uint32_t* words, ptrdiff_t words_stride, int num_rows, int first_key, int keys,
                               const uint8_t* values, int head_dim, int32_t* counts, ptrdiff_t stride) {
  for (; num_rows >= 4; num_rows -= 4, words += 4 * words_stride, counts += 4 * stride)
    count_kept<4>(words, words_stride, first_key, keys, values, head_dim, counts, stride);
  if (num_rows & 2) {
    count_kept<2>(words, words_stride, first_key, keys, values, head_dim, counts, stride);
    words += 2 * words_stride;
    counts += 2 * stride;
  }
  if (num_rows & 1) count_kept<1>(words, words_stride, first_key, keys, values, head_dim, counts, stride);
}

static inline void count_kept(const uint32_t* words, int first_key, int keys, const uint8_t* values, int head_dim,
                              int32_t* counts) {
  count_kept<1>(words, 0, first_key, keys, values, head_dim, counts, 0);
}

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
