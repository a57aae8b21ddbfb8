// LceBconv2d: a convolution of signs with signs, by xor and popcount, with an output transform per channel.
//
// For K products, of which `count` are negative, the sum is K - 2 count, and
//
//   y = clamp(sum) * multiplier + bias = clamp(count) * (-2 multiplier) + (K multiplier + bias)
//
// The second form, its last bracket rounded once, is the one whose floats equal Larq Compute Engine's to the last bit.
// For int8 outputs multiplier and bias are divided by the output's scale beforehand, in double precision, and rounded
// once, as there; packed outputs compare `count`
// with the channel's threshold. Padding with +1 is the bit 0; padding with 0 takes the padded taps out of the sum
// again, in integers: half a tap's sum is added to the count.
//
// A block of output pixels is gathered into rows of bits (nothing to gather for 1x1 and stride 1), multiplied, and
// transformed while its counts are in the first-level cache.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "node.h"
#include "window.h"

namespace acdbit {
namespace {

// Counts stay exact in float32.
constexpr int64_t kMaxProducts = 1 << 24;

enum { kNone = 0, kRelu = 1, kReluN1To1 = 2, kRelu6 = 3 };

struct State {
  bool ready;  // all of this block, which no shape changes
  Padding padding;
  bool zero_padding;
  int64_t stride_height, stride_width, dilation_height, dilation_width;
  int groups;
  int group_outputs;
  int group_words;  // of one tap
  int taps;
  int words;  // of one row: taps * group_words
  bool clamped;
  float low, high;    // of count
  uint32_t* weights;  // packed, groups after another
  size_t group_weights;
  // For packed outputs -1 and 0, so that minus the count is compared with minus the threshold.
  float* multiplier;
  float* bias;
  float* threshold;
  int32_t* tap_sums;  // [taps][outputs], what a tap on +1 adds to the sum, so what its absence adds to twice the count;
                      // null without zero padding

  Window y;
  Window x;
  bool direct;  // rows of the input are the rows to multiply
  int pixels;
  int block;  // pixels at a time
  int counts_stride;
  int64_t image_words;  // of the input
  size_t counts_bytes, rows_bytes;
};

void release(void* pointer) {
  State* state = static_cast<State*>(pointer);
  free(state->weights);
  free(state->multiplier);
  free(state->bias);
  free(state->threshold);
  free(state->tap_sums);
}

bool read_options(const Session& session, Node* node, State* state, int64_t* channels, int64_t* activation) {
  FlexMap options;
  int64_t padding, pad_values;
  if (!open_options(session, node, &options) ||
      !option_int(session, node, options, "channels_in", 1, kMaxSize, channels) ||
      !option_int(session, node, options, "stride_height", 1, kMaxSize, &state->stride_height) ||
      !option_int(session, node, options, "stride_width", 1, kMaxSize, &state->stride_width) ||
      !option_int(session, node, options, "dilation_height_factor", 1, kMaxSize, &state->dilation_height) ||
      !option_int(session, node, options, "dilation_width_factor", 1, kMaxSize, &state->dilation_width) ||
      !option_int(session, node, options, "padding", 0, 1, &padding) ||
      !option_int(session, node, options, "pad_values", 0, 1, &pad_values) ||
      !option_int(session, node, options, "fused_activation_function", kNone, kRelu6, activation))
    return false;
  state->padding = static_cast<Padding>(padding);
  state->zero_padding = state->padding == Padding::kSame && pad_values == 0;
  return true;
}

bool allocate_vector(const Session& session, const Node* node, int outputs, float** vector) {
  *vector = static_cast<float*>(allocate(outputs * sizeof(float)));
  return *vector != nullptr || refuse_memory(session, node, outputs * sizeof(float));
}

bool set_thresholds(const Session& session, Node* node, State* state, int outputs, int64_t activation) {
  if (!check_constant(session, node, 4, kTfLiteInt32, outputs)) return false;
  if (activation != kNone) return refuse(session, node, "a packed output takes no fused activation");
  if (!allocate_vector(session, node, outputs, &state->threshold)) return false;
  const int32_t* threshold = reinterpret_cast<const int32_t*>(node->inputs[4]->data);
  for (int o = 0; o < outputs; o++) {
    state->multiplier[o] = -1.0f;
    state->bias[o] = 0.0f;
    state->threshold[o] = -static_cast<float>(threshold[o]);
  }
  return true;
}

bool set_transform(const Session& session, Node* node, State* state, int outputs, int products, int64_t activation) {
  if (!check_constant(session, node, 2, kTfLiteFloat32, outputs) ||
      !check_constant(session, node, 3, kTfLiteFloat32, outputs))
    return false;
  const Value* output = node->outputs[0];
  const bool quantized = output->type == kTfLiteInt8;
  if (quantized && !check_scale(session, node, output)) return false;
  const float* multiplier = reinterpret_cast<const float*>(node->inputs[2]->data);
  const float* bias = reinterpret_cast<const float*>(node->inputs[3]->data);
  const double scale = quantized ? static_cast<double>(output->quantization.scale) : 1.0;
  const double zero_point = quantized ? static_cast<double>(output->quantization.zero_point) : 0.0;
  for (int o = 0; o < outputs; o++) {
    const double slope = static_cast<double>(multiplier[o]), start = products * slope + static_cast<double>(bias[o]);
    state->multiplier[o] = 2.0f * static_cast<float>(-slope / scale);
    state->bias[o] = static_cast<float>(start / scale + zero_point);
    if (!isfinite(state->multiplier[o]) || !isfinite(state->bias[o]))
      return refuse(session, node, "the multiplier and bias of channel %d overflow", o);
  }
  // Limits of the sum, turned into limits of count = (K - sum) / 2.
  const float limits[4][2] = {{-1e9f, 1e9f}, {0.0f, 1e9f}, {-1.0f, 1.0f}, {0.0f, 6.0f}};
  state->clamped = activation != kNone;
  state->low = 0.5f * (static_cast<float>(products) - limits[activation][1]);
  state->high = 0.5f * (static_cast<float>(products) - limits[activation][0]);
  return true;
}

bool set_tap_sums(const Session& session, Node* node, State* state, int outputs) {
  const size_t bytes = static_cast<size_t>(state->taps) * outputs * sizeof(int32_t);
  state->tap_sums = static_cast<int32_t*>(allocate(bytes));
  if (state->tap_sums == nullptr) return refuse_memory(session, node, bytes);
  int64_t channels = 0;
  FlexMap options;
  if (!open_options(session, node, &options) ||
      !option_int(session, node, options, "channels_in", 1, kMaxSize, &channels))
    return false;
  const int group_channels = static_cast<int>(channels / state->groups);
  const uint32_t* filter = reinterpret_cast<const uint32_t*>(node->inputs[1]->data);
  for (int64_t o = 0; o < outputs; o++) {
    for (int64_t tap = 0; tap < state->taps; tap++) {
      int count = 0;
      for (int w = 0; w < state->group_words; w++)
        count += __builtin_popcount(filter[(o * state->taps + tap) * state->group_words + w]);
      state->tap_sums[tap * outputs + o] = group_channels - 2 * count;
    }
  }
  return true;
}

bool set_weights(const Session& session, Node* node, State* state, int outputs) {
  const Kernels* kernels = session.kernels;
  state->group_weights = kernels->packed_weights_words(state->group_outputs, state->words);
  const size_t bytes = state->groups * state->group_weights * sizeof(uint32_t);
  if (state->group_weights > SIZE_MAX / 8 / outputs) return refuse(session, node, "input 1 is too large");
  state->weights = static_cast<uint32_t*>(allocate(bytes));
  if (state->weights == nullptr) return refuse_memory(session, node, bytes);
  const uint32_t* filter = reinterpret_cast<const uint32_t*>(node->inputs[1]->data);
  for (int g = 0; g < state->groups; g++)
    kernels->pack_weights(filter + static_cast<int64_t>(g) * state->group_outputs * state->words, state->group_outputs,
                          state->words, state->weights + g * state->group_weights);
  return true;
}

// What depends on constants and options only.
bool set_constants(const Session& session, Node* node, State* state) {
  release(state);
  *state = {};
  int64_t channels, activation;
  if (!read_options(session, node, state, &channels, &activation)) return false;
  const Value* filter = node->inputs[1];
  if (!check_input(session, node, 1, kTfLiteInt32, 4, 4) ||
      !check_constant(session, node, 1, kTfLiteInt32, filter->count))
    return false;
  const int words = words_for(static_cast<int>(channels));
  const int outputs = filter->dims[0];
  state->group_words = filter->dims[3];
  if (words % state->group_words != 0)
    return refuse(session, node, "%d words of the filter do not divide the %d words of the %lld channels",
                  state->group_words, words, static_cast<long long>(channels));
  state->groups = words / state->group_words;
  if (state->groups > 1 && channels % 32 != 0)
    return refuse(session, node, "groups need a multiple of 32 channels, there are %lld",
                  static_cast<long long>(channels));
  if (outputs % state->groups != 0)
    return refuse(session, node, "%d outputs are not divisible into %d groups", outputs, state->groups);
  state->group_outputs = outputs / state->groups;
  const int64_t taps = static_cast<int64_t>(filter->dims[1]) * filter->dims[2];
  if (taps >= kMaxProducts || taps * state->group_words * 32 >= kMaxProducts || outputs >= kMaxProducts)
    return refuse(session, node, "its filter is too large");
  state->taps = static_cast<int>(taps);
  state->words = static_cast<int>(taps * state->group_words);
  const int products = static_cast<int>(taps * (channels / state->groups));

  if (!allocate_vector(session, node, outputs, &state->multiplier) ||
      !allocate_vector(session, node, outputs, &state->bias))
    return false;
  Value* output = node->outputs[0];
  if (output->type == kTfLiteInt32) {
    if (state->zero_padding) return refuse(session, node, "a packed output needs padding with ones, not zeros");
    if (!set_thresholds(session, node, state, outputs, activation)) return false;
  } else if (output->type == kTfLiteFloat32 || output->type == kTfLiteInt8) {
    if (!set_transform(session, node, state, outputs, products, activation)) return false;
    if (state->zero_padding && !set_tap_sums(session, node, state, outputs)) return false;
  } else {
    return refuse(session, node, "output 0 holds %s, it must hold float32, int8 or int32", type_name(output->type));
  }
  if (!set_weights(session, node, state, outputs)) return false;
  state->ready = true;
  return true;
}

bool prepare(const Session& session, Node* node) {
  State* state = static_cast<State*>(node->state);
  if (!check_counts(session, node, 5, 5, 1, 1) || !check_input(session, node, 0, kTfLiteInt32, 4, 4)) return false;
  if (node->outputs[0] == nullptr) return refuse(session, node, "output 0 is missing");
  if (!state->ready && !set_constants(session, node, state)) return false;
  const Value* input = node->inputs[0];
  const Value* filter = node->inputs[1];
  Value* output = node->outputs[0];
  if (input->dims[3] != state->groups * state->group_words)
    return refuse(session, node, "input 0 has %d words per pixel, its channels take %d", input->dims[3],
                  state->groups * state->group_words);
  if (!set_window(session, node, state->padding, input->dims[1], filter->dims[1], state->stride_height,
                  state->dilation_height, &state->y) ||
      !set_window(session, node, state->padding, input->dims[2], filter->dims[2], state->stride_width,
                  state->dilation_width, &state->x))
    return false;
  const int outputs = filter->dims[0];
  const int64_t pixels = int64_t{input->dims[0]} * state->y.output;
  if (pixels >= kMaxSize || pixels * state->x.output >= kMaxSize) return refuse(session, node, "output 0 is too large");
  state->pixels = static_cast<int>(pixels * state->x.output);
  const int64_t dims[] = {input->dims[0], state->y.output, state->x.output,
                          output->type == kTfLiteInt32 ? words_for(outputs) : outputs};
  if (!set_shape(session, node, output, 4, dims)) return false;

  state->image_words = int64_t{input->dims[1]} * input->dims[2] * input->dims[3];
  state->direct = state->taps == 1 && state->stride_height == 1 && state->stride_width == 1;
  const int tiles = (state->group_outputs + kOutputTile - 1) / kOutputTile;
  // A group writes whole tiles; what overhangs is overwritten by the next group.
  state->counts_stride = (state->groups - 1) * state->group_outputs + tiles * kOutputTile;
  const int64_t row_bytes = 4 * (int64_t{state->counts_stride} + (state->direct ? 0 : state->words));
  int block = static_cast<int>(row_bytes < (1 << 16) ? (1 << 16) / row_bytes : 1);
  if (block > 56) block = 56;  // a multiple of the row tiles of every kernel
  if (block > 7) block -= block % 7;
  state->block = block < state->pixels ? block : state->pixels;
  state->counts_bytes = aligned(int64_t{state->block} * state->counts_stride * 4);
  state->rows_bytes = state->direct ? 0 : aligned(int64_t{state->block} * state->words * 4);
  node->scratch_bytes = state->counts_bytes + state->rows_bytes + aligned(int64_t{outputs} * 4);
  // Measured with AVX-512: 37 word products, 4 outputs or 4 gathered words in a nanosecond.
  const double values = double(state->pixels) * state->counts_stride, gathered = double(state->pixels) * state->words;
  node->nanoseconds = estimate(session, values * state->words / 37 + values / 4 + (state->direct ? 0 : gathered / 4));
  return true;
}

struct Call {
  const Session* session;
  const Node* node;
  const State* state;
  Shares shares;
};

// memcpy of a few words, without a call.
inline uint32_t* copy(const uint32_t* from, int words, uint32_t* to) {
  for (; words >= 4; words -= 4, from += 4, to += 4) memcpy(to, from, 16);
  if (words & 2) {
    memcpy(to, from, 8);
    from += 2, to += 2;
  }
  if (words & 1) *to++ = *from;
  return to;
}

// Gathers the bits under the window of `count` pixels from `first` on, one group, one row per pixel.
void gather(const Call& call, int first, int count, int group, uint32_t* rows) {
  const State& state = *call.state;
  const uint32_t* input =
      reinterpret_cast<const uint32_t*>(call.node->inputs[0]->data) + int64_t{group} * state.group_words;
  const int64_t pixel_words = int64_t{state.groups} * state.group_words;
  const bool contiguous = state.groups == 1 && state.x.dilation == 1;  // the taps of a line of the filter
  int column = first % state.x.output;
  int line = first / state.x.output % state.y.output;
  const uint32_t* image = input + first / state.x.output / state.y.output * state.image_words;
  for (int i = 0; i < count; i++) {
    const int64_t left = state.x.position(column, 0), right = state.x.position(column, state.x.filter - 1);
    const bool inside = left >= 0 && right < state.x.input;
    for (int ky = 0; ky < state.y.filter; ky++) {
      const int64_t y = state.y.position(line, ky);
      int64_t from = (y * state.x.input + left) * pixel_words;
      if (y < 0 || y >= state.y.input) {
        memset(rows, 0, sizeof(uint32_t) * state.x.filter * state.group_words);
        rows += state.x.filter * state.group_words;
      } else if (inside && contiguous) {
        rows = copy(image + from, state.x.filter * state.group_words, rows);
      } else {
        for (int64_t x = left; x <= right; x += state.x.dilation, from += state.x.dilation * pixel_words) {
          if (x >= 0 && x < state.x.input) {
            rows = copy(image + from, state.group_words, rows);
          } else {
            memset(rows, 0, sizeof(uint32_t) * state.group_words);
            rows += state.group_words;
          }
        }
      }
    }
    if (++column < state.x.output) continue;
    column = 0;
    if (++line < state.y.output) continue;
    line = 0;
    image += state.image_words;
  }
}

// Whether part of the window of a pixel lies in the padding.
bool on_border(const State& state, int column, int line) {
  return state.y.position(line, 0) < 0 || state.y.position(line, state.y.filter - 1) >= state.y.input ||
         state.x.position(column, 0) < 0 || state.x.position(column, state.x.filter - 1) >= state.x.input;
}

// What the taps in the padding add to twice the counts.
void add_padding(const State& state, int column, int line, int outputs, int32_t* doubled) {
  for (int ky = 0; ky < state.y.filter; ky++) {
    const int64_t y = state.y.position(line, ky);
    for (int kx = 0; kx < state.x.filter; kx++) {
      const int64_t x = state.x.position(column, kx);
      if (y >= 0 && y < state.y.input && x >= 0 && x < state.x.input) continue;
      const int32_t* tap = state.tap_sums + (int64_t{ky} * state.x.filter + kx) * outputs;
      for (int o = 0; o < outputs; o++) doubled[o] += tap[o];
    }
  }
}

// y = clamp(count) * multiplier + bias for one pixel; changes the counts.
void transform(const Kernels* kernels, const State& state, int pixel, int outputs, int32_t* counts, float* y) {
  const int column = pixel % state.x.output;
  const int line = pixel / state.x.output % state.y.output;
  const bool padded = state.tap_sums != nullptr && on_border(state, column, line);
  if (!padded && !state.clamped) {
    kernels->affine(counts, state.multiplier, state.bias, outputs, y);
    return;
  }
  if (padded) {
    for (int o = 0; o < outputs; o++) counts[o] *= 2;
    add_padding(state, column, line, outputs, counts);
  }
  kernels->clamped(counts, padded ? 0.5f : 1.0f, state.low, state.high, state.multiplier, state.bias, outputs, y);
}

// Nearest integers, halves away from zero, saturated. Adding the largest float below a half and cutting the fraction
// rounds like roundf, but in loops that compilers vectorise. Overwrites `integers`.
void round_to_int8(const float* y, int outputs, int32_t* integers, int8_t* stored) {
  for (int o = 0; o < outputs; o++) {
    float x = y[o];
    x = x < -128.0f ? -128.0f : x;
    x = 127.0f < x ? 127.0f : x;
    integers[o] = static_cast<int32_t>(x + copysignf(0.49999997f, x));
  }
  for (int o = 0; o < outputs; o++) stored[o] = static_cast<int8_t>(integers[o]);
}

// The outputs of `count` pixels from `first` on, at most a block.
void convolve(const Call& call, int first, int count, int thread) {
  const State& state = *call.state;
  const Kernels* kernels = call.session->kernels;
  const Value* output = call.node->outputs[0];
  const int outputs = state.groups * state.group_outputs;
  char* scratch = scratch_of(*call.session, thread);
  int32_t* counts = reinterpret_cast<int32_t*>(scratch);
  uint32_t* gathered = reinterpret_cast<uint32_t*>(scratch + state.counts_bytes);
  float* row = reinterpret_cast<float*>(scratch + state.counts_bytes + state.rows_bytes);
  const int64_t pixel_words = int64_t{state.groups} * state.group_words;

  for (int g = 0; g < state.groups; g++) {
    const uint32_t* rows = gathered;
    ptrdiff_t stride = state.words;
    if (state.direct) {
      rows =
          reinterpret_cast<const uint32_t*>(call.node->inputs[0]->data) + first * pixel_words + g * state.group_words;
      stride = pixel_words;
    } else {
      gather(call, first, count, g, gathered);
    }
    kernels->xor_popcount(rows, stride, count, state.words, state.weights + g * state.group_weights, 0,
                          state.group_outputs, counts + int64_t{g} * state.group_outputs, state.counts_stride);
  }

  for (int i = 0; i < count; i++) {
    int32_t* pixel_counts = counts + int64_t{i} * state.counts_stride;
    const int64_t pixel = first + i;
    float* y = output->type == kTfLiteFloat32 ? reinterpret_cast<float*>(output->data) + pixel * outputs : row;
    transform(kernels, state, static_cast<int>(pixel), outputs, pixel_counts, y);
    if (output->type == kTfLiteInt32) {
      kernels->quantize(row, state.threshold, outputs,
                        reinterpret_cast<uint32_t*>(output->data) + pixel * words_for(outputs));
    } else if (output->type == kTfLiteInt8) {
      round_to_int8(row, outputs, pixel_counts, reinterpret_cast<int8_t*>(output->data) + pixel * outputs);
    }
  }
}

void run(void* context, int task, int thread) {
  const Call& call = *static_cast<const Call*>(context);
  const int block = call.state->block, end = call.shares.first(task + 1);
  for (int first = call.shares.first(task); first < end; first += block)
    convolve(call, first, end - first < block ? end - first : block, thread);
}

void invoke(const Session& session, Node* node) {
  const State* state = static_cast<const State*>(node->state);
  Call call = {&session, node, state, Shares(state->pixels, session.crew.threads)};
  parallel(session.crew, call.shares.count, node->nanoseconds, run, &call);
}

}  // namespace

const Op kBconv2dOp = {"LceBconv2d", sizeof(State), prepare, invoke, release};

}  // namespace acdbit
