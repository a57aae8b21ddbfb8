#include "node.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__GLIBC__)
static_assert(sizeof(size_t) == 8, "the sizes of tensors are checked in 64 bits");
#endif

namespace acdbit {
namespace {

constexpr size_t kSentence = 400;
thread_local char t_last_report[kSentence];

}  // namespace

void report(TfLiteContext* context, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(t_last_report, kSentence, format, arguments);
  va_end(arguments);
  if (context != nullptr && context->ReportError != nullptr) context->ReportError(context, "%s", t_last_report);
}

bool refuse(const Session& session, const Node* node, const char* format, ...) {
  char reason[kSentence];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, kSentence, format, arguments);
  va_end(arguments);
  report(session.context, "node %d (%s): %s", node->index, node->op->name, reason);
  return false;
}

const char* last_report() { return t_last_report; }

void clear_report() { t_last_report[0] = '\0'; }

bool check_counts(const Session& session, const Node* node, int min_inputs, int max_inputs, int min_outputs,
                  int max_outputs) {
  if (node->num_inputs < min_inputs || node->num_inputs > max_inputs)
    return refuse(session, node, "it has %d inputs, it takes %d to %d", node->num_inputs, min_inputs, max_inputs);
  if (node->num_outputs < min_outputs || node->num_outputs > max_outputs)
    return refuse(session, node, "it has %d outputs, it gives %d to %d", node->num_outputs, min_outputs, max_outputs);
  return true;
}

bool check_input(const Session& session, const Node* node, int number, TfLiteType type, int min_rank, int max_rank) {
  const Value* value = number < node->num_inputs ? node->inputs[number] : nullptr;
  if (value == nullptr) return refuse(session, node, "input %d is missing", number);
  if (value->type != type)
    return refuse(session, node, "input %d holds %s, it must hold %s", number, type_name(value->type), type_name(type));
  if (value->rank < min_rank || value->rank > max_rank)
    return refuse(session, node, "input %d has %d dimensions, it must have %d to %d", number, value->rank, min_rank,
                  max_rank);
  for (int i = 0; i < value->rank; i++)
    if (value->dims[i] == 0) return refuse(session, node, "input %d is empty: dimension %d is 0", number, i);
  return true;
}

bool check_constant(const Session& session, const Node* node, int number, TfLiteType type, int64_t count) {
  if (!check_input(session, node, number, type, 0, kMaxRank)) return false;
  const Value* value = node->inputs[number];
  if (!value->constant) return refuse(session, node, "input %d must be a constant", number);
  if (value->count != count)
    return refuse(session, node, "input %d has %lld elements, it must have %lld", number,
                  static_cast<long long>(value->count), static_cast<long long>(count));
  if (type == kTfLiteFloat32) {
    const float* x = reinterpret_cast<const float*>(value->data);
    for (int64_t i = 0; i < count; i++)
      if (!isfinite(x[i]))
        return refuse(session, node, "element %lld of input %d is not finite", static_cast<long long>(i), number);
  }
  return true;
}

bool check_positive(const Session& session, const Node* node, int number) {
  const Value* value = node->inputs[number];
  const float* x = reinterpret_cast<const float*>(value->data);
  for (int64_t i = 0; i < value->count; i++)
    if (!(x[i] > 0.0f))
      return refuse(session, node, "element %lld of input %d is %g, a scale must be positive",
                    static_cast<long long>(i), number, static_cast<double>(x[i]));
  return true;
}

bool check_output(const Session& session, const Node* node, int number, TfLiteType type) {
  const Value* value = node->outputs[number];
  if (value == nullptr) return refuse(session, node, "output %d is missing", number);
  if (value->type != type)
    return refuse(session, node, "output %d holds %s, it must hold %s", number, type_name(value->type),
                  type_name(type));
  return true;
}

bool check_scale(const Session& session, const Node* node, const Value* value) {
  const float scale = value->quantization.scale;
  if (!(scale > 0.0f) || !isfinite(scale))
    return refuse(session, node, "tensor %d has the quantization scale %g, it must be positive and finite",
                  value->tensor, static_cast<double>(scale));
  if (value->quantization.zero_point < -128 || value->quantization.zero_point > 127)
    return refuse(session, node, "tensor %d has the zero point %d, outside int8", value->tensor,
                  value->quantization.zero_point);
  return true;
}

bool set_shape(const Session& session, const Node* node, Value* value, int rank, const int64_t* dims) {
  const size_t width = value->type == kTfLiteFloat32 || value->type == kTfLiteInt32 ? 4
                       : value->type == kTfLiteFloat16                              ? 2
                                                                                    : 1;
  int64_t count = 1;
  for (int i = 0; i < rank; i++) {
    if (dims[i] < 1 || dims[i] >= kMaxSize || count > INT64_MAX / 8 / dims[i])
      return refuse(session, node, "its output would be too large");
    count *= dims[i];
    value->dims[i] = static_cast<int>(dims[i]);
  }
  value->rank = rank;
  value->count = count;
  value->bytes = count * width;
  return true;
}

bool open_options(const Session& session, const Node* node, FlexMap* options) {
  return flex_open(node->options, node->options_bytes, options) ||
         refuse(session, node, "its options are not a flexbuffer map");
}

static bool check_found(const Session& session, const Node* node, FlexFound found, const char* key, const char* type) {
  if (found == FlexFound::kMissing) return refuse(session, node, "the option %s is missing", key);
  if (found == FlexFound::kWrongType) return refuse(session, node, "the option %s is not %s", key, type);
  return true;
}

bool option_int(const Session& session, const Node* node, const FlexMap& options, const char* key, int64_t min,
                int64_t max, int64_t* value) {
  if (!check_found(session, node, flex_int(options, key, value), key, "an integer")) return false;
  if (*value < min || *value > max)
    return refuse(session, node, "the option %s is %lld, it must be in %lld..%lld", key, static_cast<long long>(*value),
                  static_cast<long long>(min), static_cast<long long>(max));
  return true;
}

bool option_float(const Session& session, const Node* node, const FlexMap& options, const char* key, float* value) {
  double wide;
  if (!check_found(session, node, flex_float(options, key, &wide), key, "a number")) return false;
  if (!(fabs(wide) < 1e38)) return refuse(session, node, "the option %s is not a finite number", key);
  *value = static_cast<float>(wide);
  return true;
}

bool option_bool(const Session& session, const Node* node, const FlexMap& options, const char* key, bool* value) {
  return check_found(session, node, flex_bool(options, key, value), key, "a bool");
}

bool check_version(const Session& session, const Node* node, const FlexMap& options) {
  int64_t version;
  if (!option_int(session, node, options, "version", 1, INT64_MAX, &version)) return false;
  if (version > kContractVersion)
    return refuse(session, node, "its version %lld is newer than the version %lld this library knows",
                  static_cast<long long>(version), static_cast<long long>(kContractVersion));
  return true;
}

bool check_head_dim(const Session& session, const Node* node, int64_t head_dim) {
  return head_dim <= kMaxHeadDim || refuse(session, node, "its heads have %lld channels, at most %d are supported",
                                           static_cast<long long>(head_dim), kMaxHeadDim);
}

void* allocate(size_t bytes) {
  void* memory = nullptr;
  if (bytes > SIZE_MAX / 2) return nullptr;
  return posix_memalign(&memory, kAlignment, aligned(bytes > 0 ? bytes : 1)) == 0 ? memory : nullptr;
}

bool refuse_memory(const Session& session, const Node* node, size_t bytes) {
  return refuse(session, node, "out of memory for %zu bytes", bytes);
}

// What sums and multiples of it are safe from overflows with.
constexpr int64_t kMostNanoseconds = 1000000000000;

int64_t estimate(const Session& session, double nanoseconds) {
  const double here = nanoseconds * session.kernels->slowness;
  return here < static_cast<double>(kMostNanoseconds) ? static_cast<int64_t>(here) : kMostNanoseconds;
}

int64_t all_images(int64_t nanoseconds, int images) {
  return nanoseconds < kMostNanoseconds / images ? nanoseconds * images : kMostNanoseconds;
}

}  // namespace acdbit
