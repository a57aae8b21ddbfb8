// AcdBinaryBlock: a whole BinaryViT block on a grid of tokens; the arithmetic is in acdbit_keras/device_ops.py.
#include "block.h"

#include <math.h>
#include <stdlib.h>

#include "half.h"
#include "kernels.h"
#include "layout.h"
#include "node.h"

namespace acdbit {
namespace {

enum { kInput, kWords, kVectors };

// Of the stages for one image, in nanoseconds.
struct Costs {
  int64_t project, keys, finish, mix;
};

struct State {
  bool ready;
  BlockOptions options;
  int channels;
  void* weights;
  void* tables;
  BlockPlan plan;
  // As many copies of the plan as images may be worked on at a time, each with its part of the workspace, which lies at
  // `placed`; null after prepare.
  BlockPlan* plans;
  int num_plans;
  size_t workspace_bytes;
  const char* placed;
  Costs costs;
};

void release(void* pointer) {
  State* state = static_cast<State*>(pointer);
  free(state->weights);
  free(state->tables);
  free(state->plans);
}

// Measured with AVX-512: word products 37, values that follow from them 3.5, and word distances of the attention 7 in a
// nanosecond.
Costs estimate_costs(const Session& session, const BlockOptions& options, int channels, int tokens) {
  const double elements = double(tokens) * channels, words = channels / kWordBits, ratio = options.mlp_ratio;
  const double product = elements * words / 37, value = elements / 3.5;
  Costs costs;
  costs.project = estimate(session, 3 * product + 4 * value);
  costs.keys = estimate(session, elements / 7);
  costs.finish =
      estimate(session, (1 + 2 * ratio) * product + (3 + ratio) * value + double(tokens) * tokens * words / 7);
  costs.mix = options.branches != Branches::kNone ? estimate(session, value) : 0;
  return costs;
}

// Copies of the plan for so many images at a time.
bool copy_plans(const Session& session, const Node* node, State* state, int count) {
  if (state->num_plans < count) {
    free(state->plans);
    state->num_plans = 0;
    state->plans = static_cast<BlockPlan*>(allocate(count * sizeof(BlockPlan)));
    if (state->plans == nullptr) return refuse_memory(session, node, count * sizeof(BlockPlan));
  }
  state->num_plans = count;
  for (int i = 0; i < count; i++) state->plans[i] = state->plan;
  state->placed = nullptr;
  return true;
}

bool read_options(const Session& session, Node* node, BlockOptions* block) {
  FlexMap options;
  int64_t heads, mlp_ratio, rule, branches;
  if (!open_options(session, node, &options) || !check_version(session, node, options) ||
      !option_int(session, node, options, "heads", 1, 1 << 20, &heads) ||
      !option_int(session, node, options, "mlp_ratio", 1, 1 << 20, &mlp_ratio) ||
      !option_int(session, node, options, "rule", 0, kRules - 1, &rule) ||
      !option_float(session, node, options, "ratio", &block->ratio) ||
      !option_bool(session, node, options, "key_bias", &block->key_bias) ||
      !option_int(session, node, options, "branches", 0, kBranches - 1, &branches) ||
      !option_bool(session, node, options, "dynamic_activation", &block->dynamic_activation) ||
      !option_bool(session, node, options, "dynamic_hidden", &block->dynamic_hidden) ||
      !option_bool(session, node, options, "dynamic_attention", &block->dynamic_attention))
    return false;
  block->heads = static_cast<int>(heads);
  block->mlp_ratio = static_cast<int>(mlp_ratio);
  block->rule = static_cast<Rule>(rule);
  block->branches = static_cast<Branches>(branches);
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
    // What statistics per token leave constant is not worth a table.
    if (!options.dynamic_attention) {
      AttentionPlan* attention = &state->plan.attention;
      free(state->tables);
      state->tables = allocate(attention_tables_bytes(*attention));
      if (state->tables == nullptr) return refuse_memory(session, node, attention_tables_bytes(*attention));
      attention_prepare(state->tables, attention);
    }
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
  const int places = input->dims[0] < session.threads ? input->dims[0] : session.threads;
  state->workspace_bytes = block_workspace_bytes(options, channels, height, width);
  if (__builtin_mul_overflow(state->workspace_bytes, size_t(places), &node->shared_bytes))
    return refuse(session, node, "its input of %d images is too large", input->dims[0]);
  if (!copy_plans(session, node, state, places)) return false;
  node->scratch_bytes = block_scratch_bytes(options, channels);
  state->costs = estimate_costs(session, options, channels, height * width);
  const Costs& costs = state->costs;
  node->nanoseconds = all_images(costs.project + costs.keys + costs.finish + costs.mix, input->dims[0]);
  return true;
}

// One invocation. Where there are as many images as threads, each thread takes whole images; what then remains is done
// by all threads together, stage by stage.
struct Call {
  const Session* session;
  BlockPlan* plans;  // a workspace each
  const float* input;
  float* output;
  uint32_t* taps;           // null without
  int64_t elements, words;  // of an image, and of its taps
  Shares shares;

  void bind(int image, BlockPlan* plan) const {
    block_bind(input + image * elements, output + image * elements, taps == nullptr ? nullptr : taps + image * words,
               plan);
  }
};

void run_image(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  BlockPlan* plan = &call.plans[thread];
  const Kernels* kernels = plan->kernels;
  char* scratch = scratch_of(*call.session, thread);
  call.bind(task, plan);
  const int tokens = plan->height * plan->width;
  kernels->block_project(plan, 0, tokens, scratch);
  for (int head = 0; head < plan->heads; head++) kernels->attention_keys(&plan->attention, head);
  kernels->block_finish(plan, 0, tokens, scratch);
  if (plan->normed != nullptr) kernels->block_mix(plan, 0, tokens);
}

// One share of the rows of one image.
struct Part {
  const BlockPlan* plan;
  int first, count;

  Part(const Call& call, int task) : plan(&call.plans[task / call.shares.count]) {
    const int share = task % call.shares.count;
    first = call.shares.first(share);
    count = call.shares.first(share + 1) - first;
  }
};

void run_project(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const Part part(call, task);
  part.plan->kernels->block_project(part.plan, part.first, part.count, scratch_of(*call.session, thread));
}

void run_keys(void* context, int task, int) {
  const Call& call = *static_cast<const Call*>(context);
  const BlockPlan& plan = call.plans[task / call.plans->heads];
  plan.kernels->attention_keys(&plan.attention, task % plan.heads);
}

void run_finish(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const Part part(call, task);
  part.plan->kernels->block_finish(part.plan, part.first, part.count, scratch_of(*call.session, thread));
}

void run_mix(void* context, int task, int) {
  const Part part(*static_cast<const Call*>(context), task);
  part.plan->kernels->block_mix(part.plan, part.first, part.count);
}

void invoke(const Session& session, Node* node) {
  State* state = static_cast<State*>(node->state);
  const Value* input = node->inputs[kInput];
  const int images = input->dims[0], tokens = input->dims[1] * input->dims[2], threads = session.crew.threads;
  if (state->placed != session.shared) {
    state->placed = session.shared;
    for (int i = 0; i < state->num_plans; i++)
      block_place(state->options, input->dims[1], input->dims[2], session.shared + i * state->workspace_bytes,
                  &state->plans[i]);
  }
  Call call = {&session,
               state->plans,
               reinterpret_cast<const float*>(input->data),
               reinterpret_cast<float*>(node->outputs[0]->data),
               nullptr,
               int64_t{tokens} * state->channels,
               0,
               Shares(tokens, threads)};
  if (node->num_outputs == 2 && node->outputs[1]->read) {
    call.taps = reinterpret_cast<uint32_t*>(node->outputs[1]->data);
    call.words = node->outputs[1]->count / images;
  }
  const int together = threads == 1 ? 0 : images % threads, apart = images - together;
  if (apart > 0) parallel(session.crew, apart, node->nanoseconds / images * apart, run_image, &call);
  if (together == 0) return;
  for (int i = 0; i < together; i++) call.bind(apart + i, &state->plans[i]);
  const Costs& costs = state->costs;
  const int parts = together * call.shares.count, heads = state->options.heads;
  parallel(session.crew, parts, costs.project * together, run_project, &call);
  parallel(session.crew, together * heads, costs.keys * together, run_keys, &call);
  parallel(session.crew, parts, costs.finish * together, run_finish, &call);
  if (state->options.branches != Branches::kNone) parallel(session.crew, parts, costs.mix * together, run_mix, &call);
}

}  // namespace

const Op kBlockOp = {kBlockName, sizeof(State), prepare, invoke, release};

}  // namespace acdbit
