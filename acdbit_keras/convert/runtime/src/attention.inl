// Binary attention for one instruction set: packed bits to popcounts of kept values (attention.h).
//
// Where a score depends on the distance alone (no key bias, frozen statistics) no float is computed per key: softmax
// weights are integers from a table, a row's threshold becomes a bound on its distances, and what is kept is one
// comparison per key. With a frozen key bias a weight is a factor from a table times one of the key, as floats, sixteen
// keys at a time. Otherwise scores and exponentials are floats.
//
// Rows are taken several at a time through one step after the other: within a step they do not wait for each other, as
// the steps of one row do (nearest key, sum, bound).
//
// attention_<path>.inl provides (distances are bytes; absent keys, up to a multiple of 32, get 255):
//   pack_keys, pack_values: bits of a head into the layout that the others read
//   distances:   popcount(query xor key) of a range of keys that starts at a multiple of kTileStep
//   table_sum:   sum of the table over the distances beyond the nearest
//   steps_above: how many entries of the table, which does not increase, exceed a weight
//   keep:        bit j = distance j < limit, returns how many; writes words for all of the range
//   count_kept:  per channel, how many kept keys have a value of +1
//   negate_where: lanes of a vector, where a bit is 1
//   load_distances: sixteen distances as floats
//   weigh:       softmax weights of a range of keys, from factors by distance and by key; returns the lanes' sums
// It may also provide, saying so with a macro ACDBIT_HAS_..., what otherwise is made of these here, row by row or
// sixteen keys at a time; it then need not have what only that is made of:
//   distances_of_rows, table_sums_of_rows, weigh_rows, count_kept_of_rows: of rows that are `stride` apart, where one
//                function for all of them gains something; sums are added to
//   keep_weights: bit j of words = weight j > bound, or with `inclusive` that it is not below; returns how many
//   signed_sums: of each key the sum of the channels' weights, negated where its bit is 1
namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

#if !defined(ACDBIT_HAS_DISTANCES_OF_ROWS)
static inline void distances_of_rows(const uint32_t* query, ptrdiff_t stride, int num_rows, const uint8_t* packed,
                                     int head_dim, int first, int keys, uint8_t* out, ptrdiff_t out_stride,
                                     Range* range) {
  for (int r = 0; r < num_rows; r++)
    range[r] = distances(query + r * stride, packed, head_dim, first, keys, out + r * out_stride);
}
#endif

#if !defined(ACDBIT_HAS_TABLE_SUMS_OF_ROWS)
static inline void table_sums_of_rows(const uint8_t* distances, ptrdiff_t stride, int num_rows, int keys,
                                      const Range* range, const AttentionTable& table, uint64_t* sums) {
  for (int r = 0; r < num_rows; r++) sums[r] += table_sum(distances + r * stride, keys, range[r], table);
}
#endif

#if !defined(ACDBIT_HAS_WEIGH_ROWS)
static inline void weigh_rows(const uint8_t* distances, ptrdiff_t stride, int num_rows, int keys, const Range* range,
                              const AttentionFactors& factors, const float* key_factor, float* weights, F16* sums) {
  for (int r = 0; r < num_rows; r++)
    sums[r] = weigh(distances + r * stride, keys, range[r], factors, key_factor, weights + r * stride, sums[r]);
}
#endif

#if !defined(ACDBIT_HAS_COUNT_KEPT_OF_ROWS)
static inline void count_kept_of_rows(const uint32_t* words, ptrdiff_t words_stride, int num_rows, int first_key,
                                      int keys, const uint8_t* values, int head_dim, int32_t* counts,
                                      ptrdiff_t stride) {
  for (int r = 0; r < num_rows; r++)
    count_kept(words + r * words_stride, first_key, keys, values, head_dim, counts + r * stride);
}
#endif

// e^x for x <= 0 within 2e-7 + 6e-8 |x| of its value, which is what rounding the scores costs anyway, and exactly 1 at
// 0. Below -87, where 2^n would leave the normal numbers, and for NaN it is e^-87; without the clamp there must be none
// of these. The polynomial is the minimax fit of 1 + r + c_2 r^2 + .. + c_5 r^5 to the relative error.
template <bool kClamp = true>
static inline F16 exponential(F16 x) {
  if constexpr (kClamp) x = larger(splat(-87.0f), x);
  // Adding 1.5 * 2^23 leaves no room for a fraction: the nearest integer, in the lowest bits.
  const F16 shift = splat(12582912.0f), one = splat(1.0f);
  const F16 shifted = multiply_add(x, splat(1.44269504f), shift);
  const F16 r = multiply_add(shifted - shift, splat(-0.693147182f), x);
  F16 p = multiply_add(r, splat(0.00831250101f), splat(0.0418903306f));
  p = multiply_add(p, r, splat(0.166671157f));
  p = multiply_add(p, r, splat(0.499992311f));
  p = multiply_add(multiply_add(p, r, one), r, one);
  return scale2(p, shifted);
}

// The largest softmax weight of a row that is not kept, given the row's sum; -1: all are kept.
static inline int64_t largest_dropped(const AttentionPlan& plan, int head, uint64_t sum) {
  if (plan.rule == Rule::kMean) return int64_t((sum - 1) / uint64_t(plan.keys));  // weight * keys < sum
  const double bound = 0.5 * double(plan.probability_scale[head]) * double(sum);
  if (!(bound < 2147483648.0)) return 2147483648;
  return bound < 0.0 ? -1 : int64_t(bound);
}

// The rows of one call of a step, and where their results go.
struct Rows {
  const AttentionPlan& plan;
  int head;
  int first;
  int count;
  int32_t* counts;  // of the first row, channel 0 of this head
  int32_t* kept;    // of the first row, this head

  const uint32_t* query(int r) const {
    return plan.query + (first + r) * plan.query_stride + ptrdiff_t(head) * (plan.head_dim / 32);
  }

  // Takes the kept bits of keys [first_key, first_key + keys), `stride` words a row, to the results.
  void finish(const uint8_t* values, int first_key, int keys, const int* num_kept, const uint32_t* words,
              ptrdiff_t stride) const {
    const ptrdiff_t channels = ptrdiff_t(plan.heads) * plan.head_dim;
    count_kept_of_rows(words, stride, count, first_key, keys, values, plan.head_dim, counts, channels);
    for (int r = 0; r < count; r++) {
      int32_t* const total = kept + ptrdiff_t(r) * plan.heads;
      *total = first_key > 0 ? *total + num_kept[r] : num_kept[r];
      if (plan.probabilities == nullptr) continue;
      const size_t row = size_t(head) * plan.queries + first + r;
      memcpy(plan.probabilities + row * words_of(plan.keys) + first_key / 32, words + r * stride, 4 * words_of(keys));
    }
  }
};

// How the keys are cut: all rows at once while they fit, else one row in tiles, which are computed anew in each step.
struct Tiling {
  bool one;  // a row is one tile
  int keys;  // of a tile
  int rows;

  Tiling(int capacity, int num_keys)
      : one(num_keys <= capacity),
        keys(one ? (num_keys + 63) / 64 * 64 : capacity),
        rows(capacity / keys < kMostRows ? capacity / keys : kMostRows) {}
};

#if !defined(ACDBIT_HAS_KEEP_WEIGHTS)
static inline int keep_weights(const float* weights, int keys, float bound, bool inclusive, uint32_t* words) {
  const F16 threshold = splat(bound);
  int count = 0;
  for (int w = 0; w < words_of(keys); w++) {
    const F16 low = load(weights + 32 * w);
    const F16 high = 32 * w + 16 < keys ? load(weights + 32 * w + 16) : low;
    uint32_t word = inclusive ? ~less32(low, threshold, high, threshold) : less32(threshold, low, threshold, high);
    if (32 * w + 32 > keys) word &= ~0u >> (32 * w + 32 - keys);
    words[w] = word;
    count += popcount32(word);
  }
  return count;
}
#endif

static void integer_rows(const Rows& rows, const AttentionHead& packed, const Tiling& tiling) {
  const AttentionPlan& plan = rows.plan;
  const AttentionTable& table = *packed.table;
  alignas(64) uint8_t near[kIntegerTile];
  alignas(64) uint32_t words[kIntegerTile / 32];
  Range range[kMostRows];
  int limit[kMostRows];
  int num_kept[kMostRows];
  const int tile = tiling.keys;

  for (int first = 0; first < plan.keys; first += tile) {
    const int keys = plan.keys - first < tile ? plan.keys - first : tile;
    Range here[kMostRows];
    distances_of_rows(rows.query(0), plan.query_stride, rows.count, packed.keys, plan.head_dim, first, keys, near, tile,
                      here);
    for (int r = 0; r < rows.count; r++) {
      range[r].lowest = first == 0 || here[r].lowest < range[r].lowest ? here[r].lowest : range[r].lowest;
      range[r].highest = first == 0 || here[r].highest > range[r].highest ? here[r].highest : range[r].highest;
    }
  }

  if (plan.rule == Rule::kZero) {
    for (int r = 0; r < rows.count; r++) limit[r] = plan.head_dim / 2 + 1;
  } else if (plan.rule == Rule::kMaxRatio) {
    for (int r = 0; r < rows.count; r++) limit[r] = range[r].lowest + table.ratio_steps;
  } else {
    uint64_t sum[kMostRows] = {};
    for (int first = 0; first < plan.keys; first += tile) {
      const int keys = plan.keys - first < tile ? plan.keys - first : tile;
      for (int r = 0; r < rows.count && !tiling.one; r++)
        distances(rows.query(r), packed.keys, plan.head_dim, first, keys, near + r * tile);
      table_sums_of_rows(near, tile, rows.count, keys, range, table, sum);
    }
    for (int r = 0; r < rows.count; r++) {
      const int64_t weight = largest_dropped(plan, rows.head, sum[r]);
      const int steps = weight < 0 ? plan.head_dim + 1 : steps_above(table.values, plan.head_dim + 1, uint32_t(weight));
      limit[r] = range[r].lowest + steps;
    }
  }

  for (int first = 0; first < plan.keys; first += tile) {
    const int keys = plan.keys - first < tile ? plan.keys - first : tile;
    for (int r = 0; r < rows.count; r++) {
      if (!tiling.one) distances(rows.query(r), packed.keys, plan.head_dim, first, keys, near + r * tile);
      // No distance exceeds head_dim, so a larger limit would only let in absent keys.
      const int bounded = limit[r] < plan.head_dim + 1 ? limit[r] : plan.head_dim + 1;
      num_kept[r] = keep(near + r * tile, keys, bounded, words + r * tile / 32);
    }
    rows.finish(packed.values, first, keys, num_kept, words, tile / 32);
  }
}

// What the scores of a row need of its query, with statistics per token: those of
//
//     key_scale (p dot) + offset key_offset + bias key_sum - base,     p dot = p d - 2 p distance
//
// A base that no score exceeds does for a softmax what the largest score does, and is known before any score. It serves
// while it is small, so that no weight leaves the normal numbers; else it is 0, and the largest score is looked for.
struct QueryTerms {
  float start;  // p d
  float slope;  // -2 p
  float offset;
  float bias;
  float base;
};

constexpr float kLargestBase = 30.0f;   // no score is below -base, either
constexpr float kLargestScale = 1e30f;  // with it the distance that stands for absent keys, too, gives a finite number

static inline int popcount_row(const uint32_t* words, int num_words) {
  int count = 0;
  for (int w = 0; w < num_words; w++) count += popcount32(words[w]);
  return count;
}

static inline QueryTerms query_terms(const Rows& rows, int r, const KeyBounds& bounds) {
  const AttentionPlan& plan = rows.plan;
  const ptrdiff_t at = ptrdiff_t(rows.first + r) * plan.heads + rows.head;
  const float score_scale = plan.score_scale[rows.head], dim = float(plan.head_dim);
  const float scale = score_scale * plan.query_scale[at];
  const float bias = score_scale * plan.query_offset[at];
  const float signs = float(plan.head_dim - 2 * popcount_row(rows.query(r), plan.head_dim / 32));
  const float offset = scale * signs + (score_scale * dim) * plan.query_offset[at];
  const float start = scale * dim;
  // A little more than the sum, for rounding.
  const float base =
      1.000001f * ((bounds.scale * fabsf(start) + bounds.offset * fabsf(offset)) + bounds.sum * fabsf(bias));
  const bool serves = base <= kLargestBase && fabsf(scale) <= kLargestScale &&
                      (plan.rule == Rule::kElastic || plan.rule == Rule::kMean);
  return {start, -(scale + scale), offset, bias, serves ? base : 0.0f};
}

// A value for the keys that exist among the last sixteen, and another for those that do not.
static inline F16 tail(int keys, float present, float absent) {
  float lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = i <= (keys - 1) % 16 ? present : absent;
  return load(lanes);
}

static void float_rows(const Rows& rows, const AttentionHead& packed, const Tiling& tiling) {
  const AttentionPlan& plan = rows.plan;
  alignas(64) uint8_t near[kFloatTile];
  alignas(64) float scores[kFloatTile];
  alignas(64) uint32_t words[kFloatTile / 32];
  QueryTerms terms[kMostRows];
  int num_kept[kMostRows];
  F16 most[kMostRows];
  F16 sums[kMostRows];
  const int tile = tiling.keys;
  const bool dynamic = plan.query_scale != nullptr;
  const F16 add_tail = tail(plan.keys, 0.0f, -INFINITY);
  const F16 times_tail = tail(plan.keys, 1.0f, 0.0f);

  // Sixteen scores from key j of the tile on.
  const auto dynamic_score = [&](const QueryTerms& row, const uint8_t* distances, int key) {
    const F16 dot = multiply_add(load_distances(distances), splat(row.slope), splat(row.start));
    const F16 rest = multiply_add(load(packed.key_sum + key), splat(row.bias), splat(-row.base));
    return multiply_add(load(packed.key_scale + key), dot,
                        multiply_add(load(packed.key_offset + key), splat(row.offset), rest));
  };
  const auto frozen_score = [&](const uint8_t* distances, int key) {
    const F16 scale = splat(plan.score_scale[rows.head] + plan.score_scale[rows.head]);
    return scale * (splat(float(plan.head_dim / 2)) - load_distances(distances)) + load(packed.key_bias + key);
  };
  // Scores of a tile from its distances, -inf for absent keys; returns the lanes' maxima.
  const auto score = [&](int r, int first, int keys, F16 maximum) {
    const QueryTerms row = terms[r];
    const uint8_t* const from = near + r * tile;
    float* const out = scores + r * tile;
    const int last = (keys - 1) / 16 * 16;
    for (int j = 0; j <= last; j += 16) {
      F16 s = dynamic ? dynamic_score(row, from + j, first + j) : frozen_score(from + j, first + j);
      if (first + j + 16 > plan.keys) s = s + add_tail;
      store(out + j, s);
      maximum = larger(maximum, s);
    }
    return maximum;
  };
  // Scores of a tile to softmax weights, 0 for absent keys; returns the lanes' sums.
  const auto weigh = [&](int r, int keys, F16 maximum, F16 sum) {
    float* const row = scores + r * tile;
    const int last = (keys - 1) / 16 * 16;
    for (int j = 0; j < last; j += 16) {
      const F16 weight = exponential(load(row + j) - maximum);
      store(row + j, weight);
      sum = sum + weight;
    }
    F16 weight = exponential(load(row + last) - maximum);
    if (keys % 16 != 0) weight = weight * times_tail;
    store(row + last, weight);
    return sum + weight;
  };
  // Both at once, where a base serves. The tail of a tile that is not the last has all keys.
  const auto weigh_distances = [&](int r, int first, int keys, F16 sum) {
    const QueryTerms row = terms[r];
    const uint8_t* const from = near + r * tile;
    float* const out = scores + r * tile;
    const int last = (keys - 1) / 16 * 16;
    for (int j = 0; j < last; j += 16) {
      const F16 weight = exponential<false>(dynamic_score(row, from + j, first + j));
      store(out + j, weight);
      sum = sum + weight;
    }
    F16 weight = exponential<false>(dynamic_score(row, from + last, first + last));
    if (keys % 16 != 0) weight = weight * times_tail;
    store(out + last, weight);
    return sum + weight;
  };

  // Absent keys have the largest distance, which only a moderate scale keeps among the finite numbers; 0 always is.
  const auto clear_absent = [&](int r, int keys) {
    for (int j = keys; j % 16 != 0; j++) near[r * tile + j] = 0;
  };

  bool based = dynamic, moderate = true;
  for (int r = 0; r < rows.count; r++) {
    most[r] = splat(-INFINITY);
    sums[r] = splat(0.0f);
    if (dynamic) terms[r] = query_terms(rows, r, *packed.bounds);
    based = based && terms[r].base > 0.0f;
    moderate = moderate && (!dynamic || fabsf(terms[r].slope) <= 2.0f * kLargestScale);
  }
  for (int first = 0; first < plan.keys; first += tile) {
    const int keys = plan.keys - first < tile ? plan.keys - first : tile;
    Range unused[kMostRows];
    distances_of_rows(rows.query(0), plan.query_stride, rows.count, packed.keys, plan.head_dim, first, keys, near, tile,
                      unused);
    for (int r = 0; r < rows.count; r++) {
      if (!moderate) clear_absent(r, keys);
      if (based) {
        sums[r] = weigh_distances(r, first, keys, sums[r]);
      } else {
        most[r] = score(r, first, keys, most[r]);
      }
    }
  }

  float bound[kMostRows];
  if (plan.rule != Rule::kZero && !based) {
    for (int r = 0; r < rows.count; r++) {
      most[r] = splat(dynamic && terms[r].base > 0.0f ? 0.0f : largest(most[r]));
    }
    for (int first = 0; first < plan.keys; first += tile) {
      const int keys = plan.keys - first < tile ? plan.keys - first : tile;
      for (int r = 0; r < rows.count; r++) {
        if (!tiling.one) {
          distances(rows.query(r), packed.keys, plan.head_dim, first, keys, near + r * tile);
          if (!moderate) clear_absent(r, keys);
          score(r, first, keys, most[r]);
        }
        sums[r] = weigh(r, keys, most[r], sums[r]);
      }
    }
  }
  for (int r = 0; r < rows.count; r++) {
    if (plan.rule == Rule::kZero) bound[r] = 0.0f;
    if (plan.rule == Rule::kMaxRatio) bound[r] = plan.ratio;  // the largest weight is 1
    if (plan.rule == Rule::kMean) bound[r] = sum(sums[r]) / float(plan.keys);
    if (plan.rule == Rule::kElastic) bound[r] = 0.5f * plan.probability_scale[rows.head] * sum(sums[r]);
  }

  for (int first = 0; first < plan.keys; first += tile) {
    const int keys = plan.keys - first < tile ? plan.keys - first : tile;
    for (int r = 0; r < rows.count; r++) {
      if (!tiling.one) {
        distances(rows.query(r), packed.keys, plan.head_dim, first, keys, near + r * tile);
        if (!moderate) clear_absent(r, keys);
        if (based) {
          weigh_distances(r, first, keys, splat(0.0f));
        } else {
          score(r, first, keys, most[r]);
          if (plan.rule != Rule::kZero) weigh(r, keys, most[r], splat(0.0f));
        }
      }
      num_kept[r] = keep_weights(scores + r * tile, keys, bound[r], plan.rule != Rule::kElastic, words + r * tile / 32);
    }
    rows.finish(packed.values, first, keys, num_kept, words, tile / 32);
  }
}

// With usable factors and any rule but ZERO.
static void factor_rows(const Rows& rows, const AttentionHead& packed, const Tiling& tiling) {
  const AttentionPlan& plan = rows.plan;
  const AttentionFactors& factors = *packed.factors;
  alignas(64) uint8_t near[kFloatTile];
  alignas(64) float weights[kFloatTile];
  alignas(64) uint32_t words[kFloatTile / 32];
  int num_kept[kMostRows];
  F16 sums[kMostRows];
  float most[kMostRows];
  float bound[kMostRows];
  const int tile = tiling.keys;

  for (int r = 0; r < rows.count; r++) {
    sums[r] = splat(0.0f);
    most[r] = 0.0f;
  }
  for (int first = 0; first < plan.keys; first += tile) {
    const int keys = plan.keys - first < tile ? plan.keys - first : tile;
    Range range[kMostRows];
    distances_of_rows(rows.query(0), plan.query_stride, rows.count, packed.keys, plan.head_dim, first, keys, near, tile,
                      range);
    weigh_rows(near, tile, rows.count, keys, range, factors, packed.key_factor + first, weights, sums);
    for (int r = 0; r < rows.count && plan.rule == Rule::kMaxRatio; r++) {
      const float* const row = weights + r * tile;
      F16 maximum = splat(most[r]);
      for (int j = 0; j < keys; j += 16) maximum = larger(maximum, load(row + j));
      most[r] = largest(maximum);
    }
  }

  for (int r = 0; r < rows.count; r++) {
    if (plan.rule == Rule::kMaxRatio) bound[r] = plan.ratio * most[r];
    if (plan.rule == Rule::kMean) bound[r] = sum(sums[r]) / float(plan.keys);
    if (plan.rule == Rule::kElastic) bound[r] = 0.5f * plan.probability_scale[rows.head] * sum(sums[r]);
  }

  for (int first = 0; first < plan.keys; first += tile) {
    const int keys = plan.keys - first < tile ? plan.keys - first : tile;
    for (int r = 0; r < rows.count; r++) {
      float* const row = weights + r * tile;
      if (!tiling.one) {
        const Range range = distances(rows.query(r), packed.keys, plan.head_dim, first, keys, near + r * tile);
        weigh(near + r * tile, keys, range, factors, packed.key_factor + first, row, splat(0.0f));
      }
      num_kept[r] = keep_weights(row, keys, bound[r], plan.rule != Rule::kElastic, words + r * tile / 32);
    }
    rows.finish(packed.values, first, keys, num_kept, words, tile / 32);
  }
}

#if !defined(ACDBIT_HAS_SIGNED_SUMS)
// Of each key the sum over the channels of the weights, negated where its bit is 1.
static void signed_sums(const float* weights, const uint32_t* keys, ptrdiff_t stride, int num_keys, int num_words,
                        float* sums) {
  for (int j = 0; j < num_keys; j++, keys += stride) {
    F16 lanes = splat(0.0f);
    for (int c = 0; c < 32 * num_words; c += 16)
      lanes = lanes + negate_where(load(weights + c), keys[c / 32] >> (c % 32));
    sums[j] = sum(lanes);
  }
}
#endif

static KeyBounds key_bounds(int keys, const AttentionHead& packed) {
  const F16 zero = splat(0.0f);
  F16 scale = zero, offset = zero, sums = zero, spoiled = zero;
  for (int j = 0; j < keys; j += 16) {
    const F16 a = absolute(load(packed.key_scale + j)), b = absolute(load(packed.key_offset + j));
    const F16 c = absolute(load(packed.key_sum + j));
    scale = larger(scale, a);
    offset = larger(offset, b);
    sums = larger(sums, c);
    spoiled = spoiled + zero * ((a + b) + c);
  }
  // 0, but NaN if any of them is not finite, which `larger` may pass over.
  const float finite = sum(spoiled);
  return {largest(scale) + finite, largest(offset) + finite, largest(sums) + finite, false};
}

// The float vectors over the keys.
static void key_terms(const AttentionPlan& plan, int head, const AttentionHead& packed) {
  const int num_words = plan.head_dim / 32;
  const uint32_t* const keys = plan.key + ptrdiff_t(head) * num_words;
  if (plan.query_scale == nullptr)
    signed_sums(plan.key_weights + ptrdiff_t(head) * plan.head_dim, keys, plan.key_stride, plan.keys, num_words,
                packed.key_bias);
  for (int j = 0; j < plan.keys && plan.query_scale != nullptr; j++) {
    const ptrdiff_t at = ptrdiff_t(j) * plan.heads + head;
    packed.key_scale[j] = plan.key_scale[at];
    packed.key_offset[j] = plan.key_offset[at];
    const int dot = plan.head_dim - 2 * popcount_row(keys + j * plan.key_stride, num_words);
    packed.key_sum[j] = plan.key_scale[at] * float(dot);
  }
  // Read, and then replaced, in the last sixteen.
  for (int j = plan.keys; j % 16 != 0; j++) {
    packed.key_scale[j] = packed.key_offset[j] = packed.key_sum[j] = packed.key_bias[j] = 0.0f;
  }
  if (plan.query_scale != nullptr) *packed.bounds = key_bounds(plan.keys, packed);
}

// What a frozen key bias multiplies the softmax weights by, unless they take an exponential of their own.
static void key_factors(const AttentionPlan& plan, int head, const AttentionHead& packed) {
  // The last sixteen are filled up with a key that exists.
  for (int j = plan.keys; j % 16 != 0; j++) packed.key_bias[j] = packed.key_bias[0];
  F16 most = splat(-INFINITY), least = most;  // the least is negated
  for (int j = 0; j < plan.keys; j += 16) {
    const F16 bias = load(packed.key_bias + j);
    most = larger(most, bias);
    least = larger(least, splat(0.0f) - bias);
  }
  const float highest = largest(most);
  packed.bounds->factors_usable = attention_factors_usable(plan, head, -largest(least), highest);
  if (!packed.bounds->factors_usable) return;
  if (packed.own_factors != nullptr) attention_factors(plan, head, packed.own_factors);
  for (int j = 0; j < plan.keys; j += 16)
    store(packed.key_factor + j, exponential(load(packed.key_bias + j) - splat(highest)));
  for (int j = plan.keys; j % 16 != 0; j++) packed.key_factor[j] = 0.0f;
}

}  // namespace attention

static void attention_keys(const AttentionPlan* plan, int head) {
  const AttentionHead packed = attention_head(*plan, head);
  const ptrdiff_t first_word = ptrdiff_t(head) * (plan->head_dim / 32);
  const uint32_t* const key = plan->key + first_word;
  const uint32_t* const value = plan->value + first_word;
  attention::pack_keys(key, plan->key_stride, plan->keys, plan->head_dim, packed.keys);
  attention::pack_values(value, plan->value_stride, plan->keys, plan->head_dim, packed.values);
  if (attention_is_integer(*plan)) {
    if (packed.own_table != nullptr) attention_table(*plan, head, packed.own_table);
  } else {
    attention::key_terms(*plan, head, packed);
    if (attention_has_factors(*plan)) attention::key_factors(*plan, head, packed);
  }
}

static void attention_rows(const AttentionPlan* plan, int first, int num_rows, int32_t* counts, int32_t* kept) {
  const bool integer = attention_is_integer(*plan);
  const attention::Tiling tiling(integer ? attention::kIntegerTile : attention::kFloatTile, plan->keys);
  const ptrdiff_t channels = ptrdiff_t(plan->heads) * plan->head_dim;
  for (int head = 0; head < plan->heads; head++) {
    const AttentionHead packed = attention_head(*plan, head);
    for (int r = 0; r < num_rows; r += tiling.rows) {
      const int count = num_rows - r < tiling.rows ? num_rows - r : tiling.rows;
      const attention::Rows rows = {*plan,
                                    head,
                                    first + r,
                                    count,
                                    counts + r * channels + ptrdiff_t(head) * plan->head_dim,
                                    kept + ptrdiff_t(r) * plan->heads + head};
      if (integer) {
        attention::integer_rows(rows, packed, tiling);
      } else if (attention_has_factors(*plan) && packed.bounds->factors_usable) {
        attention::factor_rows(rows, packed, tiling);
      } else {
        attention::float_rows(rows, packed, tiling);
      }
    }
  }
}

}  // namespace ACDBIT_ISA
}  // namespace acdbit
