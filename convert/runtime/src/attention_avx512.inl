// Binary attention with AVX-512 (VPOPCNTDQ, BITALG, VBMI): distances of 64 keys in the bytes of a vector, the table of
// exponentials in four, one for each byte of its values.
//
// Keys: per 64 keys, per byte of the head's bits, 64 bytes. Values: V+ per 32 keys, per channel, one word.
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

template <int kBlocks>
static inline __m512i distance_blocks(const uint8_t* query, const uint8_t* packed, int planes, uint8_t* out,
                                      __mmask64 last, __m512i lowest) {
  __m512i total[kBlocks];
  for (int b = 0; b < kBlocks; b++) total[b] = _mm512_setzero_si512();
  const size_t block = size_t(planes) * kLanes;
#pragma GCC unroll 4
  for (int p = 0; p < planes; p++) {
    const __m512i byte = _mm512_set1_epi8(char(query[p]));
    for (int b = 0; b < kBlocks; b++) {
      const __m512i plane = _mm512_load_si512(packed + b * block + p * kLanes);
      total[b] = _mm512_add_epi8(total[b], _mm512_popcnt_epi8(_mm512_xor_si512(plane, byte)));
    }
  }
  total[kBlocks - 1] = _mm512_mask_mov_epi8(_mm512_set1_epi8(-1), last, total[kBlocks - 1]);
  for (int b = 0; b < kBlocks; b++) {
    _mm512_store_si512(out + b * kLanes, total[b]);
    lowest = _mm512_min_epu8(lowest, total[b]);
  }
  return lowest;
}

__attribute__((always_inline)) static inline Range row_distances(const uint32_t* query, const uint8_t* packed,
                                                                 int head_dim, int first, int keys, uint8_t* out) {
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(query);
  const int planes = head_dim / 8;
  packed += size_t(first) * planes;
  const size_t step = size_t(planes) * kLanes * 4;
  __m512i least = _mm512_set1_epi8(-1);
  int left = keys;
  for (; left > 4 * kLanes; left -= 4 * kLanes, packed += step, out += 4 * kLanes) {
    least = distance_blocks<4>(bytes, packed, planes, out, ~__mmask64(0), least);
  }
  const __mmask64 last = ~__mmask64(0) >> (63 - (left - 1) % kLanes);
  if (left > 3 * kLanes) {
    least = distance_blocks<4>(bytes, packed, planes, out, last, least);
  } else if (left > 2 * kLanes) {
    least = distance_blocks<3>(bytes, packed, planes, out, last, least);
  } else if (left > kLanes) {
    least = distance_blocks<2>(bytes, packed, planes, out, last, least);
  } else {
    least = distance_blocks<1>(bytes, packed, planes, out, last, least);
  }
  const __m256i half = _mm256_min_epu8(_mm512_castsi512_si256(least), _mm512_extracti64x4_epi64(least, 1));
  __m128i quarter = _mm_min_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  quarter = _mm_min_epu8(quarter, _mm_srli_epi16(quarter, 8));
  return {_mm_cvtsi128_si32(_mm_minpos_epu16(quarter)) & 0xff, head_dim};
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

// For tables as short as these, comparing all entries is faster than searching.
static int steps_above(const uint32_t* values, int entries, uint32_t weight) {
  const __m512i bound = _mm512_set1_epi32(int32_t(weight));
  int steps = 0;
  for (int k = 0; k < entries; k += 16) {
    steps += __builtin_popcount(_mm512_cmpgt_epu32_mask(_mm512_load_si512(values + k), bound));
  }
  return steps;
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

static F16 weigh(const uint8_t* distances, int keys, Range, const AttentionFactors& factors, const float* key_factor,
                 float* weights, F16 sum) {
  return weigh_with(VectorLookup(factors), distances, keys, key_factor, weights, sum);
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
