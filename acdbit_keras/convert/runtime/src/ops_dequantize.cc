// LceDequantize: packed signs as real values, -1 and +1. The width of the output is the one stored in the file, for the
// words do not tell how many of their last bits count.
#include <math.h>

#include "node.h"

namespace acdbit {
namespace {

bool prepare(const Session& session, Node* node) {
  if (!check_counts(session, node, 1, 1, 1, 1) || !check_input(session, node, 0, kTfLiteInt32, 1, kMaxRank))
    return false;
  const Value* input = node->inputs[0];
  Value* output = node->outputs[0];
  if (output == nullptr) return refuse(session, node, "output 0 is missing");
  if (output->type != kTfLiteFloat32 && output->type != kTfLiteInt8 && output->type != kTfLiteBool)
    return refuse(session, node, "output 0 holds %s, it must hold float32, int8 or bool", type_name(output->type));
  if (output->type == kTfLiteInt8 && !check_scale(session, node, output)) return false;
  const int last = input->rank - 1;
  if (output->stored_rank != input->rank)
    return refuse(session, node, "output 0 has %d dimensions, the input has %d", output->stored_rank, input->rank);
  const int channels = output->stored_dims[last];
  if (channels < 1 || channels >= kMaxSize || words_for(channels) != input->dims[last])
    return refuse(session, node, "%d words do not hold the %d channels of output 0", input->dims[last], channels);
  int64_t dims[kMaxRank];
  for (int i = 0; i < last; i++) dims[i] = input->dims[i];
  dims[last] = channels;
  if (!set_shape(session, node, output, input->rank, dims)) return false;
  if (output->count >= kMaxSize) return refuse(session, node, "output 0 is too large");
  node->nanoseconds = estimate(session, static_cast<double>(output->count) / 2);
  return true;
}

struct Call {
  const uint32_t* words;
  Value* output;
  int channels;
  Shares shares;
  int8_t plus;
  int8_t minus;
};

int8_t saturate(float x) { return static_cast<int8_t>(x < -128.0f ? -128.0f : x > 127.0f ? 127.0f : x); }

void run(void* context, int task, int) {
  const Call& call = *static_cast<const Call*>(context);
  const int first = call.shares.first(task), end = call.shares.first(task + 1);
  for (int row = first; row < end; row++) {
    const uint32_t* words = call.words + static_cast<int64_t>(row) * words_for(call.channels);
    const int64_t start = static_cast<int64_t>(row) * call.channels;
    const auto bit = [=](int i) { return words[i / 32] >> (i % 32) & 1; };
    if (call.output->type == kTfLiteFloat32) {
      float* y = reinterpret_cast<float*>(call.output->data) + start;
      for (int i = 0; i < call.channels; i++) y[i] = bit(i) ? -1.0f : 1.0f;
    } else if (call.output->type == kTfLiteInt8) {
      int8_t* y = reinterpret_cast<int8_t*>(call.output->data) + start;
      for (int i = 0; i < call.channels; i++) y[i] = bit(i) ? call.minus : call.plus;
    } else {
      uint8_t* y = reinterpret_cast<uint8_t*>(call.output->data) + start;
      for (int i = 0; i < call.channels; i++) y[i] = bit(i) ? 0 : 1;
    }
  }
}

void invoke(const Session& session, Node* node) {
  Value* output = node->outputs[0];
  const int channels = output->dims[output->rank - 1];
  Call call = {reinterpret_cast<const uint32_t*>(node->inputs[0]->data),
               output,
               channels,
               Shares(static_cast<int>(output->count / channels), session.crew.threads),
               0,
               0};
  if (output->type == kTfLiteInt8) {
    const float one = roundf(1.0f / output->quantization.scale);
    call.plus = saturate(static_cast<float>(output->quantization.zero_point) + one);
    call.minus = saturate(static_cast<float>(output->quantization.zero_point) - one);
  }
  parallel(session.crew, call.shares.count, node->nanoseconds, run, &call);
}

}  // namespace

const Op kDequantizeOp = {"LceDequantize", 0, prepare, invoke, nullptr};

}  // namespace acdbit
