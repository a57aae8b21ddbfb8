// The forward pass of a block. Included once per instruction set.

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

  // Sums of z, |z - threshold| and the sign of z - location over the images that running statistics are taken from.
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

  // The sign is that of z - location: a threshold may lie beside the median that is tracked.
  void Watch(int quantizer, const float* z, QuantizerChunk& sums) const {
    const float *threshold = Threshold(quantizer), *location = io.statistics + l.quantizers[quantizer].location;
    float *mean = sums.mean.get(), *spread = sums.spread.get(), *sign = sums.sign.get();
#pragma omp simd
    for (int64_t c = 0; c < sums.width; c++) {
      mean[c] += z[c];
      spread[c] += std::fabs(z[c] - threshold[c]);
      sign[c] += z[c] >= location[c] ? 1.0f : -1.0f;
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
      if (Watched(product, image + r / l.tokens)) Watch(product, own, chunk.quantizer);
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
            if (Watched(quantizer, b + r / l.tokens)) Watch(quantizer, out, chunks[p]);
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
        if (!HasBranches()) return;
        for (int64_t i = 0; i < images; i++) {
          const float* image = w.get() + i * l.tokens * c;
          float* out = io.out + start + i * l.tokens * c;
          if (options.branches == Branches::kPooling) {
            AddPooling(image, zeros.get(), out);
          } else {
            AddConvolution(image, zeros.get(), out);
          }
        }
      });
    });
  }

  void AddPooling(const float* w, const float* zeros, float* out) const {
    const int64_t c = l.channels;
    const float *gains = vectors + l.mixing, *shifts = vectors + l.mixing_shift;
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

  void AddConvolution(const float* w, const float* zeros, float* out) const {
    const int64_t c = l.channels;
    const float *kernel = vectors + l.mixing, *shifts = vectors + l.mixing_shift;
    for (int64_t y = 0; y < l.height; y++) {
      for (int64_t x = 0; x < l.width; x++) {
        const Neighbours near(w, y, x, l.height, l.width, c, zeros);
        float* to = out + (y * l.width + x) * c;
#pragma omp simd
        for (int64_t i = 0; i < c; i++) {
          float sum = shifts[i];
          for (int k = 0; k < 9; k++) sum += near.at[k][i] * kernel[k * c + i];
          to[i] += sum;
        }
      }
    }
  }

  const Forward& io;
  int64_t share_images;
};
