// The parts of binary attention that no instruction set changes: the workspace and the table of exponentials.
#include "attention.h"

#include <math.h>
#include <string.h>

#include "attention_layout.h"
#include "layout.h"

namespace acdbit {
namespace {

constexpr double kOne = 2147483648.0;  // 2^31 stands for the probability of the row's largest score, before the sum

// Byte offsets of the parts of a head, whose keys come first, and the bytes of a head.
struct HeadLayout {
  size_t values, table, factors, key_scale, key_offset, key_sum, key_bias, key_factor, bounds;
  Layout layout;
};

HeadLayout lay_out(int head_dim, int keys) {
  const size_t padded = (size_t(keys) + 63) / 64 * 64;
  const size_t row = size_t(head_dim) / 4;  // the roomiest layout spends a byte on four bits
  HeadLayout head = {};
  head.layout.add(padded, row);
  head.values = head.layout.add(padded, row);
  head.table = head.layout.add(1, sizeof(AttentionTable));
  head.factors = head.layout.add(1, sizeof(AttentionFactors));
  size_t* const vectors[] = {&head.key_scale, &head.key_offset, &head.key_sum, &head.key_bias, &head.key_factor};
  for (size_t* vector : vectors) *vector = head.layout.add(padded, sizeof(float));
  head.bounds = head.layout.add(1, sizeof(KeyBounds));
  return head;
}

int32_t ratio_steps(const AttentionPlan& plan, const AttentionTable& table) {
  const double ratio = double(plan.ratio) * kOne;
  int32_t steps = 0;
  while (steps <= plan.head_dim && double(table.values[steps]) >= ratio) steps++;
  return steps;
}

}  // namespace

size_t attention_workspace_bytes(int heads, int head_dim, int keys) {
  if (heads <= 0 || head_dim <= 0 || head_dim > kMaxHeadDim || keys <= 0) return 0;
  const Layout layout = lay_out(head_dim, keys).layout;
  size_t bytes;
  if (!layout.ok || __builtin_mul_overflow(layout.bytes, size_t(heads), &bytes) || bytes > PTRDIFF_MAX) return 0;
  return bytes;
}

AttentionHead attention_head(const AttentionPlan& plan, int head) {
  const HeadLayout layout = lay_out(plan.head_dim, plan.keys);
  uint8_t* const base = static_cast<uint8_t*>(plan.workspace) + layout.layout.bytes * size_t(head);
  AttentionHead result;
  result.keys = base;
  result.values = base + layout.values;
  result.own_table = plan.tables != nullptr ? nullptr : reinterpret_cast<AttentionTable*>(base + layout.table);
  result.own_factors = plan.factors != nullptr ? nullptr : reinterpret_cast<AttentionFactors*>(base + layout.factors);
  result.table = plan.tables != nullptr ? plan.tables + head : result.own_table;
  result.factors = plan.factors != nullptr ? plan.factors + head : result.own_factors;
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
  uint32_t* const values = table->values;
  const int entries = plan.head_dim + 1;
  if (plan.table) {
    memcpy(values, plan.table + size_t(head) * size_t(entries), size_t(entries) * sizeof *values);
    table->ratio_steps = plan.rule == Rule::kMaxRatio ? ratio_steps(plan, *table) : 0;
    return;
  }
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
  table->last = 0;
  for (int k = 0; k < entries && values[k] > 0; k++) table->last = k;
  table->ratio_steps = ratio_steps(plan, *table);
  memset(table->planes, 0, sizeof table->planes);
  for (int k = 0; k < entries; k++) {
    for (int b = 0; b < 4; b++) table->planes[b][k] = uint8_t(values[k] >> (8 * b));
  }
}

bool attention_factors_usable(const AttentionPlan& plan, int head, float lowest_bias, float highest_bias) {
  constexpr double kLargestExponent = 60.0;
  const double scale = plan.score_scale[head];
  const double spread = double(highest_bias) - double(lowest_bias);
  // False for NaN, too.
  return scale >= 0.0 && 2.0 * scale * plan.head_dim + spread <= kLargestExponent;
}

void attention_factors(const AttentionPlan& plan, int head, AttentionFactors* factors) {
  float* const values = factors->values;
  if (plan.table) {
    const size_t entries = size_t(plan.head_dim) + 1;
    memcpy(values, plan.table + size_t(head) * entries, entries * sizeof *values);
    return;
  }
  memset(factors->coarse, 0, sizeof factors->coarse);
  memset(factors->planes, 0, sizeof factors->planes);
  memset(values, 0, sizeof factors->values);
  const double step = -2.0 * double(plan.score_scale[head]);
  for (int i = 0; i < kFactorStep; i++) factors->fine[i] = factors->fine[i + kFactorStep] = float(exp(step * i));
  for (int first = 0; first <= plan.head_dim; first += kFactorStep) {
    const float coarse = float(exp(step * first));
    factors->coarse[first / kFactorStep] = coarse;
    for (int k = first; k <= plan.head_dim && k < first + kFactorStep; k++) {
      values[k] = coarse * factors->fine[k - first];
      uint32_t bits;
      memcpy(&bits, values + k, sizeof bits);
      for (int b = 0; b < 4; b++) factors->planes[b][k] = uint8_t(bits >> (8 * b));
    }
  }
}

size_t attention_tables_bytes(const AttentionPlan& plan) {
  const size_t bytes = attention_is_integer(plan)    ? sizeof(AttentionTable)
                       : attention_has_factors(plan) ? sizeof(AttentionFactors)
                                                     : 0;
  return bytes * size_t(plan.heads);
}

void attention_prepare(void* memory, AttentionPlan* plan) {
  plan->tables = nullptr;
  plan->factors = nullptr;
  if (attention_is_integer(*plan)) {
    AttentionTable* const tables = static_cast<AttentionTable*>(memory);
    for (int head = 0; head < plan->heads; head++) attention_table(*plan, head, tables + head);
    plan->tables = tables;
  } else if (attention_has_factors(*plan)) {
    AttentionFactors* const factors = static_cast<AttentionFactors*>(memory);
    for (int head = 0; head < plan->heads; head++) attention_factors(*plan, head, factors + head);
    plan->factors = factors;
  }
}

}  // namespace acdbit
