// The TFLite delegate: claims the Lce* and Acd* nodes of a graph and runs them.
//
// TFLite cuts the claimed nodes into connected sets; each becomes one node of the graph, whose kernel is a `Kernel`
// below. Tensors between the nodes of a set exist only here: TFLite gives them no memory, so the kernel lays them out
// in an arena, reused as soon as their last reader has run.
//
// The file is not trusted. `init` copies what it needs of the graph and checks indices, `prepare` works out every shape
// and size before any op runs, and `invoke` compares the memory TFLite hands out with them.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acdbit_runtime.h"
#include "cpu.h"
#include "node.h"

namespace acdbit {
namespace {

const Op* const kOps[] = {&kQuantizeOp, &kDequantizeOp, &kBconv2dOp, &kBMaxPool2dOp, &kAttentionOp, &kBlockOp};

const Op* find_op(const TfLiteRegistration* registration) {
  if (registration->builtin_code != kTfLiteBuiltinCustom || registration->custom_name == nullptr) return nullptr;
  for (const Op* op : kOps)
    if (strcmp(registration->custom_name, op->name) == 0) return op;
  return nullptr;
}

struct Delegate {
  TfLiteDelegate base;  // first: TFLite hands back its address
  Pool* pool;
  const Kernels* kernels;
  int num_threads;  // 0: as many as the interpreter
  bool fixed_shapes;
};

struct Kernel {
  Delegate* delegate;
  Session session;
  char failure[160];  // why init failed, told by prepare
  int num_nodes;
  Node* nodes;
  int num_values;
  Value* values;
  char* arena;
  size_t arena_bytes;
  char* work;  // session.shared, then session.scratch
  size_t work_bytes;
  int64_t nanoseconds;  // of all nodes
};

// === Creation ===

void release(Kernel* kernel) {
  if (kernel == nullptr) return;
  for (int i = 0; i < kernel->num_nodes; i++) {
    Node* node = &kernel->nodes[i];
    if (node->state == nullptr) continue;
    if (node->op->release != nullptr) node->op->release(node->state);
    free(node->state);
  }
  free(kernel->nodes);
  free(kernel->values);
  free(kernel->arena);
  free(kernel->work);
  free(kernel);
}

__attribute__((format(printf, 2, 3))) bool fail(Kernel* kernel, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(kernel->failure, sizeof kernel->failure, format, arguments);
  va_end(arguments);
  return false;
}

// The value of a tensor, made at its first mention. `known` has one entry per tensor of the graph, -1 or a number.
Value* value_of(Kernel* kernel, const TfLiteContext* context, int32_t* known, int node, int tensor) {
  if (tensor < 0 || static_cast<size_t>(tensor) >= context->tensors_size) {
    fail(kernel, "node %d refers to tensor %d of %zu", node, tensor, context->tensors_size);
    return nullptr;
  }
  if (known[tensor] >= 0) return &kernel->values[known[tensor]];
  const TfLiteTensor& source = context->tensors[tensor];
  const int rank = source.dims == nullptr ? 0 : source.dims->size;
  if (rank > kMaxRank) {
    fail(kernel, "tensor %d of node %d has %d dimensions, at most %d are known", tensor, node, rank, kMaxRank);
    return nullptr;
  }
  known[tensor] = kernel->num_values;
  Value* value = &kernel->values[kernel->num_values++];
  value->tensor = tensor;
  value->type = source.type;
  value->quantization = source.params;
  value->constant = source.allocation_type == kTfLiteMmapRo;
  value->rank = value->stored_rank = rank;
  for (int i = 0; i < rank; i++) value->dims[i] = value->stored_dims[i] = source.dims->data[i];
  return value;
}

bool copy_node(Kernel* kernel, const TfLiteContext* context, int32_t* known, int position, int index,
               const TfLiteNode* source, const TfLiteRegistration* registration) {
  Node* node = &kernel->nodes[position];
  node->op = find_op(registration);
  if (node->op == nullptr) return fail(kernel, "node %d is not one of this delegate's", index);
  kernel->num_nodes = position + 1;
  node->index = index;
  node->options = source->custom_initial_data;
  node->options_bytes = source->custom_initial_data_size > 0 ? source->custom_initial_data_size : 0;
  node->num_inputs = source->inputs == nullptr ? 0 : source->inputs->size;
  node->num_outputs = source->outputs == nullptr ? 0 : source->outputs->size;
  if (registration->version > 1)
    return fail(kernel, "node %d (%s): its version %d is newer than the version 1 this library knows", index,
                node->op->name, registration->version);
  if (node->num_inputs > kMaxInputs || node->num_outputs > kMaxOutputs)
    return fail(kernel, "node %d (%s): it has %d inputs and %d outputs", index, node->op->name, node->num_inputs,
                node->num_outputs);
  node->state = calloc(1, node->op->state_bytes > 0 ? node->op->state_bytes : 1);
  if (node->state == nullptr) return fail(kernel, "node %d (%s): out of memory", index, node->op->name);
  for (int i = 0; i < node->num_inputs; i++) {
    if (source->inputs->data[i] == kTfLiteOptionalTensor) continue;
    Value* value = value_of(kernel, context, known, index, source->inputs->data[i]);
    if (value == nullptr) return false;
    value->read = true;
    value->last = position;
    node->inputs[i] = value;
  }
  for (int i = 0; i < node->num_outputs; i++) {
    if (source->outputs->data[i] == kTfLiteOptionalTensor) continue;
    Value* value = value_of(kernel, context, known, index, source->outputs->data[i]);
    if (value == nullptr) return false;
    if (value->constant || value->written || value->read || context->tensors[value->tensor].is_variable)
      return fail(kernel, "node %d (%s): its output, tensor %d, is a constant, a variable, or used before", index,
                  node->op->name, value->tensor);
    value->written = value->internal = true;
    value->last = position;
    node->outputs[i] = value;
  }
  return true;
}

bool copy_graph(Kernel* kernel, TfLiteContext* context, const TfLiteDelegateParams* params) {
  const TfLiteIntArray* replaced = params->nodes_to_replace;
  size_t mentions = 0;
  for (int i = 0; i < replaced->size; i++) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, replaced->data[i], &node, &registration) != kTfLiteOk)
      return fail(kernel, "node %d cannot be read", replaced->data[i]);
    mentions +=
        (node->inputs == nullptr ? 0 : node->inputs->size) + (node->outputs == nullptr ? 0 : node->outputs->size);
  }
  kernel->nodes = static_cast<Node*>(calloc(replaced->size + 1, sizeof(Node)));
  kernel->values = static_cast<Value*>(calloc(mentions + 1, sizeof(Value)));
  int32_t* known = static_cast<int32_t*>(malloc((context->tensors_size + 1) * sizeof(int32_t)));
  bool ok = kernel->nodes != nullptr && kernel->values != nullptr && known != nullptr;
  if (!ok) fail(kernel, "out of memory for %d nodes", replaced->size);
  if (ok) memset(known, -1, (context->tensors_size + 1) * sizeof(int32_t));
  for (int i = 0; ok && i < replaced->size; i++) {
    TfLiteNode* node = nullptr;
    TfLiteRegistration* registration = nullptr;
    ok = context->GetNodeAndRegistration(context, replaced->data[i], &node, &registration) == kTfLiteOk &&
         copy_node(kernel, context, known, i, replaced->data[i], node, registration);
  }
  // What the rest of the graph reads is TFLite's.
  for (int i = 0; ok && i < params->output_tensors->size; i++) {
    const int tensor = params->output_tensors->data[i];
    if (tensor < 0 || static_cast<size_t>(tensor) >= context->tensors_size || known[tensor] < 0) continue;
    kernel->values[known[tensor]].internal = false;
    kernel->values[known[tensor]].read = true;
  }
  free(known);
  return ok;
}

void* init(TfLiteContext* context, const char* buffer, size_t) {
  const TfLiteDelegateParams* params = reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  Kernel* kernel = static_cast<Kernel*>(calloc(1, sizeof(Kernel)));
  if (kernel == nullptr) return nullptr;
  kernel->delegate = reinterpret_cast<Delegate*>(params->delegate);
  copy_graph(kernel, context, params);
  return kernel;
}

void destroy(TfLiteContext*, void* buffer) { release(static_cast<Kernel*>(buffer)); }

// === Preparation ===

size_t width_of(TfLiteType type) {
  if (type == kTfLiteFloat32 || type == kTfLiteInt32) return 4;
  if (type == kTfLiteFloat16) return 2;
  return type == kTfLiteBool || type == kTfLiteInt8 ? 1 : 0;
}

// Takes over the shape of a tensor that comes from outside, and the data of a constant.
bool refresh(TfLiteContext* context, const Kernel* kernel, Value* value) {
  const Node& node = kernel->nodes[value->last];
  const TfLiteTensor& source = context->tensors[value->tensor];
  const int rank = source.dims == nullptr ? 0 : source.dims->size;
  if (source.type != value->type || rank > kMaxRank) {
    report(context, "node %d (%s): tensor %d changed its type or has %d dimensions", node.index, node.op->name,
           value->tensor, rank);
    return false;
  }
  value->rank = rank;
  value->count = 1;
  for (int i = 0; i < rank; i++) {
    const int size = source.dims->data[i];
    if (size < 0 || (size > 0 && value->count > INT64_MAX / 8 / size)) {
      report(context, "node %d (%s): tensor %d has the size %d along dimension %d", node.index, node.op->name,
             value->tensor, size, i);
      return false;
    }
    value->dims[i] = size;
    value->count *= size;
  }
  value->bytes = value->count * width_of(value->type);
  if (!value->constant) return true;
  value->data = static_cast<char*>(source.data);
  if (width_of(value->type) == 0) return true;  // no op takes it
  if (source.bytes != value->bytes || (value->data == nullptr && value->bytes > 0)) {
    report(context, "node %d (%s): the constant tensor %d has %zu bytes, its shape and type take %zu", node.index,
           node.op->name, value->tensor, source.bytes, value->bytes);
    return false;
  }
  if (reinterpret_cast<uintptr_t>(value->data) % width_of(value->type) != 0) {
    report(context, "node %d (%s): the constant tensor %d is not aligned to its elements", node.index, node.op->name,
           value->tensor);
    return false;
  }
  return true;
}

// Tells TFLite the shape of a tensor that the rest of the graph reads. Whoever checked the rest by the stored shapes
// does not want another.
bool publish(TfLiteContext* context, const Value* value, bool fixed) {
  TfLiteTensor* tensor = &context->tensors[value->tensor];
  bool same = tensor->dims != nullptr && tensor->dims->size == value->rank && tensor->bytes == value->bytes;
  for (int i = 0; same && i < value->rank; i++) same = tensor->dims->data[i] == value->dims[i];
  if (same) return true;
  if (fixed) {
    report(context, "tensor %d is stored with another shape than its node computes", value->tensor);
    return false;
  }
  TfLiteIntArray* dims = static_cast<TfLiteIntArray*>(malloc(sizeof(TfLiteIntArray) + value->rank * sizeof(int)));
  if (dims == nullptr) {
    report(context, "out of memory for the shape of tensor %d", value->tensor);
    return false;
  }
  dims->size = value->rank;
  for (int i = 0; i < value->rank; i++) dims->data[i] = value->dims[i];
  if (context->ResizeTensor(context, tensor, dims) == kTfLiteOk) return true;
  report(context, "the runtime refuses to resize tensor %d to %zu bytes", value->tensor, value->bytes);
  return false;
}

// Gives each internal value a place: the first gap, in order of offsets, between those still needed.
bool plan_arena(Kernel* kernel, size_t* total) {
  const Value** live = static_cast<const Value**>(malloc((kernel->num_values + 1) * sizeof(Value*)));
  if (live == nullptr) return false;
  int count = 0;
  *total = 0;
  bool ok = true;
  for (int i = 0; ok && i < kernel->num_nodes; i++) {
    int kept = 0;
    for (int k = 0; k < count; k++)
      if (live[k]->last >= i) live[kept++] = live[k];
    count = kept;
    for (int o = 0; o < kernel->nodes[i].num_outputs; o++) {
      Value* value = kernel->nodes[i].outputs[o];
      if (value == nullptr || !value->internal) continue;
      const size_t bytes = aligned(value->bytes);
      size_t cursor = 0, end;
      int place = 0;
      while (place < count && live[place]->offset - cursor < bytes) {
        cursor = live[place]->offset + aligned(live[place]->bytes);
        place++;
      }
      value->offset = cursor;
      ok = !__builtin_add_overflow(cursor, bytes, &end);
      if (!ok) break;
      if (end > *total) *total = end;
      memmove(live + place + 1, live + place, (count - place) * sizeof(Value*));
      live[place] = value;
      count++;
    }
  }
  free(live);
  return ok;
}

// Memory of at least so many bytes in *memory, whose contents need not survive.
bool reserve(size_t bytes, char** memory, size_t* held) {
  if (bytes <= *held) return true;
  free(*memory);
  *memory = static_cast<char*>(allocate(bytes));
  *held = *memory == nullptr ? 0 : bytes;
  return *memory != nullptr;
}

TfLiteStatus prepare(TfLiteContext* context, TfLiteNode* tflite_node) {
  Kernel* kernel = static_cast<Kernel*>(tflite_node->user_data);
  if (kernel == nullptr || kernel->failure[0] != '\0') {
    report(context, "%s", kernel == nullptr ? "out of memory for a delegated node" : kernel->failure);
    return kTfLiteError;
  }
  Delegate* delegate = kernel->delegate;
  Session* session = &kernel->session;
  int threads = delegate->num_threads > 0 ? delegate->num_threads : context->recommended_num_threads;
  if (threads < 1) threads = 1;
  if (threads > kMaxThreads) threads = kMaxThreads;
  session->context = context;
  session->kernels = delegate->kernels;
  session->threads = threads;
  pool_grow(delegate->pool, threads);

  for (int i = 0; i < kernel->num_values; i++)
    if (!kernel->values[i].written && !refresh(context, kernel, &kernel->values[i])) return kTfLiteError;
  size_t shared = 0, scratch = 0;
  kernel->nanoseconds = 0;
  for (int i = 0; i < kernel->num_nodes; i++) {
    Node* node = &kernel->nodes[i];
    node->shared_bytes = node->scratch_bytes = 0;
    node->nanoseconds = 0;
    if (!node->op->prepare(*session, node)) return kTfLiteError;
    if (node->shared_bytes > shared) shared = node->shared_bytes;
    if (node->scratch_bytes > scratch) scratch = node->scratch_bytes;
    kernel->nanoseconds += node->nanoseconds;
  }
  for (int i = 0; i < kernel->num_values; i++) {
    const Value* value = &kernel->values[i];
    if (value->written && !value->internal && !publish(context, value, delegate->fixed_shapes)) return kTfLiteError;
  }

  size_t arena = 0, work = 0;
  session->scratch_stride = aligned(scratch);
  if (!plan_arena(kernel, &arena) || __builtin_mul_overflow(session->scratch_stride, threads, &work) ||
      __builtin_add_overflow(work, aligned(shared), &work) || !reserve(arena, &kernel->arena, &kernel->arena_bytes) ||
      !reserve(work, &kernel->work, &kernel->work_bytes)) {
    report(context, "out of memory: the nodes of the delegate need %zu bytes between them and %zu to work in", arena,
           work);
    return kTfLiteError;
  }
  session->shared = kernel->work;
  session->scratch = kernel->work + aligned(shared);
  for (int i = 0; i < kernel->num_values; i++)
    if (kernel->values[i].internal) kernel->values[i].data = kernel->arena + kernel->values[i].offset;
  return kTfLiteOk;
}

// === Execution ===

TfLiteStatus invoke(TfLiteContext* context, TfLiteNode* tflite_node) {
  Kernel* kernel = static_cast<Kernel*>(tflite_node->user_data);
  kernel->session.context = context;
  for (int i = 0; i < kernel->num_values; i++) {
    Value* value = &kernel->values[i];
    if (value->internal || value->constant) continue;
    const TfLiteTensor& tensor = context->tensors[value->tensor];
    value->data = static_cast<char*>(tensor.data);
    if (width_of(value->type) == 0) continue;  // an optional input that its op ignores
    if (value->data == nullptr || tensor.bytes != value->bytes) {
      report(context, "tensor %d has %zu bytes of memory, the graph was prepared for %zu", value->tensor,
             value->data == nullptr ? 0 : tensor.bytes, value->bytes);
      return kTfLiteError;
    }
  }
  kernel->session.crew = pool_enter(kernel->delegate->pool, kernel->session.threads, kernel->nanoseconds);
  for (int i = 0; i < kernel->num_nodes; i++) kernel->nodes[i].op->invoke(kernel->session, &kernel->nodes[i]);
  pool_leave(kernel->session.crew);
  return kTfLiteOk;
}

// === The delegate ===

TfLiteStatus claim(TfLiteContext* context, TfLiteDelegate* delegate) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  // The plan is the runtime's and may go with the next call.
  TfLiteIntArray* nodes = static_cast<TfLiteIntArray*>(malloc(sizeof(TfLiteIntArray) + plan->size * sizeof(int)));
  if (nodes == nullptr) {
    report(context, "out of memory for a plan of %d nodes", plan->size);
    return kTfLiteError;
  }
  nodes->size = plan->size;
  memcpy(nodes->data, plan->data, plan->size * sizeof(int));
  int claimed = 0;
  for (int i = 0; i < nodes->size; i++) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, nodes->data[i], &node, &registration) != kTfLiteOk) {
      free(nodes);
      return kTfLiteError;
    }
    if (find_op(registration) != nullptr) nodes->data[claimed++] = nodes->data[i];
  }
  nodes->size = claimed;
  TfLiteRegistration registration = {};
  registration.init = init;
  registration.free = destroy;
  registration.prepare = prepare;
  registration.invoke = invoke;
  registration.builtin_code = kTfLiteBuiltinDelegate;
  registration.custom_name = "AcdbitDelegate";
  registration.version = 1;
  const TfLiteStatus status =
      claimed > 0 ? context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, nodes, delegate) : kTfLiteOk;
  free(nodes);
  return status;
}

// Decimal digits only; -1 for anything else.
int parse_count(const char* text) {
  int value = 0;
  if (*text == '\0') return -1;
  for (; *text != '\0'; text++) {
    if (*text < '0' || *text > '9' || value > 1000000) return -1;
    value = 10 * value + (*text - '0');
  }
  return value;
}

bool set_option(Delegate* delegate, const char* key, const char* value) {
  if (key == nullptr || value == nullptr) {
    report(nullptr, "an option of the delegate has no name or no value");
    return false;
  }
  if (strcmp(key, "num_threads") == 0) {
    delegate->num_threads = parse_count(value);
    if (delegate->num_threads >= 1 && delegate->num_threads <= kMaxThreads) return true;
    report(nullptr, "the option num_threads must be an integer from 1 to %d, got %.40s", kMaxThreads, value);
    return false;
  }
  if (strcmp(key, "spin") == 0 || strcmp(key, "fixed_shapes") == 0) {
    const bool on = strcmp(value, "true") == 0;
    if (*key == 's')
      pool_set_spin(delegate->pool, on);
    else
      delegate->fixed_shapes = on;
    if (on || strcmp(value, "false") == 0) return true;
    report(nullptr, "the option %s must be true or false, got %.40s", key, value);
    return false;
  }
  if (strcmp(key, "kernels") == 0) {
    if (strcmp(value, "auto") == 0) return true;
    for (const Kernels* kernels : supported_kernels()) {
      if (strcmp(value, kernels->name) != 0) continue;
      delegate->kernels = kernels;
      return true;
    }
    report(nullptr, "the option kernels must be auto or one of %s on this CPU, got %.40s", acdbit_kernel_paths(),
           value);
    return false;
  }
  report(nullptr, "the delegate has the options num_threads, spin, fixed_shapes and kernels, not %.40s", key);
  return false;
}

// Null, and a sentence reported, if the environment asks for what is not there.
const Kernels* default_kernels() {
  char message[200];
  const Kernels* kernels = select_kernels(getenv("ACDBIT_KERNELS"), message, sizeof message);
  if (kernels == nullptr) report(nullptr, "%s", message);
  return kernels;
}

}  // namespace
}  // namespace acdbit

extern "C" {

const char* acdbit_version(void) { return ACDBIT_VERSION; }

const char* acdbit_kernel_path(void) {
  const acdbit::Kernels* kernels = acdbit::default_kernels();
  return kernels == nullptr ? "" : kernels->name;
}

const char* acdbit_kernel_paths(void) {
  static thread_local char names[64];
  acdbit::supported_names(",", names, sizeof names);
  return names;
}

const char* acdbit_last_error(void) { return acdbit::last_report(); }

void* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t num_options,
                                    void (*report_error)(const char*)) {
  using namespace acdbit;
  clear_report();
  Delegate* delegate = static_cast<Delegate*>(calloc(1, sizeof(Delegate)));
  if (delegate != nullptr) delegate->pool = pool_create();
  bool ok = delegate != nullptr && delegate->pool != nullptr;
  if (!ok) report(nullptr, "out of memory for the delegate");
  // Python passes the number as an int, of which only the lower half arrives for sure.
  const uint32_t count = static_cast<uint32_t>(num_options);
  for (uint32_t i = 0; ok && i < count; i++) ok = set_option(delegate, keys[i], values[i]);
  if (ok && delegate->kernels == nullptr) {
    delegate->kernels = default_kernels();
    ok = delegate->kernels != nullptr;
  }
  if (!ok) {
    if (report_error != nullptr) report_error(last_report());
    tflite_plugin_destroy_delegate(delegate);
    return nullptr;
  }
  delegate->base.data = delegate;
  delegate->base.Prepare = claim;
  delegate->base.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return delegate;
}

void tflite_plugin_destroy_delegate(void* pointer) {
  acdbit::Delegate* delegate = static_cast<acdbit::Delegate*>(pointer);
  if (delegate == nullptr) return;
  acdbit::pool_destroy(delegate->pool);
  free(delegate);
}

}  // extern "C"
