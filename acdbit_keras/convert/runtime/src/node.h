// What an op sees of the graph: tensors with known shapes, a place for its state, and a way to refuse.
//
// The delegate (delegate.cc) owns the memory and the order of calls; each ops_*.cc defines one `Op`. `prepare` runs
// once per shape of the graph's inputs and must leave nothing to chance: what it accepts, `invoke` executes without a
// check, an allocation or an error.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "contract.h"
#include "flexbuffer.h"
#include "kernels.h"
#include "pool.h"
#include "tflite.h"

namespace acdbit {

constexpr int kMaxRank = 6;
constexpr int kMaxInputs = 16;
constexpr int kMaxOutputs = 2;
// Sizes, strides and numbers of channels of any tensor stay below this, so that products of two fit into 64 bits.
constexpr int64_t kMaxSize = int64_t{1} << 30;

// A tensor that a claimed node reads or writes.
struct Value {
  int tensor;  // index in the graph
  TfLiteType type;
  TfLiteQuantizationParams quantization;
  bool constant;
  int rank;
  int dims[kMaxRank];
  // As the file has them. Shapes change when the graph's inputs are resized; then these tell what one image is.
  int stored_rank;
  int stored_dims[kMaxRank];
  int64_t count;  // of elements
  size_t bytes;
  char* data;
  bool written;   // by a claimed node
  bool read;      // by a claimed node or somebody else
  bool internal;  // the delegate keeps it, at `offset`, until node `last` of its own has run
  size_t offset;
  int last;
};

struct Op;

struct Node {
  const Op* op;
  int index;  // in the graph, for messages
  int version;
  int num_inputs;
  int num_outputs;
  Value* inputs[kMaxInputs];  // null where left out
  Value* outputs[kMaxOutputs];
  const void* options;
  size_t options_bytes;
  void* state;           // op->state_bytes, zeros before the first prepare
  size_t shared_bytes;   // set by prepare: memory for one invocation
  size_t scratch_bytes;  // set by prepare: memory for one thread
  int64_t nanoseconds;   // set by prepare: about as long will invoke take one thread
};

// What surrounds a call.
struct Session {
  TfLiteContext* context;
  const Kernels* kernels;
  int threads;    // what prepare may count on, and give memory for
  Crew crew;      // what invoke has, no more
  char* shared;   // the largest shared_bytes of any node
  char* scratch;  // per thread, scratch_stride apart
  size_t scratch_stride;
};

struct Op {
  const char* name;
  size_t state_bytes;
  // Sets the outputs' shapes. False after `refuse`.
  bool (*prepare)(const Session& session, Node* node);
  void (*invoke)(const Session& session, Node* node);
  // Frees what the state points to, not the state. May be null.
  void (*release)(void* state);
};

extern const Op kQuantizeOp;
extern const Op kDequantizeOp;
extern const Op kBconv2dOp;
extern const Op kBMaxPool2dOp;
extern const Op kAttentionOp;
extern const Op kBlockOp;

// --- Refusing

// Records a sentence for acdbit_last_error and reports it through the context, which may be null.
void report(TfLiteContext* context, const char* format, ...) __attribute__((format(printf, 2, 3)));
// Reports "node 3 (LceQuantize): ..." and returns false, for `return refuse(...)`.
bool refuse(const Session& session, const Node* node, const char* format, ...) __attribute__((format(printf, 3, 4)));
// The last sentence reported in this thread, "" if there was none.
const char* last_report();
void clear_report();

// --- Checking; each refuses and returns false where something is wrong

bool check_counts(const Session& session, const Node* node, int min_inputs, int max_inputs, int min_outputs,
                  int max_outputs);
// Input `number` is there, of that type, of a rank in [min_rank, max_rank], and of no size 0.
bool check_input(const Session& session, const Node* node, int number, TfLiteType type, int min_rank, int max_rank);
// The same, and it is a constant of `count` elements, all of them finite if they are floats.
bool check_constant(const Session& session, const Node* node, int number, TfLiteType type, int64_t count);
// All elements of the constant are above 0.
bool check_positive(const Session& session, const Node* node, int number);
// Output `number` can be written and holds `type`.
bool check_output(const Session& session, const Node* node, int number, TfLiteType type);
// The per-tensor scale of an int8 value is finite and above 0.
bool check_scale(const Session& session, const Node* node, const Value* value);
bool set_shape(const Session& session, const Node* node, Value* value, int rank, const int64_t* dims);

bool open_options(const Session& session, const Node* node, FlexMap* options);
bool option_int(const Session& session, const Node* node, const FlexMap& options, const char* key, int64_t min,
                int64_t max, int64_t* value);
bool option_float(const Session& session, const Node* node, const FlexMap& options, const char* key, float* value);
bool option_bool(const Session& session, const Node* node, const FlexMap& options, const char* key, bool* value);
// The option version of our own ops is one that this library knows.
bool check_version(const Session& session, const Node* node, const FlexMap& options);
// Heads of so many channels are supported.
bool check_head_dim(const Session& session, const Node* node, int64_t head_dim);

// --- Memory

// Aligned to kAlignment, rounded up to it; freed with free. Null if out of memory.
void* allocate(size_t bytes);
bool refuse_memory(const Session& session, const Node* node, size_t bytes);  // "out of memory"
inline size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

inline const char* type_name(TfLiteType type) {
  switch (type) {
    case kTfLiteFloat32: return "float32";
    case kTfLiteFloat16: return "float16";
    case kTfLiteInt32: return "int32";
    case kTfLiteBool: return "bool";
    case kTfLiteInt8: return "int8";
    default: return "another type";
  }
}

// Words that hold so many bits.
inline int words_for(int channels) { return (channels + 31) / 32; }

// --- Work

inline char* scratch_of(const Session& session, int thread) {
  return session.scratch + thread * session.scratch_stride;
}

// Work that takes AVX-512 so many nanoseconds, with the kernels at hand.
int64_t estimate(const Session& session, double nanoseconds);
// So many nanoseconds for each of so many images.
int64_t all_images(int64_t nanoseconds, int images);

}  // namespace acdbit
