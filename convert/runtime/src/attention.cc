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
  size_t values, table, table_values, key_scale, key_offset, key_sum, key_bias, bytes;
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
  size_t* const vectors[] = {&layout->key_scale, &layout->key_offset, &layout->key_sum, &layout->key_bias};
  for (size_t* vector : vectors) {
    *vector = end;
    fits = fits && place(padded, sizeof(float), &end);
  }
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
  result.key_scale = reinterpret_cast<float*>(base + layout.key_scale);
  result.key_offset = reinterpret_cast<float*>(base + layout.key_offset);
  result.key_sum = reinterpret_cast<float*>(base + layout.key_sum);
  result.key_bias = reinterpret_cast<float*>(base + layout.key_bias);
  return result;
}

bool attention_is_integer(const AttentionPlan& plan) {
  return plan.key_weights == nullptr && plan.query_scale == nullptr;
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

}  // namespace acdbit
