// AcdBinaryAttention: packed queries, keys and values to the context; the arithmetic is in acdbit_keras/device_ops.py.
#include "attention.h"

#include <math.h>
#include <stdlib.h>

#include "node.h"

namespace acdbit {
namespace {

constexpr int kRows = 16;  // queries at a time

struct Options {
  int64_t heads, rule;
  float ratio;
  bool key_bias, dynamic;
};

// Numbers of the op's inputs, -1 where an option leaves one out.
struct Inputs {
#define ACDBIT_NUMBER(name, ...) int name;
  ACDBIT_ATTENTION_BITS(ACDBIT_NUMBER)
  ACDBIT_ATTENTION_CONSTANTS(ACDBIT_NUMBER)
  ACDBIT_ATTENTION_STATISTICS(ACDBIT_NUMBER)
#undef ACDBIT_NUMBER
  int count;

  explicit Inputs(const Options& options) {
    count = 0;
#define ACDBIT_BITS(name, rows) name = count++;
#define ACDBIT_FLOATS(name, length, given) name = (given) ? count++ : -1;
    ACDBIT_ATTENTION_BITS(ACDBIT_BITS)
    ACDBIT_ATTENTION_CONSTANTS(ACDBIT_FLOATS)
    ACDBIT_ATTENTION_STATISTICS(ACDBIT_FLOATS)
#undef ACDBIT_BITS
#undef ACDBIT_FLOATS
  }
};

struct State {
  bool ready;
  float* count_multiplier;  // [channels]: 2 a value_scale, and below a (value_offset - value_scale)
  float* kept_multiplier;
  AttentionPlan plan;  // of one image; the pointers to its tensors are set by invoke
  int images;
  const Value* bits[3];  // query, key, value
  struct {
#define ACDBIT_STATISTIC(name, ...) const Value* name;
    ACDBIT_ATTENTION_STATISTICS(ACDBIT_STATISTIC)
#undef ACDBIT_STATISTIC
  } statistics;  // null where they are frozen
  void* tables;  // of the plan
  size_t counts_bytes;
  size_t workspace_bytes;
  int64_t keys_nanoseconds, rows_nanoseconds;  // of an image
};

void release(void* pointer) {
  State* state = static_cast<State*>(pointer);
  free(state->count_multiplier);
  free(state->kept_multiplier);
  free(state->tables);
}

// Rows of bits of one image. The contract counts all leading dimensions as rows; a graph resized to more images has a
// multiple of the stored first dimension.
bool read_rows(const Session& session, const Node* node, int number, int* images, int* rows) {
  const Value* value = node->inputs[number];
  int64_t count = value->count / value->dims[value->rank - 1];
  const int first = value->dims[0];
  const int stored = value->stored_dims[0];
  const bool resized = value->rank >= 3 && value->stored_rank == value->rank && stored >= 1 && first != stored;
  if (resized && first % stored != 0)
    return refuse(session, node, "the first dimension of input %d grew from %d to %d, not a multiple", number, stored,
                  first);
  *images = resized ? first / stored : 1;
  if (count >= kMaxSize || value->count >= kMaxSize / 32) return refuse(session, node, "input %d is too large", number);
  *rows = static_cast<int>(count / *images);
  return true;
}

bool set_epilogue(const Session& session, Node* node, State* state, const float* value_scale,
                  const float* value_offset) {
  const int head_dim = state->plan.head_dim;
  const int channels = state->plan.heads * head_dim;
  const size_t bytes = channels * sizeof(float);
  state->count_multiplier = static_cast<float*>(allocate(bytes));
  state->kept_multiplier = static_cast<float*>(allocate(bytes));
  if (state->count_multiplier == nullptr || state->kept_multiplier == nullptr)
    return refuse_memory(session, node, bytes);
  for (int c = 0; c < channels; c++) {
    const float a = state->plan.probability_scale[c / head_dim];
    state->count_multiplier[c] = 2.0f * a * value_scale[c];
    state->kept_multiplier[c] = a * (value_offset[c] - value_scale[c]);
    if (!isfinite(state->count_multiplier[c]) || !isfinite(state->kept_multiplier[c]))
      return refuse(session, node, "the scales of channel %d overflow", c);
  }
  return true;
}

bool read_options(const Session& session, const Node* node, Options* options) {
  FlexMap map;
  return open_options(session, node, &map) && check_version(session, node, map) &&
         option_int(session, node, map, "heads", 1, kMaxSize, &options->heads) &&
         option_int(session, node, map, "rule", 0, kRules - 1, &options->rule) &&
         option_float(session, node, map, "ratio", &options->ratio) &&
         option_bool(session, node, map, "key_bias", &options->key_bias) &&
         option_bool(session, node, map, "dynamic", &options->dynamic);
}

// Statistics of `count` tokens and heads, null if input `number` is left out.
bool read_statistic(const Session& session, const Node* node, int number, int64_t count, const Value** statistic) {
  *statistic = nullptr;
  if (number < 0) return true;
  if (!check_input(session, node, number, kTfLiteFloat32, 1, kMaxRank)) return false;
  *statistic = node->inputs[number];
  return (*statistic)->count == count ||
         refuse(session, node, "input %d has %lld elements, it must have one per token and head, %lld", number,
                static_cast<long long>((*statistic)->count), static_cast<long long>(count));
}

bool prepare(const Session& session, Node* node) {
  State* state = static_cast<State*>(node->state);
  AttentionPlan* plan = &state->plan;
  Options options;
  if (!read_options(session, node, &options)) return false;
  const Inputs inputs(options);
  const int64_t heads = options.heads;
  if (!check_counts(session, node, inputs.count, inputs.count, 1, 2) || !check_output(session, node, 0, kTfLiteFloat32))
    return false;
  enum { kQuery, kKey, kValue };
  const int bits[] = {inputs.query, inputs.key, inputs.value};
  for (int number : bits)
    if (!check_input(session, node, number, kTfLiteInt32, 2, kMaxRank)) return false;

  const Value* query = node->inputs[inputs.query];
  const int words = query->dims[query->rank - 1];
  int images[3], rows[3];
  for (int i = kQuery; i <= kValue; i++) {
    const Value* value = state->bits[i] = node->inputs[bits[i]];
    if (value->dims[value->rank - 1] != words)
      return refuse(session, node, "input %d has %d words per row, the query has %d", bits[i],
                    value->dims[value->rank - 1], words);
    if (!read_rows(session, node, bits[i], &images[i], &rows[i])) return false;
    if (images[i] != images[kQuery])
      return refuse(session, node, "input %d holds %d images, the query %d", bits[i], images[i], images[kQuery]);
  }
  if (rows[kValue] != rows[kKey])
    return refuse(session, node, "there are %d keys and %d values", rows[kKey], rows[kValue]);
  if (words % heads != 0)
    return refuse(session, node, "%d words do not divide into %lld heads whose width is a multiple of %d", words,
                  static_cast<long long>(heads), kWordBits);
  if (!check_head_dim(session, node, kWordBits * (words / heads))) return false;
  if (words >= kMaxSize / 128 || int64_t{rows[kKey]} * words >= kMaxSize / 128)
    return refuse(session, node, "its inputs are too large");
  const int channels = kWordBits * words;
  const int64_t queries = int64_t{images[kQuery]} * rows[kQuery], keys = int64_t{images[kKey]} * rows[kKey];

#define ACDBIT_CHECK(name, length, given) \
  if ((given) && !check_constant(session, node, inputs.name, kTfLiteFloat32, length)) return false;
  ACDBIT_ATTENTION_CONSTANTS(ACDBIT_CHECK)
#undef ACDBIT_CHECK
  if (!check_positive(session, node, inputs.score_scale) || !check_positive(session, node, inputs.probability_scale))
    return false;
#define ACDBIT_READ(name, count, given) \
  if (!read_statistic(session, node, inputs.name, count, &state->statistics.name)) return false;
  ACDBIT_ATTENTION_STATISTICS(ACDBIT_READ)
#undef ACDBIT_READ

  const auto constant = [node](int number) { return reinterpret_cast<const float*>(node->inputs[number]->data); };
  plan->heads = static_cast<int>(heads);
  plan->head_dim = static_cast<int>(channels / heads);
  plan->queries = rows[kQuery];
  plan->keys = rows[kKey];
  plan->rule = static_cast<Rule>(options.rule);
  plan->ratio = options.ratio;
  plan->query_stride = plan->key_stride = plan->value_stride = words;
  plan->score_scale = constant(inputs.score_scale);
  plan->probability_scale = constant(inputs.probability_scale);
  plan->key_weights = options.key_bias ? constant(inputs.key_weights) : nullptr;
  plan->probabilities = nullptr;
  state->images = images[kQuery];
  if (!state->ready) {
    release(state);
    state->count_multiplier = state->kept_multiplier = nullptr;
    state->tables = nullptr;
    if (!set_epilogue(session, node, state, constant(inputs.value_scale), constant(inputs.value_offset))) return false;
    // What statistics per token leave constant is not worth a table.
    if (!options.dynamic) {
      state->tables = allocate(attention_tables_bytes(*plan));
      if (state->tables == nullptr) return refuse_memory(session, node, attention_tables_bytes(*plan));
      attention_prepare(state->tables, plan);
    }
    state->ready = true;
  }

  int64_t dims[kMaxRank];
  for (int i = 0; i < query->rank; i++) dims[i] = query->dims[i];
  dims[query->rank - 1] = channels;
  if (!set_shape(session, node, node->outputs[0], query->rank, dims)) return false;
  if (node->num_outputs == 2) {
    const int64_t kept[] = {heads * state->images, plan->queries, words_for(plan->keys)};
    if (!check_output(session, node, 1, kTfLiteInt32) || !set_shape(session, node, node->outputs[1], 3, kept))
      return false;
  }
  const int places = state->images < session.threads ? state->images : session.threads;
  state->workspace_bytes = attention_workspace_bytes(plan->heads, plan->head_dim, plan->keys);
  if (state->workspace_bytes == 0 ||
      __builtin_mul_overflow(state->workspace_bytes, size_t(places), &node->shared_bytes))
    return refuse(session, node, "its inputs are too large");
  state->counts_bytes = aligned(size_t{kRows} * channels * sizeof(int32_t));
  node->scratch_bytes = state->counts_bytes + aligned(size_t{kRows} * heads * sizeof(int32_t));
  // Measured with AVX-512: seven words of keys, or of distances, in a nanosecond.
  state->keys_nanoseconds = estimate(session, double(plan->keys) * channels / 7);
  state->rows_nanoseconds = estimate(session, double(plan->queries) * plan->keys * words / 7);
  node->nanoseconds = all_images(state->keys_nanoseconds + state->rows_nanoseconds, state->images);
  return true;
}

// One invocation. Where there are as many images as threads, each thread takes whole images; what then remains is done
// by all threads together, keys first.
struct Call {
  const Session* session;
  const Node* node;
  const State* state;
  int apart;  // images that each belong to a thread
  Shares shares;

  // The plan of an image whose workspace is the one of that number.
  AttentionPlan plan(int image, int workspace) const {
    AttentionPlan plan = state->plan;
    const int64_t queries = int64_t{image} * plan.queries, keys = int64_t{image} * plan.keys;
    const int64_t words = plan.query_stride;
    const auto bits = [this](int number, int64_t offset) {
      return reinterpret_cast<const uint32_t*>(state->bits[number]->data) + offset;
    };
    const auto statistic = [](const Value* value, int64_t offset) -> const float* {
      return value == nullptr ? nullptr : reinterpret_cast<const float*>(value->data) + offset;
    };
    plan.query = bits(0, queries * words);
    plan.key = bits(1, keys * words);
    plan.value = bits(2, keys * words);
    plan.query_scale = statistic(state->statistics.query_scale, queries * plan.heads);
    plan.query_offset = statistic(state->statistics.query_offset, queries * plan.heads);
    plan.key_scale = statistic(state->statistics.key_scale, keys * plan.heads);
    plan.key_offset = statistic(state->statistics.key_offset, keys * plan.heads);
    if (node->num_outputs == 2 && node->outputs[1]->read)
      plan.probabilities =
          reinterpret_cast<uint32_t*>(node->outputs[1]->data) + image * (node->outputs[1]->count / state->images);
    plan.workspace = session->shared + workspace * state->workspace_bytes;
    return plan;
  }
};

// The context of queries [first, end) of an image.
void attend(const Call& call, const AttentionPlan& plan, int image, int first, int end, int thread) {
  const Kernels* kernels = call.session->kernels;
  char* scratch = scratch_of(*call.session, thread);
  int32_t* counts = reinterpret_cast<int32_t*>(scratch);
  int32_t* kept = reinterpret_cast<int32_t*>(scratch + call.state->counts_bytes);
  const int channels = plan.heads * plan.head_dim;
  float* out =
      reinterpret_cast<float*>(call.node->outputs[0]->data) + (int64_t{image} * plan.queries + first) * channels;
  for (; first < end; first += kRows) {
    const int count = end - first < kRows ? end - first : kRows;
    kernels->attention_rows(&plan, first, count, counts, kept);
    for (int i = 0; i < count; i++, out += channels)
      kernels->context(counts + i * channels, kept + i * plan.heads, call.state->count_multiplier,
                       call.state->kept_multiplier, plan.heads, plan.head_dim, out);
  }
}

void run_image(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const AttentionPlan plan = call.plan(task, thread);
  for (int head = 0; head < plan.heads; head++) call.session->kernels->attention_keys(&plan, head);
  attend(call, plan, task, 0, plan.queries, thread);
}

void run_keys(void* context, int task, int) {
  const Call& call = *static_cast<const Call*>(context);
  const int number = task / call.state->plan.heads;
  const AttentionPlan plan = call.plan(call.apart + number, number);
  call.session->kernels->attention_keys(&plan, task % plan.heads);
}

void run_rows(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const int number = task / call.shares.count, share = task % call.shares.count;
  const AttentionPlan plan = call.plan(call.apart + number, number);
  attend(call, plan, call.apart + number, call.shares.first(share), call.shares.first(share + 1), thread);
}

void invoke(const Session& session, Node* node) {
  const State* state = static_cast<const State*>(node->state);
  const int threads = session.crew.threads, together = threads == 1 ? 0 : state->images % threads;
  Call call = {&session, node, state, state->images - together, Shares(state->plan.queries, threads)};
  if (call.apart > 0)
    parallel(session.crew, call.apart, node->nanoseconds / state->images * call.apart, run_image, &call);
  if (together == 0) return;
  parallel(session.crew, together * state->plan.heads, together * state->keys_nanoseconds, run_keys, &call);
  parallel(session.crew, together * call.shares.count, together * state->rows_nanoseconds, run_rows, &call);
}

}  // namespace

const Op kAttentionOp = {kAttentionName, sizeof(State), prepare, invoke, release};

}  // namespace acdbit
