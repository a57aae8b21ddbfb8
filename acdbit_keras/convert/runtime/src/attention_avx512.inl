// Binary attention with AVX-512 (VPOPCNTDQ, BITALG, VBMI, VNNI): distances of 64 keys in the bytes of a vector, the
// table of exponentials in four, one for each byte of its values.
//
// Keys: per 64 keys, per byte of the head's bits, 64 bytes. Values: V+ per 32 keys, per channel, one word.
#include "attention_common.inl"

#define ACDBIT_HAS_DISTANCES_OF_ROWS
#define ACDBIT_HAS_TABLE_SUMS_OF_ROWS
#define ACDBIT_HAS_WEIGH_ROWS
#define ACDBIT_HAS_KEEP_WEIGHTS

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

constexpr int kLanes = 64;

static void pack_keys(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  for (int first = 0; first < keys; first += kLanes) {
    const int count = keys - first < kLanes ? keys - first : kLanes;
    for (int w = 0; w < head_dim / 32; w++, packed += 4 * kLanes) {
      alignas(64) uint32_t column[kLanes];
      load_column(rows + first * stride + w, stride, count, kLanes, column);
      split_bytes<kLanes>(column, reinterpret_cast<uint8_t(*)[kLanes]>(packed));
    }
  }
}

static void pack_values(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  const size_t row = size_t(head_dim) * 4;
  for (int first = 0; first < keys; first += kLanes, packed += 2 * row) {
    const int count = keys - first < kLanes ? keys - first : kLanes;
    for (int w = 0; w < head_dim / 32; w++) {
      alignas(64) uint32_t column[kLanes];
      alignas(64) uint8_t planes[4][kLanes];
      load_column(rows + first * stride + w, stride, count, kLanes, column);
      split_bytes<kLanes>(column, planes);
      uint8_t* const out = packed + size_t(w) * 32 * 4;
      for (int p = 0; p < 4; p++) {
        __m512i plane = _mm512_load_si512(planes[p]);
        for (int bit = 7; bit >= 0; bit--) {
          const uint64_t plus = ~uint64_t(_mm512_movepi8_mask(plane));
          plane = _mm512_add_epi8(plane, plane);
          memcpy(out + 4 * (8 * p + bit), &plus, 4);
          const uint32_t second = uint32_t(plus >> 32);
          memcpy(out + row + 4 * (8 * p + bit), &second, 4);
        }
      }
    }
  }
}

static inline int lowest_byte(__m512i a) {
  const __m256i half = _mm256_min_epu8(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  __m128i quarter = _mm_min_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  quarter = _mm_min_epu8(quarter, _mm_srli_epi16(quarter, 8));
  return _mm_cvtsi128_si32(_mm_minpos_epu16(quarter)) & 0xff;
}

// Of kBlocks blocks of 64 keys; the last has `left` keys, at most 32 of them if kHalf.
template <int kBlocks, bool kHalf>
static inline __m512i distance_blocks(const uint8_t* query, const uint8_t* packed, int planes, uint8_t* out, int left,
                                      __m512i lowest) {
  constexpr int kWhole = kBlocks - kHalf;
  __m512i total[kBlocks];
  __m256i half = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int b = 0; b < kBlocks; b++) total[b] = _mm512_setzero_si512();
  const size_t block = size_t(planes) * kLanes;
#pragma GCC unroll 4
  for (int p = 0; p < planes; p++, packed += kLanes) {
    const __m512i byte = _mm512_set1_epi8(char(query[p]));
#pragma GCC unroll 4
    for (int b = 0; b < kWhole; b++) {
      const __m512i plane = _mm512_load_si512(packed + b * block);
      total[b] = _mm512_add_epi8(total[b], _mm512_popcnt_epi8(_mm512_xor_si512(plane, byte)));
    }
    if constexpr (kHalf) {
      const __m256i plane = _mm256_load_si256(reinterpret_cast<const __m256i*>(packed + kWhole * block));
      const __m256i differ = _mm256_xor_si256(plane, _mm512_castsi512_si256(byte));
      half = _mm256_add_epi8(half, _mm256_popcnt_epi8(differ));
    }
  }
  if constexpr (kHalf) total[kWhole] = _mm512_castsi256_si512(half);
  const __mmask64 last = ~__mmask64(0) >> (kLanes - left);
  total[kBlocks - 1] = _mm512_mask_mov_epi8(_mm512_set1_epi8(-1), last, total[kBlocks - 1]);
  // Rolled up it would keep the counts in memory.
#pragma GCC unroll 4
  for (int b = 0; b < kBlocks; b++) {
    _mm512_store_si512(out + b * kLanes, total[b]);
    lowest = _mm512_min_epu8(lowest, total[b]);
  }
  return lowest;
}

template <int kBlocks>
static inline __m512i last_blocks(const uint8_t* query, const uint8_t* packed, int planes, uint8_t* out, int left,
                                  __m512i lowest) {
  return left > kLanes / 2 ? distance_blocks<kBlocks, false>(query, packed, planes, out, left, lowest)
                           : distance_blocks<kBlocks, true>(query, packed, planes, out, left, lowest);
}

static inline Range row_distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys,
                                  uint8_t* out) {
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(query);
  const int planes = head_dim / 8;
  packed += size_t(first) * planes;
  const size_t step = size_t(planes) * kLanes * 4;
  __m512i least = _mm512_set1_epi8(-1);
  int left = keys;
  for (; left > 4 * kLanes; left -= 4 * kLanes, packed += step, out += 4 * kLanes)
    least = distance_blocks<4, false>(bytes, packed, planes, out, kLanes, least);
  const int in_last = (left - 1) % kLanes + 1;
  switch ((left - 1) / kLanes) {
    case 3: least = last_blocks<4>(bytes, packed, planes, out, in_last, least); break;
    case 2: least = last_blocks<3>(bytes, packed, planes, out, in_last, least); break;
    case 1: least = last_blocks<2>(bytes, packed, planes, out, in_last, least); break;
    default: least = last_blocks<1>(bytes, packed, planes, out, in_last, least); break;
  }
  return {lowest_byte(least), head_dim};
}

static Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys, uint8_t* out) {
  return row_distances(query, packed, head_dim, first, keys, out);
}

// Without a call for each row, of which there are too many to ignore.
static void distances_of_rows(const uint32_t* query, ptrdiff_t stride, int num_rows, const uint8_t* packed,
                              int head_dim, int first, int keys, uint8_t* out, ptrdiff_t out_stride, Range* range) {
  for (int r = 0; r < num_rows; r++) {
    range[r] = row_distances(query + r * stride, packed, head_dim, first, keys, out + r * out_stride);
  }
}

// The table in chunks of 64 entries; beyond its last non-zero value, and beyond the head's width, there is nothing.
static uint64_t table_sum(const uint8_t* distances, int keys, Range range, const AttentionTable& table) {
  const int span = range.highest - range.lowest < table.last ? range.highest - range.lowest : table.last;
  const __mmask64 tail = ~__mmask64(0) >> (63 - (keys - 1) % kLanes);
  const __m512i width = _mm512_set1_epi8(kLanes);
  const __m512i zero = _mm512_setzero_si512();
  __m512i sums[4] = {zero, zero, zero, zero};
  for (int chunk = 0; chunk <= span; chunk += kLanes) {
    const __m512i nearest = _mm512_set1_epi8(char(range.lowest + chunk));
    __m512i entries[4];
    for (int b = 0; b < 4; b++) entries[b] = _mm512_load_si512(table.planes[b] + chunk);
    for (int j = 0; j < keys; j += kLanes) {
      const __mmask64 present = j + kLanes < keys ? ~__mmask64(0) : tail;
      const __m512i k = _mm512_sub_epi8(_mm512_load_si512(distances + j), nearest);
      const __mmask64 here = _mm512_mask_cmplt_epu8_mask(present, k, width);
      for (int b = 0; b < 4; b++) {
        const __m512i bytes = _mm512_maskz_permutexvar_epi8(here, k, entries[b]);
        sums[b] = _mm512_add_epi64(sums[b], _mm512_sad_epu8(bytes, zero));
      }
    }
  }
  const __m512i low = _mm512_add_epi64(sums[0], _mm512_slli_epi64(sums[1], 8));
  const __m512i high = _mm512_add_epi64(sums[2], _mm512_slli_epi64(sums[3], 8));
  return uint64_t(_mm512_reduce_add_epi64(_mm512_add_epi64(low, _mm512_slli_epi64(high, 16))));
}

// Sums of all lanes of two vectors, together in 64 bits.
static inline uint64_t sum_lanes(__m512i low, __m512i high) {
  const __m512i even = _mm512_mask_shuffle_epi32(low, 0xaaaa, high, _MM_PERM_CCAA);
  const __m512i odd = _mm512_mask_shuffle_epi32(high, 0x5555, low, _MM_PERM_DDBB);
  const __m512i pairs = _mm512_add_epi32(even, odd);
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64(pairs, 1));
  const __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  return uint64_t(_mm_cvtsi128_si64(_mm_add_epi32(quarter, _mm_unpackhi_epi64(quarter, quarter))));
}

// Rows whose distances all lie among the first 64 entries, as those of a head of 64 channels but for one that meets its
// query and its opposite.
static void table_sums_of_rows(const uint8_t* distances, ptrdiff_t stride, int num_rows, int keys, const Range* range,
                               const AttentionTable& table, uint64_t* sums) {
  const __m512i ones = _mm512_set1_epi8(1);
  const __mmask64 tail = ~__mmask64(0) >> (63 - (keys - 1) % kLanes);
  const int last = (keys - 1) / kLanes * kLanes;
  // 32 bits hold the sum of all lanes, of two planes with the second one's weight.
  static_assert(kIntegerTile * 255ll * 257 < 1ll << 32, "a tile");
  __m512i entries[4];
  for (int b = 0; b < 4; b++) entries[b] = _mm512_load_si512(table.planes[b]);
  for (int r = 0; r < num_rows; r++, distances += stride) {
    if (range[r].highest - range[r].lowest >= kLanes) {
      sums[r] += table_sum(distances, keys, range[r], table);
      continue;
    }
    const __m512i nearest = _mm512_set1_epi8(char(range[r].lowest));
    __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    for (int j = 0; j < last; j += kLanes) {
      const __m512i k = _mm512_sub_epi8(_mm512_load_si512(distances + j), nearest);
      sum0 = _mm512_dpbusd_epi32(sum0, _mm512_permutexvar_epi8(k, entries[0]), ones);
      sum1 = _mm512_dpbusd_epi32(sum1, _mm512_permutexvar_epi8(k, entries[1]), ones);
      sum2 = _mm512_dpbusd_epi32(sum2, _mm512_permutexvar_epi8(k, entries[2]), ones);
      sum3 = _mm512_dpbusd_epi32(sum3, _mm512_permutexvar_epi8(k, entries[3]), ones);
    }
    const __m512i k = _mm512_sub_epi8(_mm512_load_si512(distances + last), nearest);
    sum0 = _mm512_dpbusd_epi32(sum0, _mm512_maskz_permutexvar_epi8(tail, k, entries[0]), ones);
    sum1 = _mm512_dpbusd_epi32(sum1, _mm512_maskz_permutexvar_epi8(tail, k, entries[1]), ones);
    sum2 = _mm512_dpbusd_epi32(sum2, _mm512_maskz_permutexvar_epi8(tail, k, entries[2]), ones);
    sum3 = _mm512_dpbusd_epi32(sum3, _mm512_maskz_permutexvar_epi8(tail, k, entries[3]), ones);
    const uint64_t pair = sum_lanes(_mm512_add_epi32(sum0, _mm512_slli_epi32(sum1, 8)),
                                    _mm512_add_epi32(sum2, _mm512_slli_epi32(sum3, 8)));
    sums[r] += (pair & 0xffffffff) + (pair >> 32 << 16);
  }
}

// Most weights are among the first: sixteen entries at a time until one is not above.
static int steps_above(const uint32_t* values, int entries, uint32_t weight) {
  const __m512i bound = _mm512_set1_epi32(int32_t(weight));
  for (int k = 0; k < entries; k += 16) {
    const uint32_t above = _mm512_cmpgt_epu32_mask(_mm512_load_si512(values + k), bound);
    if (above != 0xffff) return k + __builtin_popcount(above);
  }
  return entries;
}

static int keep(const uint8_t* distances, int keys, int limit, uint32_t* words) {
  const __m512i bound = _mm512_set1_epi8(char(limit));
  int count = 0;
  for (int j = 0; j < keys; j += kLanes) {
    const uint64_t bits = _mm512_cmplt_epu8_mask(_mm512_load_si512(distances + j), bound);
    memcpy(words + j / 32, &bits, 8);
    count += __builtin_popcountll(bits);
  }
  return count;
}

static F16 load_distances(const uint8_t* distances) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(distances));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}

// One permutation for the coarse factor, one for the fine.
struct VectorLookup {
  __m512 fine, coarse0, coarse1;

  explicit VectorLookup(const AttentionFactors& factors)
      : fine(_mm512_loadu_ps(factors.fine)),
        coarse0(_mm512_loadu_ps(factors.coarse)),
        coarse1(_mm512_loadu_ps(factors.coarse + 16)) {}

  F16 operator()(const uint8_t* distances) const {
    const __m512i k = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(distances)));
    const __m512 coarse = _mm512_permutex2var_ps(coarse0, _mm512_srli_epi32(k, 3), coarse1);
    return {_mm512_mul_ps(coarse, _mm512_permutexvar_ps(k, fine))};
  }
};

// One permutation, for 32 distances from the lowest on: it takes an index modulo 32, so the table is rotated.
struct WindowLookup {
  static constexpr int kEntries = 32;
  __m512 low, high;

  static bool covers(const uint8_t* distances, int keys, Range range) {
    if (range.lowest > kTablePlane - 2 * kEntries) return false;
    const __m512i end = _mm512_set1_epi8(char(range.lowest + kEntries));
    __mmask64 beyond = 0;
    int j = 0;
    for (; j < keys - kLanes; j += kLanes) beyond |= _mm512_cmpge_epu8_mask(_mm512_load_si512(distances + j), end);
    const __mmask64 present = ~__mmask64(0) >> (kLanes - (keys - j));
    return (beyond | _mm512_mask_cmpge_epu8_mask(present, _mm512_load_si512(distances + j), end)) == 0;
  }

  WindowLookup(const AttentionFactors& factors, Range range) {
    const float* const first = factors.values + range.lowest / kEntries * kEntries;
    const uint32_t before = (uint32_t(1) << range.lowest % kEntries) - 1;
    low = _mm512_mask_loadu_ps(_mm512_loadu_ps(first), __mmask16(before), first + kEntries);
    high = _mm512_mask_loadu_ps(_mm512_loadu_ps(first + 16), __mmask16(before >> 16), first + kEntries + 16);
  }

  F16 operator()(const uint8_t* distances) const {
    const __m512i k = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(distances)));
    return {_mm512_permutex2var_ps(low, k, high)};
  }
};

static F16 weigh(const uint8_t* distances, int keys, Range range, const AttentionFactors& factors,
                 const float* key_factor, float* weights, F16 sum) {
  return WindowLookup::covers(distances, keys, range)
             ? weigh_with(WindowLookup(factors, range), distances, keys, key_factor, weights, sum)
             : weigh_with(VectorLookup(factors), distances, keys, key_factor, weights, sum);
}

// Two rows at once, for the additions of one would wait for each other.
static void weigh_rows(const uint8_t* distances, ptrdiff_t stride, int num_rows, int keys, const Range* range,
                       const AttentionFactors& factors, const float* key_factor, float* weights, F16* sums) {
  int r = 0;
  for (; r + 1 < num_rows; r += 2) {
    const uint8_t *const near0 = distances + r * stride, *const near1 = near0 + stride;
    float *const weights0 = weights + r * stride, *const weights1 = weights0 + stride;
    if (!WindowLookup::covers(near0, keys, range[r]) || !WindowLookup::covers(near1, keys, range[r + 1])) {
      sums[r] = weigh(near0, keys, range[r], factors, key_factor, weights0, sums[r]);
      sums[r + 1] = weigh(near1, keys, range[r + 1], factors, key_factor, weights1, sums[r + 1]);
      continue;
    }
    const WindowLookup lookup0(factors, range[r]), lookup1(factors, range[r + 1]);
    F16 sum0 = sums[r], sum1 = sums[r + 1];
    for (int j = 0; j < keys; j += 16) {
      const F16 factor = load(key_factor + j);
      const F16 weight0 = lookup0(near0 + j) * factor, weight1 = lookup1(near1 + j) * factor;
      store(weights0 + j, weight0);
      store(weights1 + j, weight1);
      sum0 = sum0 + weight0;
      sum1 = sum1 + weight1;
    }
    sums[r] = sum0;
    sums[r + 1] = sum1;
  }
  if (r < num_rows)
    sums[r] = weigh(distances + r * stride, keys, range[r], factors, key_factor, weights + r * stride, sums[r]);
}

template <int kComparison>
static inline int keep_weights(const float* weights, int keys, __m512 bound, uint32_t* words) {
  int count = 0;
  for (int j = 0; j < keys; j += kLanes, weights += kLanes) {
    // What lies beyond the keys, in the tile all the same, is masked out.
    const __mmask16 kept0 = _mm512_cmp_ps_mask(_mm512_load_ps(weights), bound, kComparison);
    const __mmask16 kept1 = _mm512_cmp_ps_mask(_mm512_load_ps(weights + 16), bound, kComparison);
    const __mmask16 kept2 = _mm512_cmp_ps_mask(_mm512_load_ps(weights + 32), bound, kComparison);
    const __mmask16 kept3 = _mm512_cmp_ps_mask(_mm512_load_ps(weights + 48), bound, kComparison);
    uint64_t bits = _cvtmask64_u64(_mm512_kunpackd(_mm512_kunpackw(kept3, kept2), _mm512_kunpackw(kept1, kept0)));
    if (keys - j < kLanes) bits &= ~uint64_t(0) >> (kLanes - (keys - j));
    memcpy(words + j / 32, &bits, 8);
    count += __builtin_popcountll(bits);
  }
  return count;
}

static inline int keep_weights(const float* weights, int keys, float bound, bool inclusive, uint32_t* words) {
  const __m512 threshold = _mm512_set1_ps(bound);
  return inclusive ? keep_weights<_CMP_NLT_UQ>(weights, keys, threshold, words)
                   : keep_weights<_CMP_GT_OQ>(weights, keys, threshold, words);
}

// Lane i, negated if bit i is 1.
static inline F16 negate_where(F16 a, uint32_t bits) {
  return {_mm512_mask_xor_ps(a.v, __mmask16(bits), a.v, _mm512_set1_ps(-0.0f))};
}

// Channels in groups of 16, kGroups at a time.
template <int kGroups>
static inline void count_groups(const uint32_t* words, int num_words, const uint8_t* values, size_t row, bool add,
                                int32_t* counts) {
  __m512i total[kGroups];
  for (int g = 0; g < kGroups; g++) total[g] = add ? _mm512_loadu_si512(counts + 16 * g) : _mm512_setzero_si512();
  for (int w = 0; w < num_words; w++, values += row) {
    const __m512i kept = _mm512_set1_epi32(int32_t(words[w]));
    for (int g = 0; g < kGroups; g++) {
      const __m512i both = _mm512_and_si512(kept, _mm512_load_si512(values + 64 * g));
      total[g] = _mm512_add_epi32(total[g], _mm512_popcnt_epi32(both));
    }
  }
  for (int g = 0; g < kGroups; g++) _mm512_storeu_si512(counts + 16 * g, total[g]);
}

static void count_kept(const uint32_t* words, int first_key, int keys, const uint8_t* values, int head_dim,
                       int32_t* counts) {
  const int num_words = words_of(keys);
  const size_t row = size_t(head_dim) * 4;
  values += size_t(first_key / 32) * row;
  int c = 0;
  for (; c + 64 <= head_dim; c += 64) {
    count_groups<4>(words, num_words, values + 4 * c, row, first_key > 0, counts + c);
  }
  if (c < head_dim) count_groups<2>(words, num_words, values + 4 * c, row, first_key > 0, counts + c);
}

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
