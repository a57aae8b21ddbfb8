#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "block.h"

namespace acdbit {
namespace {

// Hands out consecutive parts of an array.
class Cursor {
 public:
  size_t Take(int64_t length) {
    const size_t start = next_;
    next_ += static_cast<size_t>(length);
    return start;
  }
  size_t total() const { return next_; }

 private:
  size_t next_ = 0;
};

constexpr int64_t kLanes = 16;

int64_t Rounded(int64_t length) { return (length + kLanes - 1) / kLanes * kLanes; }

}  // namespace

Options ParseOptions(const float* numbers) {
  Options options;
  options.heads = static_cast<int>(numbers[0]);
  options.mlp_ratio = static_cast<int>(numbers[1]);
  options.threads = static_cast<int>(numbers[2]);
  options.training = numbers[3] != 0.0f;
  options.branches = static_cast<Branches>(static_cast<int>(numbers[4]));
  options.norm_momentum = numbers[5];
  options.epsilon = numbers[6];
  options.momentum = numbers[7];
  options.share = numbers[8];
  for (int i = 0; i < kQuantizers; i++) {
    const float* own = numbers + 9 + 5 * i;
    options.quantizers[i] = {own[0], own[1] != 0.0f, own[2] != 0.0f, own[3] != 0.0f, own[4] != 0.0f};
  }
  return options;
}

const char* Layout::Set(const Shape& shape, const Options& options) {
  if (shape.batch < 1 || shape.height < 1 || shape.width < 1) return "the batch has no images or no tokens";
  if (shape.height * shape.width > kMaxTokens) return "an image of more than 4096 tokens is not supported";
  if (options.heads < 1 || options.mlp_ratio < 1) return "the number of heads and the MLP's ratio must be at least 1";
  if (shape.channels % (32 * options.heads)) return "the channels of a head must be a multiple of 32";
  if (shape.channels * options.mlp_ratio > 32767) return "products of more than 32767 signs do not fit 16 bits";
  images = shape.batch, height = shape.height, width = shape.width, channels = shape.channels;
  tokens = height * width, rows = images * tokens, hidden = channels * options.mlp_ratio;
  heads = options.heads, head_dim = channels / heads;
  const int64_t c = channels;

  Cursor kernel, vector;
  for (int p = 0; p < kProducts; p++) {
    ProductLayout& product = products[p];
    product.in = p == kMlp2 ? hidden : c;
    product.out = p == kMlp1 ? hidden : c;
    product.signs = kernel.Take(product.in * product.out);
    product.scale = vector.Take(product.out);
    product.threshold = vector.Take(product.in);
    for (size_t* part : {&product.gamma, &product.beta, &product.shift_in, &product.slope, &product.shift_out}) {
      *part = vector.Take(product.out);
    }
  }
  for (size_t* part :
       {&attention_gamma, &attention_beta, &context_gamma, &context_beta, &mlp_gamma, &mlp_beta, &query_threshold,
        &key_threshold, &value_threshold, &context_shift_in, &context_slope, &context_shift_out}) {
    *part = vector.Take(c);
  }
  probability_scale = vector.Take(1);
  mixing_rows = options.branches == Branches::kDepthwise ? 9 : 4;
  if (options.branches != Branches::kNone) {
    for (size_t* part : {&attention_gain, &attention_shift, &mlp_gain, &mlp_shift}) *part = vector.Take(c);
    mixing = vector.Take(mixing_rows * c);
    mixing_shift = vector.Take(c);
  }
  kernels = kernel.total(), vectors = vector.total();

  Cursor statistic, kept;
  for (int i = 0; i < kNorms; i++) {
    const int64_t length = i == kMlp1Norm ? hidden : c;
    norms[i] = {statistic.Take(length), statistic.Take(length)};
    norm_mean[i] = kept.Take(Rounded(length));
    norm_scale[i] = kept.Take(Rounded(length));
  }
  for (int i = 0; i < kQuantizers; i++) {
    const int64_t length = i == kMlp2 ? hidden : c;
    quantizers[i] = {length, statistic.Take(length), statistic.Take(length), statistic.Take(length), statistic.Take(1)};
    alpha[i] = kept.Take(Rounded(length));
    mu[i] = kept.Take(Rounded(length));
  }
  statistics = statistic.total();
  for (int p = 0; p < kProducts; p++) counts[p] = kept.Take(Rounded((rows * products[p].out + 1) / 2) + kStagger);
  context = kept.Take(Rounded(rows * c) + kStagger);
  mixed = kept.Take(Rounded(rows * c) + kStagger);
  middle = kept.Take(Rounded(rows * c) + kStagger);
  saved = kept.total();
  return nullptr;
}

const Kernels& BestKernels() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("ACDBIT_KERNELS");
  const bool any = wanted == nullptr;
  const auto is = [&](const char* name) { return !any && !std::strcmp(wanted, name); };
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vpopcntdq");
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
  if (has_avx512 && (any || is("avx512"))) return avx512::kKernels;
  if (has_avx2 && (any || is("avx512") || is("avx2"))) return avx2::kKernels;
#endif
  return portable::kKernels;
}

}  // namespace acdbit
