// Binary attention with AVX2, which counts bits by looking up four at a time: with the query's (or the kept keys') four
// bits choosing the table, one lookup is both the xor (or the and) and the count.
//
// Keys: per 32 keys, per four bits of the head, 32 bytes below 16. Values: V+ per four keys, per channel, such a byte.
#include "attention_common.inl"

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

constexpr int kLanes = 32;

struct NibbleCounts {
  uint8_t differ[16][16];
  uint8_t both[16][16];

  constexpr NibbleCounts() : differ(), both() {
    for (int a = 0; a < 16; a++) {
      for (int b = 0; b < 16; b++) {
        for (int bit = 0; bit < 4; bit++) {
          differ[a][b] = uint8_t(differ[a][b] + ((a ^ b) >> bit & 1));
          both[a][b] = uint8_t(both[a][b] + ((a & b) >> bit & 1));
        }
      }
    }
  }
};
alignas(64) static constexpr NibbleCounts kNibbleCounts;

static inline __m256i load_table(const uint8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}
static inline __m256i load_bytes(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
static inline void store_bytes(uint8_t* p, __m256i a) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), a); }

// Nibble n of word j to out[n * stride + j].
static inline void split_nibbles(const uint32_t* words, size_t stride, uint8_t* out) {
  alignas(32) uint8_t planes[4][kLanes];
  split_bytes<kLanes>(words, planes);
  const __m256i low = _mm256_set1_epi8(15);
  for (int b = 0; b < 4; b++) {
    const __m256i bytes = load_bytes(planes[b]);
    store_bytes(out + 2 * b * stride, _mm256_and_si256(bytes, low));
    store_bytes(out + (2 * b + 1) * stride, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low));
  }
}

static void pack_keys(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  for (int first = 0; first < keys; first += kLanes) {
    const int count = keys - first < kLanes ? keys - first : kLanes;
    for (int w = 0; w < head_dim / 32; w++, packed += 8 * kLanes) {
      uint32_t column[kLanes];
      load_column(rows + first * stride + w, stride, count, kLanes, column);
      split_nibbles(column, kLanes, packed);
    }
  }
}

static void pack_values(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  for (int first = 0; first < keys; first += kLanes, packed += 8 * size_t(head_dim)) {
    const int count = keys - first < kLanes ? keys - first : kLanes;
    for (int w = 0; w < head_dim / 32; w++) {
      uint32_t column[kLanes];
      alignas(32) uint8_t planes[4][kLanes];
      uint32_t plus[32];
      load_column(rows + first * stride + w, stride, count, kLanes, column);
      split_bytes<kLanes>(column, planes);
      for (int b = 0; b < 4; b++) {
        __m256i plane = load_bytes(planes[b]);
        for (int bit = 7; bit >= 0; bit--) {
          plus[8 * b + bit] = ~uint32_t(_mm256_movemask_epi8(plane));
          plane = _mm256_add_epi8(plane, plane);
        }
      }
      split_nibbles(plus, head_dim, packed + 32 * w);
    }
  }
}

struct Extremes {
  __m256i lowest;
  __m256i highest;
};

template <int kBlocks>
static inline void distance_blocks(const uint32_t* query, const uint8_t* packed, int head_dim, int keys, uint8_t* out,
                                   Extremes* extremes) {
  __m256i total[kBlocks];
  for (int b = 0; b < kBlocks; b++) total[b] = _mm256_setzero_si256();
  const size_t block = size_t(head_dim / 4) * kLanes;
  for (int w = 0; w < head_dim / 32; w++) {
    uint32_t bits = query[w];
    for (int n = 0; n < 8; n++, bits >>= 4, packed += kLanes) {
      const __m256i table = load_table(kNibbleCounts.differ[bits & 15]);
      for (int b = 0; b < kBlocks; b++) {
        total[b] = _mm256_add_epi8(total[b], _mm256_shuffle_epi8(table, load_bytes(packed + b * block)));
      }
    }
  }
  for (int b = 0; b + 1 < kBlocks; b++) {
    store_bytes(out + b * kLanes, total[b]);
    extremes->lowest = _mm256_min_epu8(extremes->lowest, total[b]);
    extremes->highest = _mm256_max_epu8(extremes->highest, total[b]);
  }
  const __m256i lane = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                        22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
  const __m256i absent = _mm256_cmpgt_epi8(lane, _mm256_set1_epi8(char(keys - 1 - (kBlocks - 1) * kLanes)));
  const __m256i last = total[kBlocks - 1];
  store_bytes(out + (kBlocks - 1) * kLanes, _mm256_or_si256(last, absent));
  extremes->lowest = _mm256_min_epu8(extremes->lowest, _mm256_or_si256(last, absent));
  extremes->highest = _mm256_max_epu8(extremes->highest, _mm256_andnot_si256(absent, last));
}

static inline int lowest_byte(__m256i a) {
  __m128i half = _mm_min_epu8(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  half = _mm_min_epu8(half, _mm_srli_epi16(half, 8));
  return _mm_cvtsi128_si32(_mm_minpos_epu16(half)) & 0xff;
}

static Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys, uint8_t* out) {
  constexpr int kMostBlocks = 8;
  const size_t row = head_dim / 4;
  packed += size_t(first) * row;
  Extremes extremes = {_mm256_set1_epi8(-1), _mm256_setzero_si256()};
  int left = keys;
  for (; left > kMostBlocks * kLanes; left -= kMostBlocks * kLanes) {
    distance_blocks<kMostBlocks>(query, packed, head_dim, kMostBlocks * kLanes, out, &extremes);
    packed += row * kMostBlocks * kLanes;
    out += kMostBlocks * kLanes;
  }
  switch ((left - 1) / kLanes) {
    case 0: distance_blocks<1>(query, packed, head_dim, left, out, &extremes); break;
    case 1: distance_blocks<2>(query, packed, head_dim, left, out, &extremes); break;
    case 2: distance_blocks<3>(query, packed, head_dim, left, out, &extremes); break;
    case 3: distance_blocks<4>(query, packed, head_dim, left, out, &extremes); break;
    case 4: distance_blocks<5>(query, packed, head_dim, left, out, &extremes); break;
    case 5: distance_blocks<6>(query, packed, head_dim, left, out, &extremes); break;
    case 6: distance_blocks<7>(query, packed, head_dim, left, out, &extremes); break;
    default: distance_blocks<8>(query, packed, head_dim, left, out, &extremes); break;
  }
  const __m256i ones = _mm256_set1_epi8(-1);
  return {lowest_byte(extremes.lowest), 255 - lowest_byte(_mm256_xor_si256(extremes.highest, ones))};
}

// The table in chunks of 16 entries. Adding 0x70 makes every index outside a chunk negative, for which the shuffle
// gives 0. Absent keys, at 255, lie beyond the last chunk: no distance is within 16 of them.
static uint64_t table_sum(const uint8_t* distances, int keys, Range range, const AttentionTable& table) {
  const int span = range.highest - range.lowest < table.last ? range.highest - range.lowest : table.last;
  const __m256i outside = _mm256_set1_epi8(0x70);
  const __m256i zero = _mm256_setzero_si256();
  __m256i sums[4] = {zero, zero, zero, zero};
  for (int chunk = 0; chunk <= span; chunk += 16) {
    const __m256i nearest = _mm256_set1_epi8(char(range.lowest + chunk));
    __m256i entries[4];
    for (int b = 0; b < 4; b++) entries[b] = load_table(table.planes[b] + chunk);
    for (int j = 0; j < keys; j += kLanes) {
      const __m256i k = _mm256_adds_epu8(_mm256_sub_epi8(load_bytes(distances + j), nearest), outside);
      for (int b = 0; b < 4; b++) {
        sums[b] = _mm256_add_epi64(sums[b], _mm256_sad_epu8(_mm256_shuffle_epi8(entries[b], k), zero));
      }
    }
  }
  const __m256i low = _mm256_add_epi64(sums[0], _mm256_slli_epi64(sums[1], 8));
  const __m256i high = _mm256_add_epi64(sums[2], _mm256_slli_epi64(sums[3], 8));
  const __m256i all = _mm256_add_epi64(low, _mm256_slli_epi64(high, 16));
  const __m128i pair = _mm_add_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  return uint64_t(_mm_cvtsi128_si64(pair)) + uint64_t(_mm_extract_epi64(pair, 1));
}

// For tables as short as these, comparing all entries is faster than searching.
static int steps_above(const uint32_t* values, int entries, uint32_t weight) {
  const __m256i flip = _mm256_set1_epi32(INT32_MIN);  // unsigned numbers compare as signed ones
  const __m256i bound = _mm256_xor_si256(_mm256_set1_epi32(int32_t(weight)), flip);
  __m256i above = _mm256_setzero_si256();
  for (int k = 0; k < entries; k += 8) {
    const __m256i entry = _mm256_xor_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(values + k)), flip);
    above = _mm256_sub_epi32(above, _mm256_cmpgt_epi32(entry, bound));
  }
  __m128i total = _mm_add_epi32(_mm256_castsi256_si128(above), _mm256_extracti128_si256(above, 1));
  total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4e));
  return _mm_cvtsi128_si32(total) + _mm_extract_epi32(total, 1);
}

static int keep(const uint8_t* distances, int keys, int limit, uint32_t* words) {
  // Unsigned bytes compare by their minimum, and only with <=.
  const uint32_t any = limit > 0 ? ~0u : 0;
  const __m256i bound = _mm256_set1_epi8(char(limit - 1));
  int count = 0;
  for (int j = 0; j < keys; j += kLanes) {
    const __m256i near = load_bytes(distances + j);
    const uint32_t word = any & uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(near, bound), near)));
    words[j / 32] = word;
    count += popcount32(word);
  }
  return count;
}

static F16 load_distances(const uint8_t* distances) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(distances));
  return {{_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
           _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))}};
}

// One permutation for the coarse factor, one for the fine. A permutation takes its index modulo 8, so one vector holds
// the coarse factors of a range of 57 distances, wherever it starts.
struct VectorLookup {
  __m256 fine, coarse;

  static bool covers(Range range) { return range.highest / kFactorStep - range.lowest / kFactorStep < 8; }

  VectorLookup(const AttentionFactors& factors, Range range) : fine(_mm256_loadu_ps(factors.fine)) {
    const int first = range.lowest / kFactorStep;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i rotated = _mm256_sub_epi32(lane, _mm256_set1_epi32(first));
    coarse = _mm256_permutevar8x32_ps(_mm256_loadu_ps(factors.coarse + first), rotated);
  }

  F16 operator()(const uint8_t* distances) const {
    F16 result;
    for (int i = 0; i < 2; i++) {
      const __m256i k = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(distances + 8 * i)));
      const __m256 c = _mm256_permutevar8x32_ps(coarse, _mm256_srli_epi32(k, 3));
      result.v[i] = _mm256_mul_ps(c, _mm256_permutevar8x32_ps(fine, k));
    }
    return result;
  }
};

static F16 weigh(const uint8_t* distances, int keys, Range range, const AttentionFactors& factors,
                 const float* key_factor, float* weights, F16 sum) {
  if (!VectorLookup::covers(range))
    return weigh_with(PlainLookup{factors.values}, distances, keys, key_factor, weights, sum);
  return weigh_with(VectorLookup(factors, range), distances, keys, key_factor, weights, sum);
}

// Lane i, negated if bit i is 1.
static inline F16 negate_where(F16 a, uint32_t bits) {
  const __m256i to_sign = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (int i = 0; i < 2; i++, bits >>= 8) {
    const __m256i shifted = _mm256_sllv_epi32(_mm256_set1_epi32(int32_t(bits)), to_sign);
    a.v[i] = _mm256_xor_ps(a.v[i], _mm256_and_ps(_mm256_castsi256_ps(shifted), sign));
  }
  return a;
}

// Channels in groups of 32, kGroups at a time; keys are counted in bytes, which hold 63 lookups.
template <int kGroups>
static inline void count_groups(const uint32_t* words, int num_words, const uint8_t* values, int head_dim, bool add,
                                int32_t* counts) {
  constexpr int kMostWords = 7;
  for (int first = 0; first < num_words; first += kMostWords) {
    __m256i total[kGroups];
    for (int g = 0; g < kGroups; g++) total[g] = _mm256_setzero_si256();
    for (int w = first; w < num_words && w < first + kMostWords; w++) {
      uint32_t bits = words[w];
      for (int n = 0; n < 8; n++, bits >>= 4, values += head_dim) {
        const __m256i table = load_table(kNibbleCounts.both[bits & 15]);
        for (int g = 0; g < kGroups; g++) {
          total[g] = _mm256_add_epi8(total[g], _mm256_shuffle_epi8(table, load_bytes(values + 32 * g)));
        }
      }
    }
    for (int g = 0; g < kGroups; g++) {
      alignas(32) uint8_t bytes[32];
      store_bytes(bytes, total[g]);
      for (int i = 0; i < 32; i += 8) {
        __m256i* const out = reinterpret_cast<__m256i*>(counts + 32 * g + i);
        const __m256i eight = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + i)));
        _mm256_storeu_si256(out, add ? _mm256_add_epi32(_mm256_loadu_si256(out), eight) : eight);
      }
    }
    add = true;
  }
}

static void count_kept(const uint32_t* words, int first_key, int keys, const uint8_t* values, int head_dim,
                       int32_t* counts) {
  const int num_words = words_of(keys);
  values += size_t(first_key / 4) * head_dim;
  int c = 0;
  for (; c + 64 <= head_dim; c += 64) {
    count_groups<2>(words, num_words, values + c, head_dim, first_key > 0, counts + c);
  }
  if (c < head_dim) count_groups<1>(words, num_words, values + c, head_dim, first_key > 0, counts + c);
}

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
