// What both passes over a batch share. Included once per instruction set; `block.h` says what is computed.

constexpr int kParts = 8;  // of a batch: sums are taken within each and then over them, whatever the number of threads

// Memory of vectors, aligned, zero at first unless nobody reads it before it is written.
class Buffer {
 public:
  explicit Buffer(int64_t floats, bool zero = true)
      : data_(static_cast<float*>(std::aligned_alloc(64, Bytes(floats)))) {
    if (data_ == nullptr) throw std::bad_alloc();
    if (zero) std::memset(data_, 0, Bytes(floats));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  float* get() const { return data_; }

 private:
  static size_t Bytes(int64_t floats) { return (static_cast<size_t>(floats) * sizeof(float) / 64 + 1) * 64; }
  float* data_;
};

// Calls job(part) for every part, on several threads.
template <class Job>
void ForParts(int threads, const Job& job) {
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    try {
      for (int part; (part = next++) < kParts;) job(part);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads && i < kParts; i++) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // fewer threads do the same
    }
  }
  work();
  for (auto& helper : helpers) helper.join();
  if (failed) throw std::bad_alloc();
}

// Sums per column, in float over a chunk of rows and in double over those of a part.
class ColumnSums {
 public:
  explicit ColumnSums(int64_t width) : width_(width), parts_(static_cast<size_t>(kParts * width), 0.0) {}

  void Add(int part, const float* chunk) {
    double* own = parts_.data() + part * width_;
    for (int64_t c = 0; c < width_; c++) own[c] += chunk[c];
  }
  // The sum over the parts, in order.
  double operator[](int64_t c) const {
    double sum = 0.0;
    for (int part = 0; part < kParts; part++) sum += parts_[static_cast<size_t>(part * width_ + c)];
    return sum;
  }

 private:
  int64_t width_;
  std::vector<double> parts_;
};

// Sums of a float matrix over the parts.
class MatrixSums {
 public:
  explicit MatrixSums(int64_t size) : size_((size + 15) / 16 * 16), parts_(kParts * size_) {}
  float* Of(int part) { return parts_.get() + part * size_; }
  float At(int64_t i) const {
    float sum = 0.0f;
    for (int part = 0; part < kParts; part++) sum += parts_.get()[part * size_ + i];
    return sum;
  }

 private:
  int64_t size_;
  Buffer parts_;
};

inline void Affine(const float* x, int64_t rows, int64_t columns, const float* gain, const float* shift, float* out) {
  for (int64_t r = 0; r < rows; r++) {
    const float* from = x + r * columns;
    float* to = out + r * columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) to[c] = from[c] * gain[c] + shift[c];
  }
}

// x + keep * (gain * branch + shift); a null gain is 1 and its shift 0.
inline void AddBranch(const float* x, const float* branch, int64_t columns, float keep, const float* gain,
                      const float* shift, float* out) {
  if (gain != nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) out[c] = x[c] + keep * (gain[c] * branch[c] + shift[c]);
  } else {
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) out[c] = x[c] + keep * branch[c];
  }
}

inline void TileRow(const float* x, int64_t columns, int64_t times, float* out) {
  for (int64_t t = 0; t < times; t++) std::memcpy(out + t * columns, x, static_cast<size_t>(columns) * sizeof(float));
}

template <int group>
inline void AverageRowOf(const float* x, int64_t columns, float* out) {
  for (int64_t c = 0; c < columns; c++) {
    float sum = 0.0f;
    for (int i = 0; i < group; i++) sum += x[group * c + i];
    out[c] = sum * (1.0f / group);
  }
}

inline void AverageRow(const float* x, int64_t columns, int64_t group, float* out) {
  if (group == 2) return AverageRowOf<2>(x, columns, out);
  if (group == 4) return AverageRowOf<4>(x, columns, out);
  for (int64_t c = 0; c < columns; c++) {
    float sum = 0.0f;
    for (int64_t i = 0; i < group; i++) sum += x[group * c + i];
    out[c] = sum / static_cast<float>(group);
  }
}

// The largest of some numbers. In lanes of our own: not every compiler reorders a maximum.
inline float Largest(const float* x, int64_t count) {
  constexpr int kTops = 16;
  float tops[kTops];
  for (float& top : tops) top = x[0];
  int64_t c = 0;
  for (; c + kTops <= count; c += kTops) {
#pragma omp simd
    for (int lane = 0; lane < kTops; lane++) tops[lane] = x[c + lane] > tops[lane] ? x[c + lane] : tops[lane];
  }
  float largest = x[0];
  for (; c < count; c++) largest = x[c] > largest ? x[c] : largest;
  for (int half = kTops / 2; half > 0; half /= 2) {
#pragma omp simd
    for (int lane = 0; lane < half; lane++)
      tops[lane] = tops[lane + half] > tops[lane] ? tops[lane + half] : tops[lane];
  }
  return tops[0] > largest ? tops[0] : largest;
}

// What both passes share: sizes, options, parameters, and the numbers that the statistics of the batch give.
class Pass {
 protected:
  Pass(const Layout& layout, const Options& options, const float* kernels, const float* vectors, float* saved)
      : l(layout), options(options), kernels(kernels), vectors(vectors), saved(saved) {
    chunk_images = l.tokens < 64 ? 64 / l.tokens : 1;
    chunk_rows = (chunk_images * l.tokens + 3) / 4 * 4;
    part_images = (l.images + kParts - 1) / kParts;
    part_images = (part_images + chunk_images - 1) / chunk_images * chunk_images;
    for (int i = 0; i < kNorms; i++) {
      gain[i].resize(static_cast<size_t>(Width(i)));
      shift[i].resize(static_cast<size_t>(Width(i)));
    }
    no_threshold.assign(static_cast<size_t>(l.hidden > l.tokens ? l.hidden : l.tokens + 16), 0.0f);
  }

  int64_t Width(int norm) const { return norm == kMlp1Norm ? l.hidden : l.channels; }

  static int NormBehind(int product) {
    constexpr int behind[] = {kQueryNorm, kKeyNorm, kValueNorm, kOutputNorm, kMlp1Norm, kMlp2Norm};
    return behind[product];
  }

  const float* Vector(size_t start) const { return vectors + start; }
  const float* Threshold(int quantizer) const {
    if (quantizer < kProducts) return vectors + l.products[quantizer].threshold;
    const size_t starts[] = {l.query_threshold, l.key_threshold, l.value_threshold};
    return vectors + starts[quantizer - kProducts];
  }
  int16_t* Counts(int product) const { return reinterpret_cast<int16_t*>(saved + l.counts[product]); }

  // Calls job(first image, images) for every chunk of a part.
  template <class Job>
  void ForChunks(int part, const Job& job) const {
    const int64_t end = std::min(l.images, (part + 1) * part_images);
    for (int64_t b = part * part_images; b < end; b += chunk_images) job(b, std::min(chunk_images, end - b));
  }

  // gain and shift of a norm behind a real tensor: gamma (x - mean) scale + beta.
  void SetNorm(int norm, const float* gamma, const float* beta) {
    const float *mean = saved + l.norm_mean[norm], *scale = saved + l.norm_scale[norm];
    for (int64_t c = 0; c < Width(norm); c++) {
      gain[norm][c] = gamma[c] * scale[c];
      shift[norm][c] = beta[c] - mean[c] * gain[norm][c];
    }
  }

  // The same behind a product, as a function of its count of signs. What the norm sees is
  // factor_o count + offset_o, with factor = alpha scale_o and offset = scale_o (mu . signs_o).
  void SetProductNorm(int product) {
    const ProductLayout& p = l.products[product];
    const int norm = NormBehind(product);
    SetFactor(product);
    const float *mean = saved + l.norm_mean[norm], *scale = saved + l.norm_scale[norm];
    for (int64_t o = 0; o < p.out; o++) {
      const float both = vectors[p.gamma + o] * scale[o];
      gain[norm][o] = both * factor[product][o];
      shift[norm][o] = vectors[p.beta + o] + both * (offset[product][o] - mean[o]);
    }
  }

  void SetFactor(int product) {
    const ProductLayout& p = l.products[product];
    factor[product].resize(static_cast<size_t>(p.out));
    offset[product].assign(static_cast<size_t>(p.out), 0.0f);
    const float alpha = saved[l.alpha[product]];
    if (options.quantizers[product].restore) {
      const float* mu = saved + l.mu[product];
      for (int64_t i = 0; i < p.in; i++) {
        const float* signs = kernels + p.signs + i * p.out;
        for (int64_t o = 0; o < p.out; o++) offset[product][o] += mu[i] * signs[o];
      }
    }
    for (int64_t o = 0; o < p.out; o++) {
      const float scale = vectors[p.scale + o];
      factor[product][o] = alpha * scale;
      offset[product][o] *= scale;
    }
  }

  // out = rprelu(norm(product) + shortcut) for one row; z, where it is wanted, is what the RPReLU compares with 0.
  void ProductRow(int product, const int16_t* counts, const float* shortcut, float* z, float* out) const {
    const ProductLayout& p = l.products[product];
    const int norm = NormBehind(product);
    const float *a = gain[norm].data(), *b = shift[norm].data(), *in = vectors + p.shift_in, *slope = vectors + p.slope,
                *shift_out = vectors + p.shift_out;
    if (z != nullptr) {
#pragma omp simd
      for (int64_t o = 0; o < p.out; o++) {
        const float value = static_cast<float>(counts[o]) * a[o] + b[o] + shortcut[o] - in[o];
        z[o] = value;
        out[o] = (value > 0.0f ? value : slope[o] * value) + shift_out[o];
      }
    } else {
#pragma omp simd
      for (int64_t o = 0; o < p.out; o++) {
        const float value = static_cast<float>(counts[o]) * a[o] + b[o] + shortcut[o] - in[o];
        out[o] = (value > 0.0f ? value : slope[o] * value) + shift_out[o];
      }
    }
  }

  // rprelu(norm(context) + q + k + v) for one row.
  void ContextRow(const float* context, const float* q, const float* k, const float* v, float* z, float* out) const {
    const float *a = gain[kContextNorm].data(), *b = shift[kContextNorm].data(), *in = vectors + l.context_shift_in,
                *slope = vectors + l.context_slope, *shift_out = vectors + l.context_shift_out;
#pragma omp simd
    for (int64_t c = 0; c < l.channels; c++) {
      const float value = context[c] * a[c] + b[c] + q[c] + k[c] + v[c] - in[c];
      z[c] = value;
      out[c] = (value > 0.0f ? value : slope[c] * value) + shift_out[c];
    }
  }

  // The numbers of the attention that do not depend on the image.
  void SetAttention() {
    const int64_t d = l.head_dim;
    score_scale.resize(static_cast<size_t>(l.heads));
    query_scale.resize(static_cast<size_t>(l.heads));
    key_scale.resize(static_cast<size_t>(l.heads));
    const float root = 1.0f / std::sqrt(static_cast<float>(d));
    for (int64_t h = 0; h < l.heads; h++) {
      query_scale[h] = saved[l.alpha[kAttentionQuery] + h * d] * root;
      key_scale[h] = saved[l.alpha[kAttentionKey] + h * d];
      score_scale[h] = query_scale[h] * key_scale[h];
    }
    query_offset.resize(static_cast<size_t>(l.channels));
    for (int64_t c = 0; c < l.channels; c++) query_offset[c] = saved[l.mu[kAttentionQuery] + c] * root;
    probability_scale = vectors[l.probability_scale];
    lanes = (l.tokens + 15) / 16 * 16;
    token_words = (l.tokens + 31) / 32;
    // A half rounds to the even level, 0: the next number is the first one that is kept.
    above_half.assign(static_cast<size_t>(32 * token_words), std::nextafter(0.5f, 1.0f));
  }

  // Bits of an image's queries, keys and values as attention reads them.
  struct AttentionBits {
    AttentionBits(const Pass& pass)
        : query(static_cast<size_t>(pass.l.tokens * pass.l.channels / 32)),
          key(static_cast<size_t>(pass.lanes * pass.l.channels / 32)),
          value(static_cast<size_t>(pass.token_words * pass.l.channels)),
          bias(pass.lanes * pass.l.heads) {}
    std::vector<uint32_t> query;  // (tokens, words)
    std::vector<uint32_t> key;    // (words, lanes)
    std::vector<uint32_t> value;  // (words of tokens, channels)
    Buffer bias;                  // (heads, lanes): what the offset of the queries adds to every score of a key
  };

  void SetBits(const float* q, const float* k, const float* v, AttentionBits& bits) const {
    const int64_t c = l.channels, words = c / 32;
    uint32_t row[1024];
    std::fill(bits.value.begin(), bits.value.end(), 0u);
    const float *key_threshold = Threshold(kAttentionKey), *value_threshold = Threshold(kAttentionValue);
    for (int64_t n = 0; n < l.tokens; n++) {
      PackRow(q + n * c, Threshold(kAttentionQuery), c, bits.query.data() + n * words);
      PackRow(k + n * c, key_threshold, c, row);
      for (int64_t w = 0; w < words; w++) bits.key[w * lanes + n] = row[w];
      uint32_t* packed = bits.value.data() + n / 32 * c;
      const float* own = v + n * c;
      const uint32_t bit = 1u << (n % 32);
#pragma omp simd
      for (int64_t i = 0; i < c; i++) packed[i] |= own[i] >= value_threshold[i] ? bit : 0u;
    }
    if (!options.quantizers[kAttentionQuery].restore) return;
    for (int64_t n = 0; n < l.tokens; n++) {
      for (int64_t h = 0; h < l.heads; h++) {
        const float *own = k + n * c + h * l.head_dim, *threshold = key_threshold + h * l.head_dim,
                    *weight = query_offset.data() + h * l.head_dim;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < l.head_dim; i++) sum += own[i] >= threshold[i] ? weight[i] : -weight[i];
        bits.bias.get()[h * lanes + n] = sum * key_scale[h];
      }
    }
  }

  // Softmax of the scores of a query of a head into p (lanes), zero beyond the tokens, and the bits that are kept.
  void Probabilities(const AttentionBits& bits, int64_t head, int64_t query, float* p, uint32_t* kept) const {
    const int64_t words = l.channels / 32, own = l.head_dim / 32;
    int32_t differing[kMaxTokens + 16];
    DifferingBits(bits.query.data() + query * words + head * own, own, bits.key.data() + head * own * lanes, lanes,
                  differing);
    const float scale = score_scale[head], depth = static_cast<float>(l.head_dim);
    const float* bias = bits.bias.get() + head * lanes;
#pragma omp simd
    for (int64_t j = 0; j < l.tokens; j++) {
      p[j] = (depth - 2.0f * static_cast<float>(differing[j])) * scale + bias[j];
    }
    const float top = Largest(p, l.tokens);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < l.tokens; j++) {
      p[j] = Exp(p[j] - top);
      sum += p[j];
    }
    const float share = 1.0f / sum;
#pragma omp simd
    for (int64_t j = 0; j < l.tokens; j++) p[j] *= share;
    for (int64_t j = l.tokens; j < lanes; j++) p[j] = 0.0f;
    float ratio[kMaxTokens + 32];
#pragma omp simd
    for (int64_t j = 0; j < l.tokens; j++) ratio[j] = p[j] / probability_scale;
    for (int64_t j = l.tokens; j < 32 * token_words; j++) ratio[j] = 0.0f;
    PackRow(ratio, above_half.data(), 32 * token_words, kept);
  }

  const float* Keep(const float* keep, int branch) const { return keep + branch * l.images; }
  const float* OrNull(size_t start) const { return HasBranches() ? vectors + start : nullptr; }
  bool HasBranches() const { return options.branches != Branches::kNone; }

  const Layout& l;
  const Options& options;
  const float *kernels, *vectors;
  float* saved;
  int64_t chunk_images, chunk_rows, part_images, lanes = 0, token_words = 0;
  std::vector<float> gain[kNorms], shift[kNorms];
  std::vector<float> factor[kProducts], offset[kProducts];
  std::vector<float> score_scale, query_scale, key_scale, query_offset;
  std::vector<float> no_threshold, above_half;
  float probability_scale = 0.0f;
};

// Nine rows around a token: itself and those up to two places away along each direction, a row of zeros beyond the
// border.
struct Windows {
  Windows(const float* image, int64_t y, int64_t x, int64_t height, int64_t width, int64_t channels,
          const float* zeros) {
    const auto at = [&](int64_t row, int64_t column) {
      return row < 0 || row >= height || column < 0 || column >= width ? zeros
                                                                       : image + (row * width + column) * channels;
    };
    for (int k = 0; k < 5; k++) {
      vertical[k] = at(y + k - 2, x);
      horizontal[k] = at(y, x + k - 2);
    }
  }
  const float *vertical[5], *horizontal[5];
};

// The nine rows of the 3x3 tokens around one, row by row, likewise.
struct Neighbours {
  Neighbours(const float* image, int64_t y, int64_t x, int64_t height, int64_t width, int64_t channels,
             const float* zeros) {
    for (int k = 0; k < 9; k++) {
      const int64_t row = y + k / 3 - 1, column = x + k % 3 - 1;
      const bool inside = row >= 0 && row < height && column >= 0 && column < width;
      at[k] = inside ? image + (row * width + column) * channels : zeros;
    }
  }
  const float* at[9];
};
