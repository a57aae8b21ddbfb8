// Forward and backward pass of a whole binary transformer block, for training.
//
// The block is that of `acdbit_keras.models.blocks.BinaryBlock`; its numbers are those of the Keras form up to the
// rounding of float32. Between the passes over the batch that its norms force, nothing but what the backward pass needs
// is written to memory: products of signs are kept as 16-bit integers, and everything that is cheap to compute twice is
// computed twice.
//
// All arrays are dense, float32 and row-major. B images of N = height x width tokens of C channels, D = mlp_ratio C, M
// = B N. Products are numbered query, key, value, output, mlp_1, mlp_2; quantizers are those of their inputs, in the
// same order, and those of the attention's query, key and value; norms are numbered attention, query, key, value,
// output, context, mlp, mlp_1, mlp_2, those with the name of a product being behind it.
#ifndef ACDBIT_TRAINING_BLOCK_H_
#define ACDBIT_TRAINING_BLOCK_H_

#include <cstddef>
#include <cstdint>

namespace acdbit {

constexpr int kProducts = 6;
constexpr int kQuantizers = 9;
constexpr int kNorms = 9;
constexpr int64_t kMaxTokens = 4096;
// Floats between arrays over the whole batch: their lengths are multiples of a page, and rows of ten of them at the
// same place in a page would drive each other out of the cache.
constexpr int64_t kStagger = 144;

enum Product { kQuery, kKey, kValue, kOutput, kMlp1, kMlp2 };
enum Norm {
  kAttentionNorm,
  kQueryNorm,
  kKeyNorm,
  kValueNorm,
  kOutputNorm,
  kContextNorm,
  kMlpNorm,
  kMlp1Norm,
  kMlp2Norm
};
enum AttentionQuantizer { kAttentionQuery = 6, kAttentionKey, kAttentionValue };

enum class Branches { kNone, kPooling, kDepthwise };

// How a quantizer `alpha * sign(z - threshold) + mu` is trained.
struct QuantizerOptions {
  float clip;    // the sign's gradient is 1 where |z - threshold| <= clip; negative: 2 - 2 |z - threshold| within 1
  bool tracked;  // whether running statistics move
  bool median;   // whether the running location moves towards the median, by pinball steps, or to the mean
  bool scaled;   // whether alpha is the running mean |z - threshold|, else 1
  bool restore;  // whether mu is the running mean, else 0
};

struct Options {
  int heads;
  int mlp_ratio;
  int threads;
  bool training;
  Branches branches;    // LayerScale, and what mixes neighbouring tokens
  float norm_momentum;  // of the norms' moving statistics
  float epsilon;
  float momentum;  // of the quantizers' running statistics
  float share;     // of the batch that these are taken from
  QuantizerOptions quantizers[kQuantizers];
};

constexpr int kOptionCount = 9 + 5 * kQuantizers;

struct Shape {
  int64_t batch, height, width, channels;
};

// Where the parts of the flat arrays begin. See `layout.cc` for their order.
struct ProductLayout {
  int64_t in, out;
  size_t signs;  // in `kernels`: (in, out), -1 or +1
  // in `vectors`: scale of the kernel (out), threshold (in), gamma, beta, shift_in, slope, shift_out (out)
  size_t scale, threshold, gamma, beta, shift_in, slope, shift_out;
};

struct NormStatistics {
  size_t mean, variance;
};

struct QuantizerStatistics {
  int64_t width;
  size_t location, mean, spread, updates;
};

struct Layout {
  int64_t images, tokens, rows, channels, hidden, heads, head_dim, height, width;
  ProductLayout products[kProducts];
  size_t attention_gamma, attention_beta, context_gamma, context_beta, mlp_gamma, mlp_beta;
  size_t query_threshold, key_threshold, value_threshold, probability_scale;
  size_t context_shift_in, context_slope, context_shift_out;
  size_t attention_gain, attention_shift, mlp_gain, mlp_shift;
  // The gains of the pooling branches (2, 2, C), or the depthwise kernel (3, 3, C); and a shift.
  int64_t mixing_rows;  // 4 or 9
  size_t mixing, mixing_shift;
  size_t kernels, vectors;  // lengths
  NormStatistics norms[kNorms];
  QuantizerStatistics quantizers[kQuantizers];
  size_t statistics;  // length
  // in `saved`, in floats
  size_t norm_mean[kNorms], norm_scale[kNorms], alpha[kQuantizers], mu[kQuantizers];
  size_t counts[kProducts];  // 16-bit integers
  // the context, what it becomes behind its norm, residual and RPReLU, and the block's middle (rows, channels)
  size_t context, mixed, middle;
  size_t saved;  // length

  // What is wrong with the sizes, or nullptr.
  const char* Set(const Shape& shape, const Options& options);
};

struct Forward {
  const float *x, *keep, *kernels, *vectors, *statistics;
  float *out, *query, *key, *value, *new_statistics, *saved;
};

struct Backward {
  const float *grad_out, *grad_query, *grad_key, *grad_value;
  const float *x, *keep, *kernels, *vectors, *query, *key, *value, *saved;
  float *grad_x, *grad_kernels, *grad_vectors;
};

// From the flat form of the options, `kOptionCount` numbers.
Options ParseOptions(const float* numbers);

struct Kernels {
  void (*forward)(const Layout&, const Options&, const Forward&);
  void (*backward)(const Layout&, const Options&, const Backward&);
  // Averaging medians of the columns of a matrix.
  void (*column_medians)(const float* x, int64_t rows, int64_t columns, float* medians);
};

// Those for this processor; ACDBIT_KERNELS=avx512, avx2 or portable picks others.
const Kernels& BestKernels();

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
#endif
namespace portable {
extern const Kernels kKernels;
}

}  // namespace acdbit

#endif  // ACDBIT_TRAINING_BLOCK_H_
