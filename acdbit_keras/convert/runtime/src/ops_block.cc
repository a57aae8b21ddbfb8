// AcdBinaryBlock: a whole BinaryViT block on a grid of tokens; the arithmetic is in acdbit_keras/device_ops.py.
#include "block.h"

#include <math.h>
#include <stdlib.h>

#include "half.h"
#include "layout.h"
#include "node.h"

namespace acdbit {
namespace {

enum { kInput, kWords, kVectors };

struct State {
  bool ready;
  BlockOptions options;
  int channels;
  void* weights;
  BlockPlan plan;
};

void release(void* pointer) { free(static_cast<State*>(pointer)->weights); }

bool read_options(const Session& session, Node* node, BlockOptions* block) {
  FlexMap options;
  int64_t heads, mlp_ratio, rule;
  if (!open_options(session, node, &options) || !check_version(session, node, options) ||
      !option_int(session, node, options, "heads", 1, 1 << 20, &heads) ||
      !option_int(session, node, options, "mlp_ratio", 1, 1 << 20, &mlp_ratio) ||
      !option_int(session, node, options, "rule", 0, kRules - 1, &rule) ||
      !option_float(session, node, options, "ratio", &block->ratio) ||
      !option_bool(session, node, options, "key_bias", &block->key_bias) ||
      !option_bool(session, node, options, "branches", &block->branches) ||
      !option_bool(session, node, options, "dynamic_activation", &block->dynamic_activation) ||
      !option_bool(session, node, options, "dynamic_hidden", &block->dynamic_hidden) ||
      !option_bool(session, node, options, "dynamic_attention", &block->dynamic_attention))
    return false;
  block->heads = static_cast<int>(heads);
  block->mlp_ratio = static_cast<int>(mlp_ratio);
  block->rule = static_cast<Rule>(rule);
  return true;
}

bool check_scales(const Session& session, const Node* node, const char* name, const float* scale, int count) {
  for (int i = 0; i < count; i++)
    if (!(scale[i] > 0.0f))
      return refuse(session, node, "%s %d is %g, a scale must be positive", name, i, static_cast<double>(scale[i]));
  return true;
}

// The vectors in single precision: where they lie, or widened to `memory`. Null after `refuse`.
const float* read_vectors(const Session& session, const Node* node, size_t count, void* memory) {
  const Value* value = node->inputs[kVectors];
  if (value->type != kTfLiteFloat16) return reinterpret_cast<const float*>(value->data);
  float* const vectors = static_cast<float*>(memory);
  for (size_t i = 0; i < count; i++) {
    vectors[i] = widened(reinterpret_cast<const uint16_t*>(value->data)[i]);
    if (!isfinite(vectors[i])) {
      refuse(session, node, "element %zu of input %d is not finite", i, int{kVectors});
      return nullptr;
    }
  }
  return vectors;
}

bool prepare(const Session& session, Node* node) {
  State* state = static_cast<State*>(node->state);
  if (!check_counts(session, node, 3, 3, 1, 2) || !check_input(session, node, kInput, kTfLiteFloat32, 4, 4) ||
      !check_output(session, node, 0, kTfLiteFloat32) ||
      (!state->ready && !read_options(session, node, &state->options)))
    return false;
  const BlockOptions& options = state->options;
  const Value* input = node->inputs[kInput];
  const int height = input->dims[1], width = input->dims[2], channels = input->dims[3];
  if (channels % options.heads != 0 || channels / options.heads % kWordBits != 0)
    return refuse(session, node, "%d channels do not divide into %d heads whose width is a multiple of %d", channels,
                  options.heads, kWordBits);
  if (!check_head_dim(session, node, channels / options.heads)) return false;
  size_t vectors, words, taps;
  if (!block_sizes(options, channels, height, width, &vectors, &words, &taps))
    return refuse(session, node, "its input of %d x %d tokens and %d channels is too large", height, width, channels);
  if (state->ready && channels != state->channels)
    return refuse(session, node, "its channels changed from %d to %d", state->channels, channels);
  if (!state->ready) {
    const bool half = node->inputs[kVectors] && node->inputs[kVectors]->type == kTfLiteFloat16;
    if (!check_constant(session, node, kWords, kTfLiteInt32, words) ||
        !check_constant(session, node, kVectors, half ? kTfLiteFloat16 : kTfLiteFloat32, vectors))
      return false;
    Layout layout;
    layout.add(block_weights_bytes(options, channels, session.kernels), 1);
    const size_t widened_vectors = layout.add(half ? vectors : 0, sizeof(float));
    free(state->weights);
    state->weights = allocate(layout.bytes);
    if (state->weights == nullptr) return refuse_memory(session, node, layout.bytes);
    const float* in_floats = read_vectors(session, node, vectors, static_cast<char*>(state->weights) + widened_vectors);
    if (in_floats == nullptr) return false;
    block_prepare(options, channels, in_floats, reinterpret_cast<const uint32_t*>(node->inputs[kWords]->data),
                  session.kernels, state->weights, &state->plan);
    if (!check_scales(session, node, "score_scale", state->plan.attention.score_scale, options.heads) ||
        !check_scales(session, node, "probability_scale", state->plan.attention.probability_scale, options.heads))
      return false;
    state->channels = channels;
    state->ready = true;
  }
  const int64_t dims[] = {input->dims[0], height, width, channels};
  if (!set_shape(session, node, node->outputs[0], 4, dims)) return false;
  if (node->num_outputs == 2) {
    // The bits of all images one after the other.
    const int64_t all[] = {static_cast<int64_t>(taps) * input->dims[0]};
    if (!check_output(session, node, 1, kTfLiteInt32) || !set_shape(session, node, node->outputs[1], 1, all))
      return false;
  }
  node->shared_bytes = block_workspace_bytes(options, channels, height, width);
  node->scratch_bytes = block_scratch_bytes(options, channels);
  return true;
}

struct Call {
  const Session* session;
  const BlockPlan* plan;
  int tokens;
  int rows;  // per task
};

void run_project(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const int first = task * call.rows;
  const int count = call.tokens - first < call.rows ? call.tokens - first : call.rows;
  call.plan->kernels->block_project(call.plan, first, count, scratch_of(*call.session, thread));
}

void run_keys(void* context, int task, int) {
  const Call& call = *static_cast<const Call*>(context);
  call.plan->kernels->attention_keys(&call.plan->attention, task);
}

void run_finish(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const int first = task * call.rows;
  const int count = call.tokens - first < call.rows ? call.tokens - first : call.rows;
  call.plan->kernels->block_finish(call.plan, first, count, scratch_of(*call.session, thread));
}

void run_pool(void* context, int task, int) {
  const Call& call = *static_cast<const Call*>(context);
  const int first = task * call.rows;
  const int count = call.tokens - first < call.rows ? call.tokens - first : call.rows;
  call.plan->kernels->block_pool(call.plan, first, count);
}

void invoke(const Session& session, Node* node) {
  State* state = static_cast<State*>(node->state);
  BlockPlan* plan = &state->plan;
  const Value* input = node->inputs[kInput];
  // The workspace is every node's; what this one keeps there between stages is set again each time.
  block_place(state->options, input->dims[1], input->dims[2], session.shared, plan);
  const int tokens = plan->height * plan->width;
  // About four shares per thread, in whole groups of rows.
  const int groups = (tokens + kBlockRows - 1) / kBlockRows;
  const int share = session.threads == 1 ? groups : (groups + 4 * session.threads - 1) / (4 * session.threads);
  Call call = {&session, plan, tokens, share * kBlockRows};
  const int tasks = (groups + share - 1) / share;
  const int64_t elements = int64_t{tokens} * plan->channels;
  for (int image = 0; image < input->dims[0]; image++) {
    const float* x = reinterpret_cast<const float*>(input->data) + image * elements;
    float* y = reinterpret_cast<float*>(node->outputs[0]->data) + image * elements;
    uint32_t* taps = nullptr;
    if (node->num_outputs == 2 && node->outputs[1]->read)
      taps = reinterpret_cast<uint32_t*>(node->outputs[1]->data) + image * (node->outputs[1]->count / input->dims[0]);
    block_bind(x, y, taps, plan);
    parallel(session.pool, session.threads, tasks, run_project, &call);
    parallel(session.pool, session.threads, plan->heads, run_keys, &call);
    parallel(session.pool, session.threads, tasks, run_finish, &call);
    if (state->options.branches) parallel(session.pool, session.threads, tasks, run_pool, &call);
  }
}

}  // namespace

const Op kBlockOp = {kBlockName, sizeof(State), prepare, invoke, release};

}  // namespace acdbit
