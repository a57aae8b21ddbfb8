// LceBMaxPool2d: the largest sign of a window, so a bit is 1 (negative) if it is 1 everywhere in the window. Padding
// takes no part.
#include "node.h"
#include "window.h"

namespace acdbit {
namespace {

struct State {
  Window y;
  Window x;
};

bool prepare(const Session& session, Node* node) {
  State* state = static_cast<State*>(node->state);
  FlexMap options;
  int64_t padding, filter_height, filter_width, stride_height, stride_width;
  if (!check_counts(session, node, 1, 1, 1, 1) || !check_input(session, node, 0, kTfLiteInt32, 4, 4) ||
      !check_output(session, node, 0, kTfLiteInt32) || !open_options(session, node, &options) ||
      !option_int(session, node, options, "padding", 0, 1, &padding) ||
      !option_int(session, node, options, "filter_height", 1, kMaxSize, &filter_height) ||
      !option_int(session, node, options, "filter_width", 1, kMaxSize, &filter_width) ||
      !option_int(session, node, options, "stride_height", 1, kMaxSize, &stride_height) ||
      !option_int(session, node, options, "stride_width", 1, kMaxSize, &stride_width))
    return false;
  const Value* input = node->inputs[0];
  const Padding kind = static_cast<Padding>(padding);
  if (!set_window(session, node, kind, input->dims[1], filter_height, stride_height, 1, &state->y) ||
      !set_window(session, node, kind, input->dims[2], filter_width, stride_width, 1, &state->x))
    return false;
  // One row of the input, of which a row of outputs takes the largest signs of its rows before those of its columns.
  size_t row_bytes;
  if (__builtin_mul_overflow(static_cast<size_t>(input->dims[2]), sizeof(uint32_t) * input->dims[3], &row_bytes))
    return refuse(session, node, "its input is too large");
  node->scratch_bytes = row_bytes;
  const int64_t dims[] = {input->dims[0], state->y.output, state->x.output, input->dims[3]};
  if (!set_shape(session, node, node->outputs[0], 4, dims)) return false;
  if (node->outputs[0]->count >= kMaxSize) return refuse(session, node, "output 0 is too large");
  // Of a window, and between two, no more is read than the input has.
  const auto within = [](int length, int size) { return static_cast<double>(length < size ? length : size); };
  const double rows = within(state->y.filter, state->y.input) * within(state->x.stride, state->x.input);
  node->nanoseconds = estimate(
      session, static_cast<double>(node->outputs[0]->count) * (rows + within(state->x.filter, state->x.input)) / 4);
  return true;
}

struct Call {
  const State* state;
  const uint32_t* input;
  uint32_t* output;
  int words;
  char* scratch;
  size_t scratch_stride;
};

// One row of outputs. Rows first, then columns, and only taps inside the input: the largest window costs a row of
// outputs no more than reading the input, and each output a row.
void run(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const Window& y = call.state->y;
  const Window& x = call.state->x;
  const int64_t image = task / y.output;
  const int64_t row_words = static_cast<int64_t>(x.input) * call.words;
  uint32_t* const rows = reinterpret_cast<uint32_t*>(call.scratch + thread * call.scratch_stride);
  const int64_t top = y.position(task % y.output, 0);
  const int64_t bottom = top + y.filter < y.input ? top + y.filter : y.input;
  for (int64_t i = 0; i < row_words; i++) rows[i] = ~0u;
  for (int64_t row = top < 0 ? 0 : top; row < bottom; row++) {
    const uint32_t* in = call.input + (image * y.input + row) * row_words;
    for (int64_t i = 0; i < row_words; i++) rows[i] &= in[i];
  }
  for (int column = 0; column < x.output; column++) {
    uint32_t* out = call.output + (static_cast<int64_t>(task) * x.output + column) * call.words;
    for (int w = 0; w < call.words; w++) out[w] = ~0u;
    const int64_t left = x.position(column, 0);
    const int64_t right = left + x.filter < x.input ? left + x.filter : x.input;
    for (int64_t place = left < 0 ? 0 : left; place < right; place++)
      for (int w = 0; w < call.words; w++) out[w] &= rows[place * call.words + w];
  }
}

void invoke(const Session& session, Node* node) {
  const State* state = static_cast<const State*>(node->state);
  const Value* output = node->outputs[0];
  Call call = {state,
               reinterpret_cast<const uint32_t*>(node->inputs[0]->data),
               reinterpret_cast<uint32_t*>(output->data),
               output->dims[3],
               session.scratch,
               session.scratch_stride};
  parallel(session.crew, output->dims[0] * output->dims[1], node->nanoseconds, run, &call);
}

}  // namespace

const Op kBMaxPool2dOp = {"LceBMaxPool2d", sizeof(State), prepare, invoke, nullptr};

}  // namespace acdbit
