// Products of which one side is a matrix of signs, -1 or +1. Included once per instruction set.
//
// Of a real row times such a matrix, four rows of signs make 16 possible sums for every four real numbers. With AVX-512
// these are a register, and a permutation by the signs of 16 columns does the work of 64 multiply-adds; elsewhere the
// signs are multiplied.

#if defined(__AVX512F__)

// `Code`: entry (g, l) of a (rows / 4, columns) matrix holds the signs of rows 4 g .. 4 g + 3 in bits 0 .. 3, 1 being
// +1.
using Code = int32_t;
constexpr int64_t kCodeRows = 4;

inline void CodeRow(Code* codes, int64_t row, int64_t columns, const float* z, const float* threshold) {
  Code* own = codes + row / 4 * columns;
  const Code bit = 1 << (row % 4);
  const Code keep = row % 4 ? -1 : 0;
#pragma omp simd
  for (int64_t c = 0; c < columns; c++) own[c] = (own[c] & keep) | (z[c] >= threshold[c] ? bit : 0);
}

// Sums of the numbers g[0], g[stride], g[2 stride], g[3 stride] under every choice of signs; entry e has + where a bit
// is 1.
struct SignedSums {
  const __m512 first = _mm512_setr_ps(-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1);
  const __m512 second = _mm512_setr_ps(-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1);
  const __m512 third = _mm512_setr_ps(-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1);
  const __m512 fourth = _mm512_setr_ps(-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1);

  __m512 operator()(const float* g, int64_t stride) const {
    const __m512 low = _mm512_fmadd_ps(_mm512_set1_ps(g[stride]), second, _mm512_mul_ps(_mm512_set1_ps(g[0]), first));
    const __m512 high =
        _mm512_fmadd_ps(_mm512_set1_ps(g[3 * stride]), fourth, _mm512_mul_ps(_mm512_set1_ps(g[2 * stride]), third));
    return _mm512_add_ps(low, high);
  }
};

// Two rows of sums over 16 V columns: out = (add ? out : 0) + sum over groups of four numbers `step` floats apart.
template <int V, bool add>
inline void SignedSumTile(const float* g0, const float* g1, int64_t step, int64_t stride, int64_t groups,
                          const Code* codes, int64_t columns, float* out0, float* out1) {
  const SignedSums sums;
  __m512 a[V], b[V];
  for (int v = 0; v < V; v++) {
    a[v] = add ? _mm512_loadu_ps(out0 + 16 * v) : _mm512_setzero_ps();
    b[v] = add ? _mm512_loadu_ps(out1 + 16 * v) : _mm512_setzero_ps();
  }
  for (int64_t g = 0; g < groups; g++) {
    const __m512 t0 = sums(g0 + g * step, stride), t1 = sums(g1 + g * step, stride);
    const Code* own = codes + g * columns;
#pragma GCC unroll 8
    for (int v = 0; v < V; v++) {
      const __m512i index = _mm512_loadu_si512(own + 16 * v);
      a[v] = _mm512_add_ps(a[v], _mm512_permutexvar_ps(index, t0));
      b[v] = _mm512_add_ps(b[v], _mm512_permutexvar_ps(index, t1));
    }
  }
  for (int v = 0; v < V; v++) {
    _mm512_storeu_ps(out0 + 16 * v, a[v]);
    _mm512_storeu_ps(out1 + 16 * v, b[v]);
  }
}

template <bool add>
inline void SignedSumRows(const float* g0, const float* g1, int64_t step, int64_t stride, int64_t groups,
                          const Code* codes, int64_t columns, float* out0, float* out1) {
  for (int64_t c = 0; c < columns;) {
    const int64_t left = (columns - c) / 16;
    const auto tile = left >= 8   ? SignedSumTile<8, add>
                      : left >= 4 ? SignedSumTile<4, add>
                      : left >= 2 ? SignedSumTile<2, add>
                                  : SignedSumTile<1, add>;
    tile(g0, g1, step, stride, groups, codes + c, columns, out0 + c, out1 + c);
    c += 16 * (left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1);
  }
}

// out (rows, columns) = real (rows, depth) @ signs (depth, columns). Depth a multiple of 4, columns of 16.
inline void RealBySigns(const float* real, int64_t rows, int64_t depth, const Code* codes, int64_t columns,
                        float* out) {
  for (int64_t r = 0; r < rows; r += 2) {
    const int64_t other = r + 1 < rows ? r + 1 : r;
    SignedSumRows<false>(real + r * depth, real + other * depth, 4, 1, depth / 4, codes, columns, out + r * columns,
                         out + other * columns);
  }
}

// out (units, columns) += real (rows, units)^T @ signs (rows, columns). Rows a multiple of 4, units of 2, columns
// of 16.
inline void SignsByReal(const float* real, int64_t rows, int64_t units, const Code* codes, int64_t columns,
                        float* out) {
  for (int64_t o = 0; o < units; o += 2) {
    SignedSumRows<true>(real + o, real + o + 1, 4 * units, units, rows / 4, codes, columns, out + o * columns,
                        out + (o + 1) * columns);
  }
}

#else

// `Code`: the signs themselves, (rows, columns).
using Code = float;
constexpr int64_t kCodeRows = 1;

inline void CodeRow(Code* codes, int64_t row, int64_t columns, const float* z, const float* threshold) {
  Code* own = codes + row * columns;
#pragma omp simd
  for (int64_t c = 0; c < columns; c++) own[c] = z[c] >= threshold[c] ? 1.0f : -1.0f;
}

#if defined(__AVX2__) && defined(__FMA__)

// Both sides of a tile lie packed: rows of a power of two floats would share a few sets of the first cache.
constexpr int kTileRows = 6, kTileColumns = 16;

enum class Operand { kReal, kSigns };

// Memory for one packed operand, kept from call to call.
template <Operand>
inline float* Packed(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(static_cast<size_t>(floats));
  return memory.data();
}

// out (R, 16) = (add ? out : 0) + sum over k of real[r * row_stride + k * step] * signs[16 k ..].
template <int R, bool add>
inline void SignedSumTile(const float* real, int64_t row_stride, int64_t step, int64_t depth, const float* signs,
                          int64_t columns, float* out) {
  __m256 low[R], high[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) {
    low[r] = add ? _mm256_loadu_ps(out + r * columns) : _mm256_setzero_ps();
    high[r] = add ? _mm256_loadu_ps(out + r * columns + 8) : _mm256_setzero_ps();
  }
  for (int64_t k = 0; k < depth; k++) {
    const __m256 left = _mm256_loadu_ps(signs + k * kTileColumns),
                 right = _mm256_loadu_ps(signs + k * kTileColumns + 8);
    const float* from = real + k * step;
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const __m256 factor = _mm256_broadcast_ss(from + r * row_stride);
      low[r] = _mm256_fmadd_ps(factor, left, low[r]);
      high[r] = _mm256_fmadd_ps(factor, right, high[r]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) {
    _mm256_storeu_ps(out + r * columns, low[r]);
    _mm256_storeu_ps(out + r * columns + 8, high[r]);
  }
}

template <bool add>
inline void SignedSums(int64_t rows, const float* real, int64_t row_stride, int64_t step, int64_t depth,
                       const float* signs, int64_t columns, float* out) {
  const auto tile = rows >= 6   ? SignedSumTile<6, add>
                    : rows == 5 ? SignedSumTile<5, add>
                    : rows == 4 ? SignedSumTile<4, add>
                    : rows == 3 ? SignedSumTile<3, add>
                    : rows == 2 ? SignedSumTile<2, add>
                                : SignedSumTile<1, add>;
  tile(real, row_stride, step, depth, signs, columns, out);
}

inline const float* PackSigns(const Code* codes, int64_t depth, int64_t columns) {
  float* packed = Packed<Operand::kSigns>(depth * kTileColumns);
  for (int64_t k = 0; k < depth; k++) {
    std::memcpy(packed + k * kTileColumns, codes + k * columns, kTileColumns * sizeof(Code));
  }
  return packed;
}

inline void RealBySigns(const float* real, int64_t rows, int64_t depth, const Code* codes, int64_t columns,
                        float* out) {
  for (int64_t c = 0; c < columns; c += kTileColumns) {
    const float* signs = PackSigns(codes + c, depth, columns);
    for (int64_t r = 0; r < rows; r += kTileRows) {
      SignedSums<false>(rows - r, real + r * depth, depth, 1, depth, signs, columns, out + r * columns + c);
    }
  }
}

inline void SignsByReal(const float* real, int64_t rows, int64_t units, const Code* codes, int64_t columns,
                        float* out) {
  const int64_t tiles = (units + kTileRows - 1) / kTileRows, size = rows * kTileRows;
  float* packed = Packed<Operand::kReal>(tiles * size);
  const int64_t full = units / kTileRows, left = units % kTileRows;
  for (int64_t k = 0; k < rows; k++) {
    const float* from = real + k * units;
    float* to = packed + k * kTileRows;
    for (int64_t t = 0; t < full; t++) std::memcpy(to + t * size, from + t * kTileRows, kTileRows * sizeof(float));
    for (int64_t r = 0; r < left; r++) to[full * size + r] = from[full * kTileRows + r];
  }
  for (int64_t c = 0; c < columns; c += kTileColumns) {
    const float* signs = PackSigns(codes + c, rows, columns);
    for (int64_t t = 0; t < tiles; t++) {
      SignedSums<true>(units - t * kTileRows, packed + t * size, 1, kTileRows, rows, signs, columns,
                       out + t * kTileRows * columns + c);
    }
  }
}

#else

constexpr int kTileRows = 4, kTileColumns = 16;

template <bool add>
inline void SignedSumTile(const float* real, int64_t row_stride, int64_t step, int64_t rows, int64_t depth,
                          const Code* codes, int64_t columns, float* out) {
  float sums[kTileRows][kTileColumns];
  const float* from[kTileRows];
  for (int r = 0; r < kTileRows; r++) {
    from[r] = real + (r < rows ? r : rows - 1) * row_stride;
    for (int c = 0; c < kTileColumns; c++) sums[r][c] = add && r < rows ? out[r * columns + c] : 0.0f;
  }
  for (int64_t k = 0; k < depth; k++) {
    const Code* own = codes + k * columns;
    for (int r = 0; r < kTileRows; r++) {
      const float factor = from[r][k * step];
#pragma omp simd
      for (int c = 0; c < kTileColumns; c++) sums[r][c] += factor * own[c];
    }
  }
  for (int r = 0; r < kTileRows && r < rows; r++) {
    for (int c = 0; c < kTileColumns; c++) out[r * columns + c] = sums[r][c];
  }
}

inline void RealBySigns(const float* real, int64_t rows, int64_t depth, const Code* codes, int64_t columns,
                        float* out) {
  for (int64_t c = 0; c < columns; c += kTileColumns) {
    for (int64_t r = 0; r < rows; r += kTileRows) {
      SignedSumTile<false>(real + r * depth, depth, 1, rows - r, depth, codes + c, columns, out + r * columns + c);
    }
  }
}

inline void SignsByReal(const float* real, int64_t rows, int64_t units, const Code* codes, int64_t columns,
                        float* out) {
  for (int64_t c = 0; c < columns; c += kTileColumns) {
    for (int64_t o = 0; o < units; o += kTileRows) {
      SignedSumTile<true>(real + o, 1, units, units - o, rows, codes + c, columns, out + o * columns + c);
    }
  }
}

#endif

#endif

inline int64_t CodeSize(int64_t rows, int64_t columns) { return (rows + kCodeRows - 1) / kCodeRows * columns; }

// Bit c % 32 of word c / 32 is 1 where z >= threshold.
inline void PackRow(const float* z, const float* threshold, int64_t columns, uint32_t* words) {
  for (int64_t w = 0; w < columns / 32; w++) {
#if defined(__AVX512F__)
    const auto half = [&](int64_t c) {
      return static_cast<uint32_t>(
          _mm512_cmp_ps_mask(_mm512_loadu_ps(z + c), _mm512_loadu_ps(threshold + c), _CMP_GE_OQ));
    };
    words[w] = half(32 * w) | half(32 * w + 16) << 16;
#elif defined(__AVX2__)
    uint32_t word = 0;
    for (int part = 0; part < 4; part++) {
      const int64_t c = 32 * w + 8 * part;
      const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(z + c), _mm256_loadu_ps(threshold + c), _CMP_GE_OQ);
      word |= static_cast<uint32_t>(_mm256_movemask_ps(above)) << (8 * part);
    }
    words[w] = word;
#else
    uint32_t word = 0;
    for (int bit = 0; bit < 32; bit++) word |= static_cast<uint32_t>(z[32 * w + bit] >= threshold[32 * w + bit]) << bit;
    words[w] = word;
#endif
  }
}

#if defined(__AVX2__) && !defined(__AVX512VPOPCNTDQ__)
// Bits of every byte, by tables of half a byte.
inline __m256i BitsOfBytes(__m256i x) {
  const __m256i table =
      _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i half = _mm256_set1_epi8(15);
  return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, half)),
                         _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), half)));
}

// out[l] = the bits of join(words[w], column l of `others`), summed over w.
template <class Join>
inline void CountBits(const uint32_t* words, int64_t count, const uint32_t* others, int64_t columns, int32_t* out,
                      const Join& join) {
  constexpr int64_t kWords = 31;  // of eight bits in a byte each; more do not fit
  for (int64_t c = 0; c < columns; c += 8) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t start = 0; start < count; start += kWords) {
      __m256i bytes = _mm256_setzero_si256();
      for (int64_t w = start; w < std::min(count, start + kWords); w++) {
        const __m256i other = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(others + w * columns + c));
        bytes = _mm256_add_epi8(bytes, BitsOfBytes(join(_mm256_set1_epi32(static_cast<int>(words[w])), other)));
      }
      const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), sum);
  }
}
#endif

// differing[l] = in how many bits `words` and column l of `others` (words, columns) differ. Columns a multiple of 16.
inline void DifferingBits(const uint32_t* words, int64_t count, const uint32_t* others, int64_t columns,
                          int32_t* differing) {
#if defined(__AVX512VPOPCNTDQ__)
  for (int64_t c = 0; c < columns; c += 16) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t w = 0; w < count; w++) {
      const __m512i both =
          _mm512_xor_si512(_mm512_set1_epi32(static_cast<int>(words[w])), _mm512_loadu_si512(others + w * columns + c));
      sum = _mm512_add_epi32(sum, _mm512_popcnt_epi32(both));
    }
    _mm512_storeu_si512(differing + c, sum);
  }
#elif defined(__AVX2__)
  CountBits(words, count, others, columns, differing, [](__m256i a, __m256i b) { return _mm256_xor_si256(a, b); });
#else
  for (int64_t c = 0; c < columns; c++) differing[c] = __builtin_popcount(words[0] ^ others[c]);
  for (int64_t w = 1; w < count; w++) {
    for (int64_t c = 0; c < columns; c++) differing[c] += __builtin_popcount(words[w] ^ others[w * columns + c]);
  }
#endif
}

// common[l] = in how many bits both `words` and column l of `others` (words, columns) are 1.
inline void CommonBits(const uint32_t* words, int64_t count, const uint32_t* others, int64_t columns, int32_t* common) {
#if defined(__AVX512VPOPCNTDQ__)
  for (int64_t c = 0; c < columns; c += 16) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t w = 0; w < count; w++) {
      const __m512i both =
          _mm512_and_si512(_mm512_set1_epi32(static_cast<int>(words[w])), _mm512_loadu_si512(others + w * columns + c));
      sum = _mm512_add_epi32(sum, _mm512_popcnt_epi32(both));
    }
    _mm512_storeu_si512(common + c, sum);
  }
#elif defined(__AVX2__)
  CountBits(words, count, others, columns, common, [](__m256i a, __m256i b) { return _mm256_and_si256(a, b); });
#else
  for (int64_t c = 0; c < columns; c++) common[c] = __builtin_popcount(words[0] & others[c]);
  for (int64_t w = 1; w < count; w++) {
    for (int64_t c = 0; c < columns; c++) common[c] += __builtin_popcount(words[w] & others[w * columns + c]);
  }
#endif
}

// e^x, x <= 0, by its series around the nearest power of two.
inline float Exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  const int32_t power = static_cast<int32_t>(x * 1.44269504f - 0.5f);
  const float n = static_cast<float>(power);
  // ln 2 in two parts, the first of which has few enough bits for an exact product.
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const int32_t bits = (power + 127) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof(scale));
  return sum * scale;
}
