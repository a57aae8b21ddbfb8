// The passes over the batch. Included once per instruction set; `block.h` says what is computed.

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
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < l.tokens; j++) {
      p[j] = (depth - 2.0f * static_cast<float>(differing[j])) * scale + bias[j];
      top = p[j] > top ? p[j] : top;
    }
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
  const float* OrNull(size_t start) const { return options.branches ? vectors + start : nullptr; }

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

// === Forward ===
class ForwardPass : Pass {
 public:
  ForwardPass(const Layout& layout, const Options& options, const Forward& io)
      : Pass(layout, options, io.kernels, io.vectors, io.saved), io(io) {
    share_images = static_cast<int64_t>(std::ceil(static_cast<float>(l.images) * options.share));
  }

  void Run() {
    std::memcpy(io.new_statistics, io.statistics, l.statistics * sizeof(float));
    const int64_t c = l.channels;
    if (options.training) {
      ColumnSums sums(c), squares(c);
      std::vector<float> origin(io.x, io.x + c);
      ForParts(options.threads, [&](int part) {
        Buffer sum(c), square(c);
        ForChunks(part, [&](int64_t b, int64_t images) {
          Moments(io.x + b * l.tokens * c, images * l.tokens, c, origin.data(), sum.get(), square.get());
          Flush(part, sum, sums, c), Flush(part, square, squares, c);
        });
      });
      MoveNorm(kAttentionNorm, sums, squares, origin.data());
    }
    FreezeNorm(kAttentionNorm);
    SetNorm(kAttentionNorm, Vector(l.attention_gamma), Vector(l.attention_beta));
    QueriesKeysValues();
    Attend();
    Output();
    Mlp1();
    Mlp2();
    Finish();
  }

 private:
  static void Moments(const float* x, int64_t rows, int64_t columns, const float* origin, float* sum, float* square) {
    for (int64_t r = 0; r < rows; r++) {
      const float* own = x + r * columns;
#pragma omp simd
      for (int64_t c = 0; c < columns; c++) {
        const float value = own[c] - origin[c];
        sum[c] += value;
        square[c] += value * value;
      }
    }
  }

  static void Flush(int part, Buffer& chunk, ColumnSums& sums, int64_t width) {
    sums.Add(part, chunk.get());
    std::memset(chunk.get(), 0, static_cast<size_t>(width) * sizeof(float));
  }

  // Moves a norm's statistics by the batch's sums of (x - origin) and of its square.
  void MoveNorm(int norm, const ColumnSums& sums, const ColumnSums& squares, const float* origin) {
    for (int64_t c = 0; c < Width(norm); c++) {
      const double mean = sums[c] / static_cast<double>(l.rows);
      const double variance = std::max(squares[c] / static_cast<double>(l.rows) - mean * mean, 0.0);
      StoreNorm(norm, c, static_cast<float>(mean + origin[c]), static_cast<float>(variance));
    }
  }

  // The same behind a product, from the sums of its counts and their squares.
  void MoveProductNorm(int product, const ColumnSums& sums, const ColumnSums& squares) {
    const int norm = NormBehind(product);
    for (int64_t o = 0; o < l.products[product].out; o++) {
      const double mean = sums[o] / static_cast<double>(l.rows);
      const double variance = std::max(squares[o] / static_cast<double>(l.rows) - mean * mean, 0.0);
      const double f = factor[product][o];
      StoreNorm(norm, o, static_cast<float>(f * mean + offset[product][o]), static_cast<float>(f * f * variance));
    }
  }

  void StoreNorm(int norm, int64_t c, float mean, float variance) {
    const NormStatistics& at = l.norms[norm];
    const float momentum = options.norm_momentum;
    io.new_statistics[at.mean + c] = io.statistics[at.mean + c] * momentum + mean * (1.0f - momentum);
    io.new_statistics[at.variance + c] = io.statistics[at.variance + c] * momentum + variance * (1.0f - momentum);
    saved[l.norm_mean[norm] + c] = mean;
    saved[l.norm_scale[norm] + c] = 1.0f / std::sqrt(variance + options.epsilon);
  }

  // At inference the moving statistics are those of the batch.
  void FreezeNorm(int norm) {
    if (options.training) return;
    const NormStatistics& at = l.norms[norm];
    for (int64_t c = 0; c < Width(norm); c++) {
      saved[l.norm_mean[norm] + c] = io.statistics[at.mean + c];
      saved[l.norm_scale[norm] + c] = 1.0f / std::sqrt(io.statistics[at.variance + c] + options.epsilon);
    }
  }

  // Sums of z, |z - threshold| and the sign over the images that running statistics are taken from.
  struct QuantizerSums {
    QuantizerSums(int64_t width) : mean(width), spread(width), sign(width) {}
    ColumnSums mean, spread, sign;
  };
  struct QuantizerChunk {
    QuantizerChunk(int64_t width) : width(width), mean(width), spread(width), sign(width) {}
    void Flush(int part, QuantizerSums& sums) {
      ForwardPass::Flush(part, mean, sums.mean, width);
      ForwardPass::Flush(part, spread, sums.spread, width);
      ForwardPass::Flush(part, sign, sums.sign, width);
    }
    int64_t width;
    Buffer mean, spread, sign;
  };

  bool Watched(int quantizer, int64_t image) const {
    return options.training && options.quantizers[quantizer].tracked && image < share_images;
  }

  static void Watch(const float* z, const float* threshold, int64_t columns, QuantizerChunk& sums) {
    float *mean = sums.mean.get(), *spread = sums.spread.get(), *sign = sums.sign.get();
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) {
      const float above = z[c] - threshold[c];
      mean[c] += z[c];
      spread[c] += std::fabs(above);
      sign[c] += z[c] >= threshold[c] ? 1.0f : -1.0f;
    }
  }

  // Moves a quantizer's running statistics, and keeps what the code of this batch is decoded with.
  void MoveQuantizer(int quantizer, const QuantizerSums& sums) {
    const QuantizerOptions& own = options.quantizers[quantizer];
    const QuantizerStatistics& at = l.quantizers[quantizer];
    if (options.training && own.tracked) {
      const double count = static_cast<double>(share_images * l.tokens);
      const float updates = io.statistics[at.updates];
      const float rate = std::max(1.0f - options.momentum, 1.0f / (updates + 1.0f));
      for (int64_t c = 0; c < at.width; c++) {
        const float mean = static_cast<float>(sums.mean[c] / count),
                    spread = static_cast<float>(sums.spread[c] / count),
                    sign = static_cast<float>(sums.sign[c] / count);
        float* now = io.new_statistics;
        const float location = now[at.location + c];
        // The Newton step towards the median of a normal law, as `statistics.pinball_step`.
        if (own.median) {
          now[at.location + c] = updates == 0.0f ? mean : location + rate * 1.5708f * spread * sign;
        } else {
          now[at.location + c] = location + rate * (mean - location);
        }
        now[at.mean + c] += rate * (mean - now[at.mean + c]);
        now[at.spread + c] += rate * (spread - now[at.spread + c]);
      }
      io.new_statistics[at.updates] = updates + 1.0f;
    }
    float *alpha = saved + l.alpha[quantizer], *mu = saved + l.mu[quantizer];
    for (int64_t c = 0; c < at.width; c++) {
      alpha[c] = own.scaled ? io.new_statistics[at.spread + c] : 1.0f;
      mu[c] = own.restore ? io.new_statistics[at.mean + c] : 0.0f;
    }
    if (quantizer == kAttentionValue) return;
    // One scale along the contracted channels.
    const int64_t group = quantizer < kProducts ? at.width : l.head_dim;
    for (int64_t start = 0; start < at.width; start += group) {
      double sum = 0.0;
      for (int64_t c = 0; c < group; c++) sum += alpha[start + c];
      std::fill(alpha + start, alpha + start + group, static_cast<float>(sum / static_cast<double>(group)));
    }
  }

  // A product of the rows `z` with the signs of its kernel: counts, and their sums.
  struct ProductState {
    ProductState(const ForwardPass& pass, int product)
        : own(pass.l.products[product]),
          quantizer(own.in),
          sums(own.out),
          squares(own.out),
          weights(static_cast<size_t>(own.in / 32 * own.out)) {
      const float* signs = pass.kernels + own.signs;
      for (int64_t i = 0; i < own.in; i++) {
        uint32_t* words = weights.data() + i / 32 * own.out;
        for (int64_t o = 0; o < own.out; o++)
          words[o] |= static_cast<uint32_t>(signs[i * own.out + o] > 0.0f) << (i % 32);
      }
    }
    const ProductLayout& own;
    QuantizerSums quantizer;
    ColumnSums sums, squares;
    std::vector<uint32_t> weights;
  };
  struct ProductChunk {
    ProductChunk(const ProductLayout& own)
        : quantizer(own.in),
          sum(own.out),
          square(own.out),
          bits(static_cast<size_t>(own.in / 32)),
          differing(static_cast<size_t>(own.out)) {}
    QuantizerChunk quantizer;
    Buffer sum, square;
    std::vector<uint32_t> bits;
    std::vector<int32_t> differing;
  };

  void Multiply(int product, const float* z, int64_t rows, int64_t image, ProductState& state, ProductChunk& chunk) {
    const ProductLayout& p = state.own;
    const float* threshold = Threshold(product);
    int16_t* counts = Counts(product) + image * l.tokens * p.out;
    float *sum = chunk.sum.get(), *square = chunk.square.get();
    for (int64_t r = 0; r < rows; r++) {
      const float* own = z + r * p.in;
      if (Watched(product, image + r / l.tokens)) Watch(own, threshold, p.in, chunk.quantizer);
      PackRow(own, threshold, p.in, chunk.bits.data());
      const int32_t* differing = chunk.differing.data();
      DifferingBits(chunk.bits.data(), p.in / 32, state.weights.data(), p.out, chunk.differing.data());
      int16_t* to = counts + r * p.out;
      const int32_t in = static_cast<int32_t>(p.in);
#pragma omp simd
      for (int64_t o = 0; o < p.out; o++) {
        const int32_t count = in - 2 * differing[o];
        const float value = static_cast<float>(count);
        to[o] = static_cast<int16_t>(count);
        sum[o] += value;
        square[o] += value * value;
      }
    }
  }

  void FlushProduct(int part, ProductState& state, ProductChunk& chunk) {
    Flush(part, chunk.sum, state.sums, state.own.out);
    Flush(part, chunk.square, state.squares, state.own.out);
    chunk.quantizer.Flush(part, state.quantizer);
  }

  void FinishProduct(int product, const ProductState& state) {
    MoveQuantizer(product, state.quantizer);
    SetFactor(product);
    if (options.training) MoveProductNorm(product, state.sums, state.squares);
    FreezeNorm(NormBehind(product));
    SetProductNorm(product);
  }

  void QueriesKeysValues() {
    const int64_t c = l.channels;
    ProductState states[] = {{*this, kQuery}, {*this, kKey}, {*this, kValue}};
    ForParts(options.threads, [&](int part) {
      Buffer u(chunk_rows * c);
      ProductChunk chunks[] = {states[0].own, states[1].own, states[2].own};
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens;
        Affine(io.x + b * l.tokens * c, rows, c, gain[kAttentionNorm].data(), shift[kAttentionNorm].data(), u.get());
        for (int p = kQuery; p <= kValue; p++) {
          Multiply(p, u.get(), rows, b, states[p], chunks[p]);
          FlushProduct(part, states[p], chunks[p]);
        }
      });
    });
    for (int p = kQuery; p <= kValue; p++) FinishProduct(p, states[p]);

    QuantizerSums sums[] = {c, c, c};
    float* outputs[] = {io.query, io.key, io.value};
    ForParts(options.threads, [&](int part) {
      Buffer u(chunk_rows * c);
      QuantizerChunk chunks[] = {c, c, c};
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        Affine(io.x + start, rows, c, gain[kAttentionNorm].data(), shift[kAttentionNorm].data(), u.get());
        for (int p = kQuery; p <= kValue; p++) {
          for (int64_t r = 0; r < rows; r++) {
            float* out = outputs[p] + start + r * c;
            ProductRow(p, Counts(p) + start + r * c, u.get() + r * c, nullptr, out);
            const int quantizer = kAttentionQuery + p;
            if (Watched(quantizer, b + r / l.tokens)) Watch(out, Threshold(quantizer), c, chunks[p]);
          }
          chunks[p].Flush(part, sums[p]);
        }
      });
    });
    for (int p = kQuery; p <= kValue; p++) MoveQuantizer(kAttentionQuery + p, sums[p]);
  }

  void Attend() {
    SetAttention();
    const int64_t c = l.channels;
    ColumnSums sums(c), squares(c);
    std::vector<float> origin(static_cast<size_t>(c), 0.0f);
    float* context = saved + l.context;
    // One image for the origin of the sums: a context may lie far from 0 for its spread.
    {
      AttentionBits bits(*this);
      AttendImage(0, bits, context);
      std::copy(context, context + c, origin.begin());
    }
    ForParts(options.threads, [&](int part) {
      AttentionBits bits(*this);
      Buffer sum(c), square(c);
      ForChunks(part, [&](int64_t b, int64_t images) {
        for (int64_t i = b; i < b + images; i++) AttendImage(i, bits, context + i * l.tokens * c);
        Moments(context + b * l.tokens * c, images * l.tokens, c, origin.data(), sum.get(), square.get());
        Flush(part, sum, sums, c), Flush(part, square, squares, c);
      });
    });
    if (options.training) MoveNorm(kContextNorm, sums, squares, origin.data());
    FreezeNorm(kContextNorm);
    SetNorm(kContextNorm, Vector(l.context_gamma), Vector(l.context_beta));
  }

  void AttendImage(int64_t image, AttentionBits& bits, float* context) {
    const int64_t c = l.channels, d = l.head_dim, start = image * l.tokens * c;
    SetBits(io.query + start, io.key + start, io.value + start, bits);
    const float *alpha = saved + l.alpha[kAttentionValue], *mu = saved + l.mu[kAttentionValue];
    Buffer p(lanes), decoded(c);
    std::vector<uint32_t> kept(static_cast<size_t>(token_words));
    std::vector<int32_t> common(static_cast<size_t>(d));
    for (int64_t h = 0; h < l.heads; h++) {
      std::vector<uint32_t> value(static_cast<size_t>(token_words * d));
      for (int64_t w = 0; w < token_words; w++) {
        std::copy_n(bits.value.data() + w * c + h * d, d, value.data() + w * d);
      }
      for (int64_t n = 0; n < l.tokens; n++) {
        Probabilities(bits, h, n, p.get(), kept.data());
        int count = 0;
        for (uint32_t word : kept) count += __builtin_popcount(word);
        CommonBits(kept.data(), token_words, value.data(), d, common.data());
        float* to = context + n * c + h * d;
        const float *own_alpha = alpha + h * d, *own_mu = mu + h * d;
        const float all = static_cast<float>(count);
#pragma omp simd
        for (int64_t i = 0; i < d; i++) {
          const float signs = 2.0f * static_cast<float>(common[i]) - all;
          to[i] = probability_scale * (own_alpha[i] * signs + own_mu[i] * all);
        }
      }
    }
  }

  void Output() {
    const int64_t c = l.channels;
    ProductState state(*this, kOutput);
    ForParts(options.threads, [&](int part) {
      Buffer z(c);
      ProductChunk chunk(state.own);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        float* mixed = saved + l.mixed + start;
        ContextRows(start, rows, z.get(), mixed);
        Multiply(kOutput, mixed, rows, b, state, chunk);
        FlushProduct(part, state, chunk);
      });
    });
    FinishProduct(kOutput, state);
  }

  void ContextRows(int64_t start, int64_t rows, float* z, float* out) const {
    const int64_t c = l.channels;
    for (int64_t r = 0; r < rows; r++) {
      const int64_t at = start + r * c;
      ContextRow(saved + l.context + at, io.query + at, io.key + at, io.value + at, z, out + r * c);
    }
  }

  void Mlp1() {
    const int64_t c = l.channels;
    ColumnSums sums(c), squares(c);
    std::vector<float> origin(io.x, io.x + c);
    ForParts(options.threads, [&](int part) {
      Buffer branch(c), sum(c), square(c);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        float* middle = saved + l.middle + start;
        for (int64_t r = 0; r < rows; r++) {
          ProductRow(kOutput, Counts(kOutput) + start + r * c, saved + l.mixed + start + r * c, nullptr, branch.get());
          AddBranch(io.x + start + r * c, branch.get(), c, Keep(io.keep, 0)[b + r / l.tokens], OrNull(l.attention_gain),
                    OrNull(l.attention_shift), middle + r * c);
        }
        Moments(middle, rows, c, origin.data(), sum.get(), square.get());
        Flush(part, sum, sums, c), Flush(part, square, squares, c);
      });
    });
    if (options.training) MoveNorm(kMlpNorm, sums, squares, origin.data());
    FreezeNorm(kMlpNorm);
    SetNorm(kMlpNorm, Vector(l.mlp_gamma), Vector(l.mlp_beta));

    ProductState state(*this, kMlp1);
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * c);
      ProductChunk chunk(state.own);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens;
        MiddleRows(b, rows, w.get());
        Multiply(kMlp1, w.get(), rows, b, state, chunk);
        FlushProduct(part, state, chunk);
      });
    });
    FinishProduct(kMlp1, state);
  }

  void MiddleRows(int64_t image, int64_t rows, float* w) const {
    Affine(saved + l.middle + image * l.tokens * l.channels, rows, l.channels, gain[kMlpNorm].data(),
           shift[kMlpNorm].data(), w);
  }

  // Hidden rows from those of w.
  void HiddenRows(int64_t image, int64_t rows, const float* w, float* tiled, float* hidden) const {
    const int16_t* counts = Counts(kMlp1) + image * l.tokens * l.hidden;
    for (int64_t r = 0; r < rows; r++) {
      TileRow(w + r * l.channels, l.channels, options.mlp_ratio, tiled);
      ProductRow(kMlp1, counts + r * l.hidden, tiled, nullptr, hidden + r * l.hidden);
    }
  }

  void Mlp2() {
    ProductState state(*this, kMlp2);
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * l.channels), hidden(chunk_rows * l.hidden), tiled(l.hidden);
      ProductChunk chunk(state.own);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens;
        MiddleRows(b, rows, w.get());
        HiddenRows(b, rows, w.get(), tiled.get(), hidden.get());
        Multiply(kMlp2, hidden.get(), rows, b, state, chunk);
        FlushProduct(part, state, chunk);
      });
    });
    FinishProduct(kMlp2, state);
  }

  void Finish() {
    const int64_t c = l.channels;
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * c), hidden(chunk_rows * l.hidden), tiled(l.hidden), average(c), branch(c), zeros(c);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        MiddleRows(b, rows, w.get());
        HiddenRows(b, rows, w.get(), tiled.get(), hidden.get());
        for (int64_t r = 0; r < rows; r++) {
          AverageRow(hidden.get() + r * l.hidden, c, options.mlp_ratio, average.get());
          ProductRow(kMlp2, Counts(kMlp2) + start + r * c, average.get(), nullptr, branch.get());
          AddBranch(saved + l.middle + start + r * c, branch.get(), c, Keep(io.keep, 1)[b + r / l.tokens],
                    OrNull(l.mlp_gain), OrNull(l.mlp_shift), io.out + start + r * c);
        }
        if (!options.branches) return;
        for (int64_t i = 0; i < images; i++)
          AddPooling(w.get() + i * l.tokens * c, zeros.get(), io.out + start + i * l.tokens * c);
      });
    });
  }

  void AddPooling(const float* w, const float* zeros, float* out) const {
    const int64_t c = l.channels;
    const float *gains = vectors + l.pooling_gain, *shifts = vectors + l.pooling_shift;
    for (int64_t y = 0; y < l.height; y++) {
      for (int64_t x = 0; x < l.width; x++) {
        const Windows at(w, y, x, l.height, l.width, c, zeros);
        float* to = out + (y * l.width + x) * c;
#pragma omp simd
        for (int64_t i = 0; i < c; i++) {
          const float up = at.vertical[1][i] + at.vertical[2][i] + at.vertical[3][i];
          const float across = at.horizontal[1][i] + at.horizontal[2][i] + at.horizontal[3][i];
          to[i] += shifts[i] + up * (gains[i] / 3.0f) +
                   (up + at.vertical[0][i] + at.vertical[4][i]) * (gains[c + i] / 5.0f) +
                   across * (gains[2 * c + i] / 3.0f) +
                   (across + at.horizontal[0][i] + at.horizontal[4][i]) * (gains[3 * c + i] / 5.0f);
        }
      }
    }
  }

  const Forward& io;
  int64_t share_images;
};

// === Backward ===
class BackwardPass : Pass {
 public:
  BackwardPass(const Layout& layout, const Options& options, const Backward& io)
      : Pass(layout, options, io.kernels, io.vectors, const_cast<float*>(io.saved)),
        io(io),
        first_memory(l.rows * l.channels + 8 * kStagger, false),
        second_memory(l.rows * std::max(l.hidden, 3 * l.channels) + 15 * kStagger, false) {}

  void Run() {
    std::memset(io.grad_kernels, 0, l.kernels * sizeof(float));
    std::memset(io.grad_vectors, 0, l.vectors * sizeof(float));
    SetNorm(kAttentionNorm, Vector(l.attention_gamma), Vector(l.attention_beta));
    SetNorm(kContextNorm, Vector(l.context_gamma), Vector(l.context_beta));
    SetNorm(kMlpNorm, Vector(l.mlp_gamma), Vector(l.mlp_beta));
    for (int p = 0; p < kProducts; p++) SetProductNorm(p);
    SetAttention();
    Mlp2();
    Mlp1();
    Middle();
    Output();
    Context();
    QueriesKeysValues();
    Input();
  }

 private:
  // Sums of the gradients of what stands behind a product, or behind the context.
  struct ActivationSums {
    ActivationSums(int64_t width) : out(width), slope(width), norm(width), value(width) {}
    // of the gradient behind the RPReLU, its slope's, and the gradient before it, alone and times what the norm is of
    ColumnSums out, slope, norm, value;
  };
  struct ActivationChunk {
    ActivationChunk(int64_t width) : width(width), out(width), slope(width), norm(width), value(width) {}
    void Flush(int part, ActivationSums& sums) {
      const auto one = [&](Buffer& chunk, ColumnSums& to) {
        to.Add(part, chunk.get());
        std::memset(chunk.get(), 0, static_cast<size_t>(width) * sizeof(float));
      };
      one(out, sums.out), one(slope, sums.slope), one(norm, sums.norm), one(value, sums.value);
    }
    int64_t width;
    Buffer out, slope, norm, value;
  };

  // Through the RPReLU of one row: grad becomes that of z. `value` is what the norm is of, counts or a context.
  template <class Value>
  static void ActivationRow(float* grad, const float* z, const Value* value, const float* slopes, int64_t columns,
                            ActivationChunk& sums) {
    float *out = sums.out.get(), *slope = sums.slope.get(), *norm = sums.norm.get(), *times = sums.value.get();
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) {
      const float g = grad[c];
      const float before = z[c] > 0.0f ? g : slopes[c] * g;
      out[c] += g;
      slope[c] += z[c] > 0.0f ? 0.0f : g * z[c];
      norm[c] += before;
      times[c] += before * static_cast<float>(value[c]);
      grad[c] = before;
    }
  }

  // Gradients of the parameters behind a product, and the map from the gradient behind its norm to that of its signs:
  // h = k0 grad - k1 count - k2, with the kernel's scale and the input's alpha in it.
  struct ProductMap {
    std::vector<float> k0, k1, k2, inference;
  };

  ProductMap MapProduct(int product, const ActivationSums& sums) {
    const ProductLayout& p = l.products[product];
    const int norm = NormBehind(product);
    const float *mean = saved + l.norm_mean[norm], *scale = saved + l.norm_scale[norm];
    const double rows = static_cast<double>(l.rows);
    const float alpha = saved[l.alpha[product]];
    ProductMap map;
    for (auto* part : {&map.k0, &map.k1, &map.k2, &map.inference}) part->assign(static_cast<size_t>(p.out), 0.0f);
    for (int64_t o = 0; o < p.out; o++) {
      const double f = factor[product][o], shifted = mean[o] - offset[product][o];
      const double s0 = sums.norm[o], s1 = sums.value[o];
      // of what the norm sees, less its mean: f count - shifted
      const double centred = f * s1 - shifted * s0;
      const double gamma = vectors[p.gamma + o], both = gamma * scale[o], normed = centred * scale[o];
      float* out = io.grad_vectors;
      out[p.gamma + o] = static_cast<float>(normed);
      out[p.beta + o] = static_cast<float>(s0);
      out[p.shift_in + o] = static_cast<float>(-s0);
      out[p.slope + o] = static_cast<float>(sums.slope[o]);
      out[p.shift_out + o] = static_cast<float>(sums.out[o]);
      map.k0[o] = static_cast<float>(f * both);
      if (options.training) {
        const double along = f * both * scale[o] * normed / rows;
        map.k1[o] = static_cast<float>(along * f);
        map.k2[o] = static_cast<float>(f * both * s0 / rows - along * shifted);
        // All that a norm leaves of the gradient of its input's scale is its epsilon's.
        const double left = both * f * s1 - both * shifted * s0;
        out[p.scale + o] =
            static_cast<float>(SafeRatio(left * options.epsilon * scale[o] * scale[o], vectors[p.scale + o]));
      } else {
        map.inference[o] = static_cast<float>(both * s0 * vectors[p.scale + o]);
        const double unscaled = SafeRatio(offset[product][o], vectors[p.scale + o]);
        out[p.scale + o] = static_cast<float>(both * (alpha * s1 + unscaled * s0));
      }
    }
    return map;
  }

  static double SafeRatio(double a, double b) { return b == 0.0 ? 0.0 : a / b; }

  // The same behind a real norm, without an activation: gain grad - k1 x - k2.
  struct NormMap {
    std::vector<float> k1, k2;
  };

  NormMap MapNorm(int norm, const ColumnSums& grad, const ColumnSums& times, size_t gamma, size_t beta) {
    NormMap map;
    const int64_t c = l.channels;
    map.k1.assign(static_cast<size_t>(c), 0.0f), map.k2.assign(static_cast<size_t>(c), 0.0f);
    const float *mean = saved + l.norm_mean[norm], *scale = saved + l.norm_scale[norm];
    for (int64_t i = 0; i < c; i++) {
      const double s0 = grad[i], normed = (times[i] - mean[i] * s0) * scale[i];
      io.grad_vectors[gamma + i] = static_cast<float>(normed);
      io.grad_vectors[beta + i] = static_cast<float>(s0);
      if (!options.training) continue;
      const double both = gain[norm][i], rows = static_cast<double>(l.rows), along = both * scale[i] * normed / rows;
      map.k1[i] = static_cast<float>(along);
      map.k2[i] = static_cast<float>(both * s0 / rows - along * mean[i]);
    }
    return map;
  }

  void NormRow(int norm, const NormMap& map, const float* grad, const float* x, float* out) const {
    const float *a = gain[norm].data(), *k1 = map.k1.data(), *k2 = map.k2.data();
#pragma omp simd
    for (int64_t c = 0; c < l.channels; c++) out[c] = a[c] * grad[c] - k1[c] * x[c] - k2[c];
  }

  // What a product's backward pass over the rows needs besides its map.
  struct ProductState {
    ProductState(const BackwardPass& pass, int product)
        : own(pass.l.products[product]),
          codes(static_cast<size_t>(CodeSize(own.out, own.in))),
          grad(own.out * own.in),
          threshold(own.in) {
      std::vector<float> column(static_cast<size_t>(own.in));
      for (int64_t o = 0; o < own.out; o++) {
        for (int64_t i = 0; i < own.in; i++) column[i] = pass.kernels[own.signs + i * own.out + o];
        CodeRow(codes.data(), o, own.in, column.data(), pass.no_threshold.data());
      }
    }
    const ProductLayout& own;
    std::vector<Code> codes;  // of the kernel, (out, in)
    MatrixSums grad;          // of the signs, (out, in)
    ColumnSums threshold;
  };
  struct ProductChunk {
    ProductChunk(const ProductLayout& own, int64_t rows)
        : h(rows * own.out),
          grad(rows * own.in),
          codes(static_cast<size_t>(CodeSize(rows, own.in))),
          threshold(own.in) {}
    Buffer h, grad;
    std::vector<Code> codes;
    Buffer threshold;
  };

  // From the gradient behind a product's norm to that of the rows z that went in, added to `out`.
  void MultiplyBack(int part, int product, const ProductMap& map, const float* grad, int64_t grad_stride,
                    const int16_t* counts, const float* z, int64_t rows, ProductState& state, ProductChunk& chunk,
                    float* out) const {
    const ProductLayout& p = state.own;
    const float *k0 = map.k0.data(), *k1 = map.k1.data(), *k2 = map.k2.data(), *threshold = Threshold(product);
    float* h = chunk.h.get();
    for (int64_t r = 0; r < rows; r++) {
      const float* g = grad + r * grad_stride;
      const int16_t* count = counts + r * p.out;
      float* to = h + r * p.out;
#pragma omp simd
      for (int64_t o = 0; o < p.out; o++) to[o] = k0[o] * g[o] - k1[o] * static_cast<float>(count[o]) - k2[o];
      CodeRow(chunk.codes.data(), r, p.in, z + r * p.in, threshold);
    }
    const int64_t padded = (rows + 3) / 4 * 4;
    std::memset(h + rows * p.out, 0, static_cast<size_t>((padded - rows) * p.out) * sizeof(float));
    RealBySigns(h, rows, p.out, state.codes.data(), p.in, chunk.grad.get());
    SignsByReal(h, padded, p.out, chunk.codes.data(), p.in, state.grad.Of(part));
    for (int64_t r = 0; r < rows; r++) {
      SignRow(chunk.grad.get() + r * p.in, z + r * p.in, threshold, p.in, options.quantizers[product].clip,
              out + r * p.in, chunk.threshold.get());
    }
    state.threshold.Add(part, chunk.threshold.get());
    std::memset(chunk.threshold.get(), 0, static_cast<size_t>(p.in) * sizeof(float));
  }

  // out += grad times the sign's gradient; threshold -= it.
  static void SignRow(const float* grad, const float* z, const float* threshold, int64_t columns, float clip,
                      float* out, float* sums) {
    if (clip < 0.0f) {
#pragma omp simd
      for (int64_t c = 0; c < columns; c++) {
        const float slope = 2.0f - 2.0f * std::fabs(z[c] - threshold[c]);
        const float g = grad[c] * (slope > 0.0f ? slope : 0.0f);
        out[c] += g;
        sums[c] -= g;
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < columns; c++) {
        const float g = std::fabs(z[c] - threshold[c]) <= clip ? grad[c] : 0.0f;
        out[c] += g;
        sums[c] -= g;
      }
    }
  }

  void FinishProduct(int product, const ProductMap& map, const ProductState& state) {
    const ProductLayout& p = state.own;
    float* out = io.grad_kernels + p.signs;
    const float* mu = saved + l.mu[product];
    for (int64_t o = 0; o < p.out; o++) {
      for (int64_t i = 0; i < p.in; i++) out[i * p.out + o] = state.grad.At(o * p.in + i) + mu[i] * map.inference[o];
    }
    for (int64_t i = 0; i < p.in; i++) io.grad_vectors[p.threshold + i] = static_cast<float>(state.threshold[i]);
  }

  void StoreSums(const ColumnSums& sums, size_t start, int64_t width) {
    for (int64_t c = 0; c < width; c++) io.grad_vectors[start + c] = static_cast<float>(sums[c]);
  }

  // Gradient of keep * (gain * branch + shift), and the sums for gain and shift.
  static void BranchRow(const float* grad, const float* branch, float keep, const float* gain, int64_t columns,
                        float* gain_sum, float* shift_sum, float* out) {
    if (gain == nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < columns; c++) out[c] = keep * grad[c];
      return;
    }
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) {
      const float g = keep * grad[c];
      gain_sum[c] += g * branch[c];
      shift_sum[c] += g;
      out[c] = g * gain[c];
    }
  }

  struct BranchSums {
    BranchSums(int64_t width) : gain(width), shift(width) {}
    ColumnSums gain, shift;
  };

  void FlushBranch(int part, Buffer& gain_sum, Buffer& shift_sum, BranchSums& sums) const {
    for (auto [chunk, to] : {std::pair(&gain_sum, &sums.gain), std::pair(&shift_sum, &sums.shift)}) {
      to->Add(part, chunk->get());
      std::memset(chunk->get(), 0, static_cast<size_t>(l.channels) * sizeof(float));
    }
  }

  void MiddleRows(int64_t image, int64_t rows, float* w) const {
    Affine(saved + l.middle + image * l.tokens * l.channels, rows, l.channels, gain[kMlpNorm].data(),
           shift[kMlpNorm].data(), w);
  }

  // Behind the second product of the MLP: from the output to the gradient before its RPReLU, in `first`.
  void Mlp2() {
    const int64_t c = l.channels, d = l.hidden;
    ActivationSums sums(c);
    BranchSums branches(c);
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * c), tiled(d), hidden(d), average(c), z(c), branch(c), gain_sum(c), shift_sum(c);
      ActivationChunk chunk(c);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        MiddleRows(b, rows, w.get());
        for (int64_t r = 0; r < rows; r++) {
          TileRow(w.get() + r * c, c, options.mlp_ratio, tiled.get());
          ProductRow(kMlp1, Counts(kMlp1) + (b * l.tokens + r) * d, tiled.get(), nullptr, hidden.get());
          AverageRow(hidden.get(), c, options.mlp_ratio, average.get());
          const int16_t* counts = Counts(kMlp2) + start + r * c;
          ProductRow(kMlp2, counts, average.get(), z.get(), branch.get());
          float* grad = first + start + r * c;
          BranchRow(io.grad_out + start + r * c, branch.get(), Keep(io.keep, 1)[b + r / l.tokens], OrNull(l.mlp_gain),
                    c, gain_sum.get(), shift_sum.get(), grad);
          ActivationRow(grad, z.get(), counts, Vector(l.products[kMlp2].slope), c, chunk);
        }
        chunk.Flush(part, sums);
        FlushBranch(part, gain_sum, shift_sum, branches);
      });
    });
    if (options.branches) {
      StoreSums(branches.gain, l.mlp_gain, c);
      StoreSums(branches.shift, l.mlp_shift, c);
    }
    maps[kMlp2] = MapProduct(kMlp2, sums);
  }

  // Through the second product: from `first` to the gradient before the first one's RPReLU, in `second`.
  void Mlp1() {
    const int64_t c = l.channels, d = l.hidden;
    ActivationSums sums(d);
    ProductState state(*this, kMlp2);
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * c), tiled(d), hidden(chunk_rows * d), z(chunk_rows * d);
      ActivationChunk chunk(d);
      ProductChunk product(state.own, chunk_rows);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, from = b * l.tokens;
        MiddleRows(b, rows, w.get());
        const int16_t* counts = Counts(kMlp1) + from * d;
        for (int64_t r = 0; r < rows; r++) {
          TileRow(w.get() + r * c, c, options.mlp_ratio, tiled.get());
          ProductRow(kMlp1, counts + r * d, tiled.get(), z.get() + r * d, hidden.get() + r * d);
        }
        float *grad = second + from * d, *behind = first + from * c;
        SpreadRows(behind, rows, grad);
        MultiplyBack(part, kMlp2, maps[kMlp2], behind, c, Counts(kMlp2) + from * c, hidden.get(), rows, state, product,
                     grad);
        for (int64_t r = 0; r < rows; r++) {
          ActivationRow(grad + r * d, z.get() + r * d, counts + r * d, Vector(l.products[kMlp1].slope), d, chunk);
        }
        chunk.Flush(part, sums);
      });
    });
    FinishProduct(kMlp2, maps[kMlp2], state);
    maps[kMlp1] = MapProduct(kMlp1, sums);
  }

  // The gradient of the mean of adjacent channels.
  void SpreadRows(const float* grad, int64_t rows, float* out) const {
    const int64_t group = options.mlp_ratio;
    const float share = 1.0f / static_cast<float>(group);
    for (int64_t i = 0; i < rows * l.channels; i++) {
      for (int64_t k = 0; k < group; k++) out[i * group + k] = grad[i] * share;
    }
  }

  // Through the first product, the norm before it and the pooling: the gradient of w, in `first`.
  void Middle() {
    const int64_t c = l.channels, d = l.hidden;
    ColumnSums norm(c), times(c), pooling(4 * c), shift_sums(c);
    ProductState state(*this, kMlp1);
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * c), norm_sum(c), times_sum(c), pooling_sum(4 * c), shift_sum(c), zeros(c);
      ProductChunk product(state.own, chunk_rows);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, from = b * l.tokens;
        MiddleRows(b, rows, w.get());
        const float* behind = second + from * d;
        float* grad = first + from * c;
        for (int64_t r = 0; r < rows; r++) {
          float* to = grad + r * c;
          std::memset(to, 0, static_cast<size_t>(c) * sizeof(float));
          for (int64_t t = 0; t < options.mlp_ratio; t++) {
            const float* tile = behind + r * d + t * c;
#pragma omp simd
            for (int64_t i = 0; i < c; i++) to[i] += tile[i];
          }
        }
        MultiplyBack(part, kMlp1, maps[kMlp1], behind, d, Counts(kMlp1) + from * d, w.get(), rows, state, product,
                     grad);
        for (int64_t i = 0; options.branches && i < images; i++) {
          const int64_t at = (b + i) * l.tokens * c;
          PoolingBack(io.grad_out + at, w.get() + i * l.tokens * c, zeros.get(), first + at, pooling_sum.get(),
                      shift_sum.get());
        }
        const float* x = saved + l.middle + from * c;
        NormSums(grad, x, rows, norm_sum.get(), times_sum.get());
        Flush(part, norm_sum, norm), Flush(part, times_sum, times);
        if (!options.branches) return;
        pooling.Add(part, pooling_sum.get());
        std::memset(pooling_sum.get(), 0, static_cast<size_t>(4 * c) * sizeof(float));
        Flush(part, shift_sum, shift_sums);
      });
    });
    FinishProduct(kMlp1, maps[kMlp1], state);
    if (options.branches) {
      StoreSums(pooling, l.pooling_gain, 4 * c);
      StoreSums(shift_sums, l.pooling_shift, c);
    }
    const NormMap map = MapNorm(kMlpNorm, norm, times, l.mlp_gamma, l.mlp_beta);

    // Through that norm to the block's middle, the gradient of which stays in grad_x, and on to the output product's
    // RPReLU.
    ActivationSums sums(c);
    BranchSums branches(c);
    ForParts(options.threads, [&](int part) {
      Buffer z(c), branch(c), gain_sum(c), shift_sum(c);
      ActivationChunk chunk(c);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        for (int64_t r = 0; r < rows; r++) {
          const int64_t at = start + r * c;
          float *grad = first + at, *middle = io.grad_x + at;
          NormRow(kMlpNorm, map, grad, saved + l.middle + at, middle);
          const float* direct = io.grad_out + at;
#pragma omp simd
          for (int64_t i = 0; i < c; i++) middle[i] += direct[i];
          ProductRow(kOutput, Counts(kOutput) + at, saved + l.mixed + at, z.get(), branch.get());
          BranchRow(middle, branch.get(), Keep(io.keep, 0)[b + r / l.tokens], OrNull(l.attention_gain), c,
                    gain_sum.get(), shift_sum.get(), grad);
          ActivationRow(grad, z.get(), Counts(kOutput) + at, Vector(l.products[kOutput].slope), c, chunk);
        }
        chunk.Flush(part, sums);
        FlushBranch(part, gain_sum, shift_sum, branches);
      });
    });
    if (options.branches) {
      StoreSums(branches.gain, l.attention_gain, c);
      StoreSums(branches.shift, l.attention_shift, c);
    }
    maps[kOutput] = MapProduct(kOutput, sums);
  }

  void Flush(int part, Buffer& chunk, ColumnSums& sums) const {
    sums.Add(part, chunk.get());
    std::memset(chunk.get(), 0, static_cast<size_t>(l.channels) * sizeof(float));
  }

  void NormSums(const float* grad, const float* x, int64_t rows, float* sum, float* times) const {
    const int64_t c = l.channels;
    for (int64_t r = 0; r < rows; r++) {
      const float *g = grad + r * c, *own = x + r * c;
#pragma omp simd
      for (int64_t i = 0; i < c; i++) {
        sum[i] += g[i];
        times[i] += g[i] * own[i];
      }
    }
  }

  // The pooling is its own transpose: that of the gradient times w gives the gains' gradients, times the gains that of
  // w.
  void PoolingBack(const float* grad, const float* w, const float* zeros, float* out, float* gain_sum,
                   float* shift_sum) const {
    const int64_t c = l.channels;
    const float* gains = vectors + l.pooling_gain;
    for (int64_t y = 0; y < l.height; y++) {
      for (int64_t x = 0; x < l.width; x++) {
        const Windows at(grad, y, x, l.height, l.width, c, zeros);
        const int64_t token = (y * l.width + x) * c;
        const float* own = w + token;
        float* to = out + token;
#pragma omp simd
        for (int64_t i = 0; i < c; i++) {
          const float up = at.vertical[1][i] + at.vertical[2][i] + at.vertical[3][i];
          const float far_up = up + at.vertical[0][i] + at.vertical[4][i];
          const float across = at.horizontal[1][i] + at.horizontal[2][i] + at.horizontal[3][i];
          const float far_across = across + at.horizontal[0][i] + at.horizontal[4][i];
          shift_sum[i] += at.vertical[2][i];
          gain_sum[i] += up * own[i] / 3.0f;
          gain_sum[c + i] += far_up * own[i] / 5.0f;
          gain_sum[2 * c + i] += across * own[i] / 3.0f;
          gain_sum[3 * c + i] += far_across * own[i] / 5.0f;
          to[i] += up * (gains[i] / 3.0f) + far_up * (gains[c + i] / 5.0f) + across * (gains[2 * c + i] / 3.0f) +
                   far_across * (gains[3 * c + i] / 5.0f);
        }
      }
    }
  }

  // Through the output product to the gradient before the context's RPReLU, in `first`.
  void Output() {
    const int64_t c = l.channels;
    ActivationSums sums(c);
    ProductState state(*this, kOutput);
    ForParts(options.threads, [&](int part) {
      Buffer context(chunk_rows * c), z(chunk_rows * c), grad(chunk_rows * c);
      ActivationChunk chunk(c);
      ProductChunk product(state.own, chunk_rows);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        for (int64_t r = 0; r < rows; r++) {
          const int64_t at = start + r * c;
          ContextRow(saved + l.context + at, io.query + at, io.key + at, io.value + at, z.get() + r * c,
                     context.get() + r * c);
        }
        float* behind = first + start;
        std::memcpy(grad.get(), behind, static_cast<size_t>(rows * c) * sizeof(float));
        MultiplyBack(part, kOutput, maps[kOutput], behind, c, Counts(kOutput) + start, context.get(), rows, state,
                     product, grad.get());
        for (int64_t r = 0; r < rows; r++) {
          ActivationRow(grad.get() + r * c, z.get() + r * c, saved + l.context + start + r * c, Vector(l.context_slope),
                        c, chunk);
        }
        std::memcpy(behind, grad.get(), static_cast<size_t>(rows * c) * sizeof(float));
        chunk.Flush(part, sums);
      });
    });
    FinishProduct(kOutput, maps[kOutput], state);
    context_map = MapNorm(kContextNorm, sums.norm, sums.value, l.context_gamma, l.context_beta);
    for (int64_t i = 0; i < c; i++) {
      io.grad_vectors[l.context_shift_in + i] = static_cast<float>(-sums.norm[i]);
      io.grad_vectors[l.context_slope + i] = static_cast<float>(sums.slope[i]);
      io.grad_vectors[l.context_shift_out + i] = static_cast<float>(sums.out[i]);
    }
  }

  // What the backward pass of the attention of an image works in.
  struct AttentionScratch {
    AttentionScratch(const Pass& pass, const Layout& l, int64_t lanes, int64_t token_words)
        : bits(static_cast<const BackwardPass&>(pass)),
          p(l.tokens * lanes),
          grad(lanes * lanes),
          weighted(l.tokens * l.head_dim),
          query_grad(lanes * l.head_dim),
          key_grad(lanes * l.head_dim),
          value_grad(l.tokens * l.head_dim),
          kept(static_cast<size_t>(l.tokens * token_words)),
          value_codes(static_cast<size_t>(CodeSize(l.head_dim, lanes))),
          key_codes(static_cast<size_t>(CodeSize(lanes, l.head_dim))),
          query_codes(static_cast<size_t>(CodeSize(lanes, l.head_dim))),
          column(static_cast<size_t>(lanes)),
          threshold(static_cast<size_t>(lanes)) {}
    AttentionBits bits;
    Buffer p, grad, weighted, query_grad, key_grad, value_grad;
    std::vector<uint32_t> kept;
    std::vector<Code> value_codes;             // of the values, (head_dim, lanes)
    std::vector<Code> key_codes, query_codes;  // (lanes, head_dim)
    std::vector<float> column, threshold;
  };

  // Gradients of one image's q, k and v, added to those in q_grad, k_grad and v_grad; returns that of the
  // probabilities' scale.
  double AttendBack(int64_t image, const float* grad_context, AttentionScratch& s, float* q_grad, float* k_grad,
                    float* v_grad, float* q_sums, float* k_sums, float* v_sums) const {
    const int64_t c = l.channels, d = l.head_dim, tokens = l.tokens, start = image * tokens * c;
    const float *q = io.query + start, *k = io.key + start, *v = io.value + start;
    SetBits(q, k, v, s.bits);
    double scale_grad = 0.0;
    for (int64_t h = 0; h < l.heads; h++) {
      const float *alpha = saved + l.alpha[kAttentionValue] + h * d, *mu = saved + l.mu[kAttentionValue] + h * d;
      for (int64_t n = 0; n < tokens; n++) {
        Probabilities(s.bits, h, n, s.p.get() + n * lanes, s.kept.data() + n * token_words);
        CodeRow(s.key_codes.data(), n, d, k + n * c + h * d, Threshold(kAttentionKey) + h * d);
        CodeRow(s.query_codes.data(), n, d, q + n * c + h * d, Threshold(kAttentionQuery) + h * d);
      }
      for (int64_t i = 0; i < d; i++) {
        const float threshold = Threshold(kAttentionValue)[h * d + i];
        for (int64_t n = 0; n < tokens; n++) s.column[n] = v[n * c + h * d + i];
        std::fill(s.threshold.begin(), s.threshold.end(), threshold);
        CodeRow(s.value_codes.data(), i, lanes, s.column.data(), s.threshold.data());
      }

      // of the kept probabilities: grad_context times the decoded values
      for (int64_t n = 0; n < tokens; n++) {
        const float* g = grad_context + n * c + h * d;
        float* to = s.weighted.get() + n * d;
#pragma omp simd
        for (int64_t i = 0; i < d; i++) to[i] = g[i] * alpha[i];
      }
      RealBySigns(s.weighted.get(), tokens, d, s.value_codes.data(), lanes, s.grad.get());
      float* value_grad = s.value_grad.get();
      std::memset(value_grad, 0, static_cast<size_t>(tokens * d) * sizeof(float));
      for (int64_t n = 0; n < tokens; n++) {
        const float* g = grad_context + n * c + h * d;
        float offset = 0.0f;
#pragma omp simd reduction(+ : offset)
        for (int64_t i = 0; i < d; i++) offset += g[i] * mu[i];
        // of the values: every context that kept one
        const float* weighted = s.weighted.get() + n * d;
        const uint32_t* kept = s.kept.data() + n * token_words;
        for (int64_t w = 0; w < token_words; w++) {
          for (uint32_t left = kept[w]; left != 0; left &= left - 1) {
            float* to = value_grad + (32 * w + __builtin_ctz(left)) * d;
#pragma omp simd
            for (int64_t i = 0; i < d; i++) to[i] += weighted[i];
          }
        }
        // through the levels and the softmax to the scores
        float *grad = s.grad.get() + n * lanes, *p = s.p.get() + n * lanes, dot = 0.0f, levels = 0.0f;
        const float inverse = 1.0f / probability_scale;
#pragma omp simd reduction(+ : dot, levels)
        for (int64_t j = 0; j < tokens; j++) {
          const float g_j = grad[j] + offset, ratio = p[j] / probability_scale;
          const bool inside = ratio <= 1.0f;
          const float level = ratio > 0.5f ? 1.0f : 0.0f;
          levels += g_j * (level - (inside ? p[j] * inverse : 0.0f));
          grad[j] = inside ? g_j : 0.0f;
          dot += grad[j] * p[j];
        }
        scale_grad += levels;
#pragma omp simd
        for (int64_t j = 0; j < tokens; j++) grad[j] = p[j] * (grad[j] - dot);
        for (int64_t j = tokens; j < lanes; j++) grad[j] = 0.0f;
      }
      std::memset(s.grad.get() + tokens * lanes, 0, static_cast<size_t>((lanes - tokens) * lanes) * sizeof(float));

      // of the codes of queries and keys
      RealBySigns(s.grad.get(), tokens, lanes, s.key_codes.data(), d, s.query_grad.get());
      std::memset(s.key_grad.get(), 0, static_cast<size_t>(lanes * d) * sizeof(float));
      SignsByReal(s.grad.get(), lanes, lanes, s.query_codes.data(), d, s.key_grad.get());
      std::fill(s.column.begin(), s.column.end(), 0.0f);
      for (int64_t n = 0; n < tokens; n++) {
        const float* grad = s.grad.get() + n * lanes;
#pragma omp simd
        for (int64_t j = 0; j < lanes; j++) s.column[j] += grad[j];
      }
      const float score = score_scale[h], factor = key_scale[h];
      const float* offset = query_offset.data() + h * d;
      for (int64_t n = 0; n < tokens; n++) {
        float *dq = s.query_grad.get() + n * d, *dk = s.key_grad.get() + n * d, *dv = s.value_grad.get() + n * d;
        const float all = s.column[n] * factor;
#pragma omp simd
        for (int64_t i = 0; i < d; i++) {
          dq[i] *= score;
          dk[i] = dk[i] * score + all * offset[i];
          dv[i] *= probability_scale;
        }
        const int64_t at = n * c + h * d, own = h * d;
        const auto back = [&](const float* grad, const float* z, int quantizer, float* out, float* sums) {
          SignRow(grad, z + at, Threshold(quantizer) + own, d, options.quantizers[quantizer].clip, out, sums + own);
        };
        back(dq, q, kAttentionQuery, q_grad + at, q_sums);
        back(dk, k, kAttentionKey, k_grad + at, k_sums);
        back(dv, v, kAttentionValue, v_grad + at, v_sums);
      }
    }
    return scale_grad;
  }

  // Through the attention to the gradients before the RPReLUs of queries, keys and values, in `second`.
  void Context() {
    const int64_t c = l.channels;
    ActivationSums sums[] = {c, c, c};
    ColumnSums thresholds[] = {ColumnSums(c), ColumnSums(c), ColumnSums(c)};
    std::vector<double> scale_grads(static_cast<size_t>(l.images));
    const float* taps[] = {io.grad_query, io.grad_key, io.grad_value};
    ForParts(options.threads, [&](int part) {
      AttentionScratch scratch(*this, l, lanes, token_words);
      Buffer grad_context(chunk_rows * c), u(c), z(c), out(c);
      Buffer threshold_sums[] = {Buffer(c), Buffer(c), Buffer(c)};
      ActivationChunk chunks[] = {c, c, c};
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        for (int64_t r = 0; r < rows; r++) {
          const int64_t at = start + r * c;
          const float* shortcut = first + at;
          NormRow(kContextNorm, context_map, shortcut, saved + l.context + at, grad_context.get() + r * c);
          for (int p = 0; p < 3; p++) {
            float* to = Third(p) + at;
            const float* tap = taps[p] + at;
#pragma omp simd
            for (int64_t i = 0; i < c; i++) to[i] = shortcut[i] + tap[i];
          }
        }
        for (int64_t i = b; i < b + images; i++) {
          const int64_t at = i * l.tokens * c;
          scale_grads[i] =
              AttendBack(i, grad_context.get() + (i - b) * l.tokens * c, scratch, Third(0) + at, Third(1) + at,
                         Third(2) + at, threshold_sums[0].get(), threshold_sums[1].get(), threshold_sums[2].get());
        }
        for (int p = 0; p < 3; p++) Flush(part, threshold_sums[p], thresholds[p]);
        for (int64_t r = 0; r < rows; r++) {
          const int64_t at = start + r * c;
          Affine(io.x + at, 1, c, gain[kAttentionNorm].data(), shift[kAttentionNorm].data(), u.get());
          for (int p = kQuery; p <= kValue; p++) {
            ProductRow(p, Counts(p) + at, u.get(), z.get(), out.get());
            ActivationRow(Third(p) + at, z.get(), Counts(p) + at, Vector(l.products[p].slope), c, chunks[p]);
          }
        }
        for (int p = 0; p < 3; p++) chunks[p].Flush(part, sums[p]);
      });
    });
    for (int p = kQuery; p <= kValue; p++) maps[p] = MapProduct(p, sums[p]);
    StoreSums(thresholds[0], l.query_threshold, c);
    StoreSums(thresholds[1], l.key_threshold, c);
    StoreSums(thresholds[2], l.value_threshold, c);
    double scale_grad = 0.0;
    for (double own : scale_grads) scale_grad += own;
    io.grad_vectors[l.probability_scale] = static_cast<float>(scale_grad);
  }

  float* Third(int p) { return second + p * (l.rows * l.channels + kStagger); }

  // Through the three products to the gradient of what they read, in `first`.
  void QueriesKeysValues() {
    const int64_t c = l.channels;
    ColumnSums norm(c), times(c);
    ProductState states[] = {{*this, kQuery}, {*this, kKey}, {*this, kValue}};
    ForParts(options.threads, [&](int part) {
      Buffer u(chunk_rows * c), norm_sum(c), times_sum(c);
      ProductChunk chunk(states[0].own, chunk_rows);
      ForChunks(part, [&](int64_t b, int64_t images) {
        const int64_t rows = images * l.tokens, start = b * l.tokens * c;
        Affine(io.x + start, rows, c, gain[kAttentionNorm].data(), shift[kAttentionNorm].data(), u.get());
        float* grad = first + start;
        const float *gq = Third(0) + start, *gk = Third(1) + start, *gv = Third(2) + start;
#pragma omp simd
        for (int64_t i = 0; i < rows * c; i++) grad[i] = gq[i] + gk[i] + gv[i];
        for (int p = kQuery; p <= kValue; p++) {
          MultiplyBack(part, p, maps[p], Third(p) + start, c, Counts(p) + start, u.get(), rows, states[p], chunk, grad);
        }
        NormSums(grad, io.x + start, rows, norm_sum.get(), times_sum.get());
        Flush(part, norm_sum, norm), Flush(part, times_sum, times);
      });
    });
    for (int p = kQuery; p <= kValue; p++) FinishProduct(p, maps[p], states[p]);
    input_map = MapNorm(kAttentionNorm, norm, times, l.attention_gamma, l.attention_beta);
  }

  // Through the first norm, added to the gradient of the residual.
  void Input() {
    const int64_t c = l.channels;
    ForParts(options.threads, [&](int part) {
      Buffer own(c);
      ForChunks(part, [&](int64_t b, int64_t images) {
        for (int64_t r = 0; r < images * l.tokens; r++) {
          const int64_t at = (b * l.tokens + r) * c;
          NormRow(kAttentionNorm, input_map, first + at, io.x + at, own.get());
          float* to = io.grad_x + at;
          const float* from = own.get();
#pragma omp simd
          for (int64_t i = 0; i < c; i++) to[i] += from[i];
        }
      });
    });
  }

  const Backward& io;
  Buffer first_memory, second_memory;
  float* first = first_memory.get() + 8 * kStagger;     // (rows, channels)
  float* second = second_memory.get() + 12 * kStagger;  // (rows, hidden), or three of (rows, channels)
  ProductMap maps[kProducts];
  NormMap context_map, input_map;
};

// === Medians ===
// Averaging medians by bisection, sixteen columns at a time: the bound closes in on the lower middle value from above.
inline void ColumnMedians(const float* x, int64_t rows, int64_t columns, float* medians) {
  constexpr int64_t kWide = 16;
  for (int64_t start = 0; start < columns; start += kWide) {
    const int64_t wide = std::min(kWide, columns - start);
    float low[kWide], high[kWide], lower[kWide], upper[kWide];
    int32_t count[kWide];
    for (int64_t c = 0; c < wide; c++) low[c] = high[c] = x[start + c];
    for (int64_t r = 0; r < rows; r++) {
      const float* own = x + r * columns + start;
      for (int64_t c = 0; c < wide; c++) {
        low[c] = std::min(low[c], own[c]);
        high[c] = std::max(high[c], own[c]);
      }
    }
    const int32_t middle = static_cast<int32_t>((rows - 1) / 2);
    for (int iteration = 0; iteration < 24; iteration++) {
      float bound[kWide];
      for (int64_t c = 0; c < wide; c++) {
        bound[c] = low[c] + 0.5f * (high[c] - low[c]);
        count[c] = 0;
      }
      for (int64_t r = 0; r < rows; r++) {
        const float* own = x + r * columns + start;
        if (wide == kWide) {
#pragma omp simd
          for (int64_t c = 0; c < kWide; c++) count[c] += own[c] <= bound[c];
        } else {
          for (int64_t c = 0; c < wide; c++) count[c] += own[c] <= bound[c];
        }
      }
      for (int64_t c = 0; c < wide; c++) (count[c] > middle ? high[c] : low[c]) = bound[c];
    }
    for (int64_t c = 0; c < wide; c++) {
      lower[c] = -INFINITY, upper[c] = INFINITY, count[c] = 0;
      for (int64_t r = 0; r < rows; r++) {
        const float value = x[r * columns + start + c];
        if (value <= high[c]) {
          lower[c] = std::max(lower[c], value);
          count[c]++;
        } else {
          upper[c] = std::min(upper[c], value);
        }
      }
      // The upper middle value, too, is `lower` where more than half are at most that.
      if (rows % 2 || count[c] > rows / 2) upper[c] = lower[c];
      medians[start + c] = 0.5f * (lower[c] + upper[c]);
    }
  }
}

inline void RunForward(const Layout& layout, const Options& options, const Forward& io) {
  ForwardPass(layout, options, io).Run();
}
inline void RunBackward(const Layout& layout, const Options& options, const Backward& io) {
  BackwardPass(layout, options, io).Run();
}
