// The parts of binary attention that no instruction set changes: the workspace and the table of exponentials.
#include "attention.h"

#include <math.h>
#include <string.h>

#include "attention_layout.h"

namespace acdbit {
namespace {

constexpr size_t kAlignment = 64;
constexpr double kOne = 2147483648.0;  // 2^31 stands for the probability of the row's largest score, before the sum

// Byte offsets of the parts of a head, and the bytes of a head.
struct Layout {
  size_t values, table, table_values, factors, factor_values;
  size_t key_scale, key_offset, key_sum, key_bias, key_factor, bounds, bytes;
};

// Places `count` elements of `size` bytes at the end of what is laid out so far; false on overflow.
bool place(size_t count, size_t size, size_t* end) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return false;
  if (__builtin_add_overflow(bytes, kAlignment - 1, &bytes)) return false;
  return !__builtin_add_overflow(*end, bytes / kAlignment * kAlignment, end);
}

bool lay_out(int head_dim, int keys, Layout* layout) {
  const size_t padded = (size_t(keys) + 63) / 64 * 64;
  const size_t row = size_t(head_dim) / 4;  // the roomiest layout spends a byte on four bits
  size_t end = 0;
  bool fits = place(padded, row, &end);
  layout->values = end;
  fits = fits && place(padded, row, &end);
  layout->table = end;
  fits = fits && place(1, sizeof(AttentionTable), &end);
  layout->table_values = end;
  fits = fits && place(size_t(head_dim) + kTableStep, sizeof(uint32_t), &end);
  layout->factors = end;
  fits = fits && place(1, sizeof(AttentionFactors), &end);
  layout->factor_values = end;
  fits = fits && place(size_t(head_dim) + 1 > kTablePlane ? size_t(head_dim) + 1 : kTablePlane, sizeof(float), &end);
  size_t* const vectors[] = {&layout->key_scale, &layout->key_offset, &layout->key_sum, &layout->key_bias,
                             &layout->key_factor};
  for (size_t* vector : vectors) {
    *vector = end;
    fits = fits && place(padded, sizeof(float), &end);
  }
  layout->bounds = end;
  fits = fits && place(1, sizeof(KeyBounds), &end);
  layout->bytes = end;
  return fits;
}

}  // namespace

size_t attention_workspace_bytes(int heads, int head_dim, int keys) {
  Layout layout;
  size_t bytes;
  if (heads <= 0 || head_dim <= 0 || keys <= 0 || !lay_out(head_dim, keys, &layout)) return 0;
  if (__builtin_mul_overflow(layout.bytes, size_t(heads), &bytes) || bytes > PTRDIFF_MAX) return 0;
  return bytes;
}

AttentionHead attention_head(const AttentionPlan& plan, int head) {
  Layout layout;
  lay_out(plan.head_dim, plan.keys, &layout);
  uint8_t* const base = static_cast<uint8_t*>(plan.workspace) + layout.bytes * size_t(head);
  AttentionHead result;
  result.keys = base;
  result.values = base + layout.values;
  result.table = reinterpret_cast<AttentionTable*>(base + layout.table);
  result.factors = reinterpret_cast<AttentionFactors*>(base + layout.factors);
  result.key_scale = reinterpret_cast<float*>(base + layout.key_scale);
  result.key_offset = reinterpret_cast<float*>(base + layout.key_offset);
  result.key_sum = reinterpret_cast<float*>(base + layout.key_sum);
  result.key_bias = reinterpret_cast<float*>(base + layout.key_bias);
  result.key_factor = reinterpret_cast<float*>(base + layout.key_factor);
  result.bounds = reinterpret_cast<KeyBounds*>(base + layout.bounds);
  return result;
}

bool attention_is_integer(const AttentionPlan& plan) {
  return plan.key_weights == nullptr && plan.query_scale == nullptr;
}

bool attention_has_factors(const AttentionPlan& plan) {
  return plan.key_weights != nullptr && plan.query_scale == nullptr && plan.rule != Rule::kZero;
}

void attention_table(const AttentionPlan& plan, int head, AttentionTable* table) {
  Layout layout;
  lay_out(plan.head_dim, plan.keys, &layout);
  table->values = reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(table) + layout.table_values - layout.table);
  uint32_t* const values = table->values;
  const int entries = plan.head_dim + 1;
  const double step = -2.0 * double(plan.score_scale[head]);
  // e^(a + b) = e^a e^b spares most calls of exp.
  constexpr int kFine = 8;
  double fine[kFine];
  for (int i = 0; i < kFine; i++) fine[i] = exp(step * i);
  double coarse = kOne;
  values[0] = uint32_t(kOne);
  for (int k = 1; k < entries; k++) {
    if (k % kFine == 0) coarse = exp(step * k) * kOne;
    const double scaled = coarse * fine[k % kFine] + 0.5;
    // Never larger than the one before, whatever the scale and the rounding: the threshold is searched for.
    values[k] = scaled < double(values[k - 1]) ? uint32_t(scaled) : scaled == scaled ? values[k - 1] : 0;
  }
  for (int k = entries; k % kTableStep != 0; k++) values[k] = 0;
  const double ratio = double(plan.ratio) * kOne;
  table->last = table->ratio_steps = 0;
  for (int k = 0; k < entries && values[k] > 0; k++) table->last = k;
  while (table->ratio_steps < entries && double(values[table->ratio_steps]) >= ratio) table->ratio_steps++;
  if (plan.head_dim > kNarrowHead) return;
  memset(table->planes, 0, sizeof table->planes);
  for (int k = 0; k < entries; k++) {
    for (int b = 0; b < 4; b++) table->planes[b][k] = uint8_t(values[k] >> (8 * b));
  }
}

bool attention_factors(const AttentionPlan& plan, int head, float lowest_bias, float highest_bias,
                       AttentionFactors* factors) {
  constexpr double kLargestExponent = 60.0;
  const double scale = plan.score_scale[head];
  const double spread = double(highest_bias) - double(lowest_bias);
  // False for NaN, too.
  factors->usable = scale >= 0.0 && 2.0 * scale * plan.head_dim + spread <= kLargestExponent;
  if (!factors->usable) return false;
  Layout layout;
  lay_out(plan.head_dim, plan.keys, &layout);
  float* const values =
      reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(factors) + layout.factor_values - layout.factors);
  factors->values = values;
  const bool narrow = plan.head_dim <= kNarrowHead;
  if (narrow) {
    memset(factors->coarse, 0, sizeof factors->coarse);
    memset(factors->planes, 0, sizeof factors->planes);
    memset(values, 0, kTablePlane * sizeof(float));
  }
  const double step = -2.0 * scale;
  for (int i = 0; i < kFactorStep; i++) factors->fine[i] = factors->fine[i + kFactorStep] = float(exp(step * i));
  for (int first = 0; first <= plan.head_dim; first += kFactorStep) {
    const float coarse = float(exp(step * first));
    if (narrow) factors->coarse[first / kFactorStep] = coarse;
    for (int k = first; k <= plan.head_dim && k < first + kFactorStep; k++) {
      values[k] = coarse * factors->fine[k - first];
      if (!narrow) continue;
      uint32_t bits;
      memcpy(&bits, values + k, sizeof bits);
      for (int b = 0; b < 4; b++) factors->planes[b][k] = uint8_t(bits >> (8 * b));
    }
  }
  return true;
}

}  // namespace acdbit
