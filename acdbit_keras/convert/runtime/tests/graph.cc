#include "graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

namespace acdbit {
namespace {

// More than any test needs; a larger tensor fails as it would where memory is short.
constexpr size_t kMaxTensorBytes = size_t{1} << 23;

std::unique_ptr<int[]> int_array(const std::vector<int>& values) {
  std::unique_ptr<int[]> array(new int[values.size() + 1]);
  array[0] = static_cast<int>(values.size());
  std::copy(values.begin(), values.end(), array.get() + 1);
  return array;
}

TfLiteIntArray* view(const std::unique_ptr<int[]>& array) { return reinterpret_cast<TfLiteIntArray*>(array.get()); }

// False if the size overflows or a dimension is negative; then `bytes` is 0.
bool count_bytes(TfLiteType type, const std::vector<int>& dims, size_t* bytes) {
  *bytes = type == kTfLiteFloat32 || type == kTfLiteInt32 ? 4 : 1;
  for (int size : dims) {
    if (size >= 0 && !__builtin_mul_overflow(*bytes, static_cast<size_t>(size), bytes)) continue;
    *bytes = 0;
    return false;
  }
  return true;
}

bool contains(const std::vector<int>& values, int value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

struct Graph::Node {
  NodeSpec spec;
  std::unique_ptr<int[]> inputs, outputs;
  std::unique_ptr<uint8_t[]> options;
  TfLiteNode node = {};
  TfLiteRegistration registration = {};
};

struct Graph::Kernel {
  TfLiteRegistration registration;
  TfLiteNode node = {};
  std::vector<int> reads, writes;
};

Graph::Graph(const GraphSpec& spec, int threads) : outputs_(spec.outputs), apart_(spec.apart) {
  const size_t count = spec.tensors.size();
  tensors_.resize(count);
  memory_.resize(count);
  written_.resize(count);
  external_.resize(count);
  for (size_t i = 0; i < count; i++) {
    const TensorSpec& source = spec.tensors[i];
    TfLiteTensor& tensor = tensors_[i];
    dims_.push_back(int_array(source.dims));
    tensor.type = source.type;
    tensor.dims = view(dims_[i]);
    tensor.params = {source.scale, source.zero_point};
    tensor.is_variable = source.variable;
    tensor.allocation_type = source.constant ? kTfLiteMmapRo : kTfLiteArenaRw;
    count_bytes(source.type, source.dims, &tensor.bytes);
    if (!source.constant) continue;
    tensor.bytes = source.data.size();
    const size_t shift = source.misaligned ? 1 : 0;
    memory_[i].reset(new uint8_t[tensor.bytes + shift]);
    tensor.data = memory_[i].get() + shift;
    std::copy(source.data.begin(), source.data.end(), memory_[i].get() + shift);
  }
  std::vector<int> plan;
  for (const NodeSpec& source : spec.nodes) {
    plan.push_back(static_cast<int>(nodes_.size()));
    nodes_.emplace_back(new Node);
    Node& node = *nodes_.back();
    node.spec = source;
    node.inputs = int_array(source.inputs);
    node.outputs = int_array(source.outputs);
    node.options.reset(new uint8_t[source.options.size()]);
    std::copy(source.options.begin(), source.options.end(), node.options.get());
    node.node.inputs = view(node.inputs);
    node.node.outputs = view(node.outputs);
    node.node.custom_initial_data = node.options.get();
    node.node.custom_initial_data_size = static_cast<int>(source.options.size());
    node.registration.builtin_code = kTfLiteBuiltinCustom;
    node.registration.custom_name = node.spec.op.c_str();
    node.registration.version = source.version;
  }
  plan_ = int_array(plan);
  context_.tensors_size = count;
  context_.tensors = tensors_.data();
  context_.impl = this;
  context_.GetExecutionPlan = get_execution_plan;
  context_.ResizeTensor = resize_tensor;
  context_.ReportError = report_error;
  context_.GetNodeAndRegistration = get_node;
  context_.ReplaceNodeSubsetsWithDelegateKernels = replace;
  context_.recommended_num_threads = threads;
}

Graph::~Graph() {
  for (const auto& kernel : kernels_) kernel->registration.free(&context_, kernel->node.user_data);
}

TfLiteStatus Graph::get_execution_plan(TfLiteContext* context, TfLiteIntArray** plan) {
  *plan = view(self(context)->plan_);
  return kTfLiteOk;
}

TfLiteStatus Graph::get_node(TfLiteContext* context, int index, TfLiteNode** node, TfLiteRegistration** registration) {
  Node& found = *self(context)->nodes_[index];
  *node = &found.node;
  *registration = &found.registration;
  return kTfLiteOk;
}

TfLiteStatus Graph::replace(TfLiteContext* context, TfLiteRegistration registration, const TfLiteIntArray* nodes,
                            TfLiteDelegate* delegate) {
  Graph* graph = self(context);
  std::vector<int> set;
  for (int i = 0; i < nodes->size; i++) {
    if (!set.empty() && (graph->apart_ || nodes->data[i] != set.back() + 1)) {
      graph->add_kernel(registration, set, delegate);
      set.clear();
    }
    set.push_back(nodes->data[i]);
  }
  if (!set.empty()) graph->add_kernel(registration, set, delegate);
  return kTfLiteOk;
}

void Graph::add_kernel(const TfLiteRegistration& registration, const std::vector<int>& nodes,
                       TfLiteDelegate* delegate) {
  kernels_.emplace_back(new Kernel);
  Kernel& kernel = *kernels_.back();
  kernel.registration = registration;
  std::vector<int> inside, outside = outputs_;
  for (size_t i = 0; i < nodes_.size(); i++) {
    const NodeSpec& spec = nodes_[i]->spec;
    const bool member = contains(nodes, static_cast<int>(i));
    if (member) inside.insert(inside.end(), spec.outputs.begin(), spec.outputs.end());
    if (!member) outside.insert(outside.end(), spec.inputs.begin(), spec.inputs.end());
  }
  const auto add = [this](int tensor, std::vector<int>* to) {
    if (tensor >= 0 && static_cast<size_t>(tensor) < tensors_.size() && !contains(*to, tensor)) to->push_back(tensor);
  };
  for (int i : nodes)
    for (int tensor : nodes_[i]->spec.inputs)
      if (!contains(inside, tensor)) add(tensor, &kernel.reads);
  for (int tensor : inside)
    if (contains(outside, tensor)) add(tensor, &kernel.writes);
  for (int tensor : kernel.reads) external_[tensor] = true;
  for (int tensor : kernel.writes) external_[tensor] = written_[tensor] = true;
  const auto members = int_array(nodes), reads = int_array(kernel.reads), writes = int_array(kernel.writes);
  TfLiteDelegateParams params = {delegate, view(members), view(reads), view(writes)};
  kernel.node.user_data = registration.init(&context_, reinterpret_cast<const char*>(&params), 0);
}

TfLiteStatus Graph::resize_tensor(TfLiteContext* context, TfLiteTensor* tensor, TfLiteIntArray* dims) {
  const std::vector<int> sizes(dims->data, dims->data + dims->size);
  free(dims);
  return self(context)->resize(static_cast<int>(tensor - context->tensors), sizes) ? kTfLiteOk : kTfLiteError;
}

void Graph::report_error(TfLiteContext* context, const char* format, ...) {
  char sentence[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  self(context)->errors_ += std::string(sentence) + "\n";
}

bool Graph::apply(void* delegate) {
  TfLiteDelegate* base = static_cast<TfLiteDelegate*>(delegate);
  return base->Prepare(&context_, base) == kTfLiteOk;
}

bool Graph::resize(int index, const std::vector<int>& dims) {
  TfLiteTensor& tensor = tensors_[index];
  size_t bytes;
  if (constant(index) || !count_bytes(tensor.type, dims, &bytes) || bytes > kMaxTensorBytes) return false;
  dims_[index] = int_array(dims);
  tensor.dims = view(dims_[index]);
  tensor.bytes = bytes;
  memory_[index].reset();
  tensor.data = nullptr;
  return true;
}

bool Graph::allocate() {
  for (const auto& kernel : kernels_)
    if (kernel->registration.prepare(&context_, &kernel->node) != kTfLiteOk) return false;
  for (size_t i = 0; i < tensors_.size(); i++) {
    if (constant(static_cast<int>(i)) || !external_[i]) continue;
    TfLiteTensor& tensor = tensors_[i];
    if (tensor.bytes > kMaxTensorBytes) {
      report_error(&context_, "tensor %zu takes %zu bytes", i, tensor.bytes);
      return false;
    }
    memory_[i].reset(new uint8_t[tensor.bytes]);
    memset(memory_[i].get(), 0, tensor.bytes);
    tensor.data = memory_[i].get();
  }
  return true;
}

bool Graph::invoke() {
  for (const auto& kernel : kernels_)
    if (kernel->registration.invoke(&context_, &kernel->node) != kTfLiteOk) return false;
  return true;
}

}  // namespace acdbit
