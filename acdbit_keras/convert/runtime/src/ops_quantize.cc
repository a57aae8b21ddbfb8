// LceQuantize: signs of real values, packed along the last axis. A bit is 1 where the value is negative.
#include "node.h"

namespace acdbit {
namespace {

struct Call {
  const Session* session;
  const Value* input;
  uint32_t* output;
  int channels;
  Shares shares;
};

bool prepare(const Session& session, Node* node) {
  if (!check_counts(session, node, 1, 1, 1, 1)) return false;
  const Value* input = node->inputs[0];
  if (input == nullptr) return refuse(session, node, "input 0 is missing");
  if (input->type != kTfLiteFloat32 && input->type != kTfLiteInt8 && input->type != kTfLiteBool)
    return refuse(session, node, "input 0 holds %s, it must hold float32, int8 or bool", type_name(input->type));
  if (!check_input(session, node, 0, input->type, 1, kMaxRank)) return false;
  if (input->type == kTfLiteInt8 && !check_scale(session, node, input)) return false;
  if (!check_output(session, node, 0, kTfLiteInt32)) return false;
  if (input->count >= kMaxSize) return refuse(session, node, "input 0 is too large");
  node->nanoseconds = estimate(session, static_cast<double>(input->count) / 4);
  int64_t dims[kMaxRank];
  for (int i = 0; i < input->rank; i++) dims[i] = input->dims[i];
  dims[input->rank - 1] = words_for(input->dims[input->rank - 1]);
  return set_shape(session, node, node->outputs[0], input->rank, dims);
}

// Packs `channels` answers of `negative(i)`.
template <typename Predicate>
void pack(int channels, uint32_t* words, Predicate negative) {
  for (int c = 0; c < channels; c += 32) {
    const int count = channels - c < 32 ? channels - c : 32;
    uint32_t word = 0;
    for (int i = 0; i < count; i++) word |= static_cast<uint32_t>(negative(c + i)) << i;
    *words++ = word;
  }
}

void run(void* context, int task, int) {
  const Call& call = *static_cast<const Call*>(context);
  const int first = call.shares.first(task), end = call.shares.first(task + 1);
  const int channels = call.channels;
  for (int row = first; row < end; row++) {
    const int64_t start = static_cast<int64_t>(row) * channels;
    uint32_t* words = call.output + static_cast<int64_t>(row) * words_for(channels);
    if (call.input->type == kTfLiteFloat32) {
      const float* x = reinterpret_cast<const float*>(call.input->data) + start;
      call.session->kernels->quantize(x, nullptr, channels, words);
    } else if (call.input->type == kTfLiteInt8) {
      const int8_t* x = reinterpret_cast<const int8_t*>(call.input->data) + start;
      const int zero_point = call.input->quantization.zero_point;
      pack(channels, words, [=](int i) { return x[i] < zero_point; });
    } else {
      // True is +1. Read as bytes: nothing promises that they are 0 or 1.
      const uint8_t* x = reinterpret_cast<const uint8_t*>(call.input->data) + start;
      pack(channels, words, [=](int i) { return x[i] == 0; });
    }
  }
}

void invoke(const Session& session, Node* node) {
  const Value* input = node->inputs[0];
  const int channels = input->dims[input->rank - 1];
  Call call = {&session, input, reinterpret_cast<uint32_t*>(node->outputs[0]->data), channels,
               Shares(static_cast<int>(input->count / channels), session.crew.threads)};
  parallel(session.crew, call.shares.count, node->nanoseconds, run, &call);
}

}  // namespace

const Op kQuantizeOp = {"LceQuantize", 0, prepare, invoke, nullptr};

}  // namespace acdbit
