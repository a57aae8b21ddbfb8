// The calls as custom calls of XLA, through its foreign-function interface (xla/ffi/api/c_api.h, version 0), which is
// declared here as far as it is used. JAX is given these functions by `acdbit_keras/training/library.py`.
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

#include "block.h"
#include "calls.h"

namespace {

// === The interface ===
struct Extension {
  size_t size;
  int type;
  Extension* next;
};
constexpr int kMetadata = 1;

struct Version {
  size_t size;
  Extension* extensions;
  int major, minor;
};

struct Metadata {
  size_t size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct XlaArray {
  size_t size;
  Extension* extensions;
  int type;
  void* data;
  int64_t rank;
  int64_t* lengths;
};

struct XlaError;

struct ErrorArguments {
  size_t size;
  Extension* extensions;
  const char* message;
  int code;
};
constexpr int kInvalidArgument = 3;
constexpr int kOutOfMemory = 8;

struct Api {
  size_t size;
  Extension* extensions;
  Version version;
  const void* internal;
  XlaError* (*create_error)(ErrorArguments*);
};

struct Values {
  size_t size;
  Extension* extensions;
  int64_t count;
  int* types;
  void** values;
};

struct Frame {
  size_t size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;
  Values arguments;
  Values results;
};

// === The calls ===
XlaError* Error(const Frame& frame, const acdbit::Call& call, int code, const char* why) {
  const std::string message = std::string(call.name) + ": " + why;
  ErrorArguments arguments = {sizeof(ErrorArguments), nullptr, message.c_str(), code};
  return frame.api->create_error(&arguments);
}

XlaError* Run(const acdbit::Call& call, Frame* frame) {
  for (Extension* extension = frame->extensions; extension != nullptr; extension = extension->next) {
    if (extension->type != kMetadata) continue;
    // Asked for the version of the interface, not called.
    Metadata* metadata = reinterpret_cast<MetadataExtension*>(extension)->metadata;
    metadata->version.major = 0;
    metadata->version.minor = 1;
    metadata->traits = 0;
    return nullptr;
  }
  if (frame->arguments.count != static_cast<int64_t>(call.inputs.size()) ||
      frame->results.count != static_cast<int64_t>(call.outputs.size())) {
    return Error(*frame, call, kInvalidArgument, "it was called with another number of arrays");
  }
  acdbit::Arrays inputs(call.inputs.size());
  for (size_t i = 0; i < inputs.size(); i++) {
    const auto* array = static_cast<const XlaArray*>(frame->arguments.values[i]);
    inputs[i] = {static_cast<const float*>(array->data), {array->lengths, array->lengths + array->rank}};
  }
  acdbit::Shapes shapes;
  if (const char* wrong = call.shapes(inputs, &shapes)) return Error(*frame, call, kInvalidArgument, wrong);
  std::vector<float*> outputs;
  for (size_t i = 0; i < shapes.size(); i++) {
    const auto* array = static_cast<const XlaArray*>(frame->results.values[i]);
    if (std::vector<int64_t>(array->lengths, array->lengths + array->rank) != shapes[i]) {
      return Error(*frame, call, kInvalidArgument, "a result has another shape");
    }
    outputs.push_back(static_cast<float*>(array->data));
  }
  try {
    call.run(inputs, outputs);
  } catch (const std::bad_alloc&) {
    return Error(*frame, call, kOutOfMemory, "there is not enough memory");
  }
  return nullptr;
}

}  // namespace

#define ACDBIT_EXPORT extern "C" __attribute__((visibility("default")))

ACDBIT_EXPORT XlaError* acdbit_xla_block(Frame* frame) { return Run(acdbit::Calls()[0], frame); }
ACDBIT_EXPORT XlaError* acdbit_xla_block_back(Frame* frame) { return Run(acdbit::Calls()[1], frame); }
ACDBIT_EXPORT XlaError* acdbit_xla_column_medians(Frame* frame) { return Run(acdbit::Calls()[2], frame); }

// Floats that a forward pass saves for the backward one; 0 for sizes that there are no kernels for.
ACDBIT_EXPORT int64_t acdbit_saved_floats(const int64_t* shape, const float* options) {
  acdbit::Layout layout;
  const acdbit::Options parsed = acdbit::ParseOptions(options);
  const bool known = layout.Set({shape[0], shape[1], shape[2], shape[3]}, parsed) == nullptr;
  return known ? static_cast<int64_t>(layout.saved) : 0;
}
