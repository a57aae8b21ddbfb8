// The backward pass of a block. Included once per instruction set.

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
    if (HasBranches()) {
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

  // Through the first product, the norm before it and the mixing of neighbours: the gradient of w, in `first`.
  void Middle() {
    const int64_t c = l.channels, d = l.hidden;
    const int64_t weights = l.mixing_rows * c;
    ColumnSums norm(c), times(c), mixing(weights), shift_sums(c);
    ProductState state(*this, kMlp1);
    ForParts(options.threads, [&](int part) {
      Buffer w(chunk_rows * c), norm_sum(c), times_sum(c), mixing_sum(weights), shift_sum(c), zeros(c);
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
        for (int64_t i = 0; HasBranches() && i < images; i++) {
          const int64_t at = (b + i) * l.tokens * c;
          const float *upstream = io.grad_out + at, *image = w.get() + i * l.tokens * c;
          if (options.branches == Branches::kPooling) {
            PoolingBack(upstream, image, zeros.get(), first + at, mixing_sum.get(), shift_sum.get());
          } else {
            ConvolutionBack(upstream, image, zeros.get(), first + at, mixing_sum.get(), shift_sum.get());
          }
        }
        const float* x = saved + l.middle + from * c;
        NormSums(grad, x, rows, norm_sum.get(), times_sum.get());
        Flush(part, norm_sum, norm), Flush(part, times_sum, times);
        if (!HasBranches()) return;
        mixing.Add(part, mixing_sum.get());
        std::memset(mixing_sum.get(), 0, static_cast<size_t>(weights) * sizeof(float));
        Flush(part, shift_sum, shift_sums);
      });
    });
    FinishProduct(kMlp1, maps[kMlp1], state);
    if (HasBranches()) {
      StoreSums(mixing, l.mixing, weights);
      StoreSums(shift_sums, l.mixing_shift, c);
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
    if (HasBranches()) {
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
    const float* gains = vectors + l.mixing;
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

  // The transpose of a convolution has its kernel turned by half a circle: what reaches a token from a neighbour's
  // gradient went the other way. That gradient times the token's own w is the kernel's.
  void ConvolutionBack(const float* grad, const float* w, const float* zeros, float* out, float* kernel_sum,
                       float* shift_sum) const {
    const int64_t c = l.channels;
    const float* kernel = vectors + l.mixing;
    for (int64_t y = 0; y < l.height; y++) {
      for (int64_t x = 0; x < l.width; x++) {
        const Neighbours near(grad, y, x, l.height, l.width, c, zeros);
        const int64_t token = (y * l.width + x) * c;
        const float* own = w + token;
        float* to = out + token;
#pragma omp simd
        for (int64_t i = 0; i < c; i++) {
          float sum = 0.0f;
          shift_sum[i] += near.at[4][i];
          for (int k = 0; k < 9; k++) {
            const float upstream = near.at[8 - k][i];
            kernel_sum[k * c + i] += upstream * own[i];
            sum += upstream * kernel[k * c + i];
          }
          to[i] += sum;
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
