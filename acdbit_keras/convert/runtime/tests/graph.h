// A graph, and as much of TFLite's interpreter as a delegate sees of it: for what no file reaches, damaged graphs and
// failing memory. Every buffer has exactly its size, so that a sanitizer sees a step outside.
#pragma once

#include <stdint.h>

#include <memory>
#include <string>
#include <vector>

#include "tflite.h"

namespace acdbit {

struct TensorSpec {
  TfLiteType type = kTfLiteFloat32;
  std::vector<int> dims;
  bool constant = false;
  bool variable = false;
  bool misaligned = false;
  float scale = 1.0f;
  int zero_point = 0;
  std::vector<uint8_t> data;  // of a constant
};

struct NodeSpec {
  std::string op;
  int version = 1;
  std::vector<int> inputs;
  std::vector<int> outputs;
  std::vector<uint8_t> options;
};

struct GraphSpec {
  std::vector<TensorSpec> tensors;
  std::vector<NodeSpec> nodes;
  std::vector<int> outputs;
  bool apart = false;  // each node becomes a kernel of its own
};

class Graph {
 public:
  Graph(const GraphSpec& spec, int threads);
  ~Graph();
  Graph(const Graph&) = delete;

  // In this order; each is false after an error.
  bool apply(void* delegate);
  bool resize(int tensor, const std::vector<int>& dims);
  bool allocate();
  bool invoke();

  TfLiteTensor& tensor(int index) { return tensors_[index]; }
  // Not constant, and read or written by a kernel, so it has memory after `allocate`.
  bool has_memory(int index) const { return tensors_[index].data != nullptr && !constant(index); }
  bool constant(int index) const { return tensors_[index].allocation_type == kTfLiteMmapRo; }
  // Whether a kernel writes it.
  bool written(int index) const { return written_[index]; }
  // All sentences reported so far.
  const std::string& errors() const { return errors_; }

 private:
  struct Node;
  struct Kernel;

  static Graph* self(TfLiteContext* context) { return static_cast<Graph*>(context->impl); }
  static TfLiteStatus get_execution_plan(TfLiteContext* context, TfLiteIntArray** plan);
  static TfLiteStatus get_node(TfLiteContext* context, int index, TfLiteNode** node, TfLiteRegistration** registration);
  static TfLiteStatus replace(TfLiteContext* context, TfLiteRegistration registration, const TfLiteIntArray* nodes,
                              TfLiteDelegate* delegate);
  static TfLiteStatus resize_tensor(TfLiteContext* context, TfLiteTensor* tensor, TfLiteIntArray* dims);
  static void report_error(TfLiteContext* context, const char* format, ...);
  void add_kernel(const TfLiteRegistration& registration, const std::vector<int>& nodes, TfLiteDelegate* delegate);

  TfLiteContext context_ = {};
  std::vector<TfLiteTensor> tensors_;
  std::vector<std::unique_ptr<int[]>> dims_;
  std::vector<std::unique_ptr<uint8_t[]>> memory_;
  std::vector<bool> written_, external_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<Kernel>> kernels_;
  std::vector<int> outputs_;
  std::unique_ptr<int[]> plan_;
  bool apart_;
  std::string errors_;
};

}  // namespace acdbit
