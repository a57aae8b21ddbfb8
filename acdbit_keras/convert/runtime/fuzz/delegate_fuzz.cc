// A libFuzzer target: bytes become a graph of the delegate's ops, which is prepared, resized and run.
//
// Most bytes choose among plausible values, so that graphs get past the checks and into the kernels; then some values,
// none in most graphs, are replaced by arbitrary ones. The first byte may instead hand all others to the reader of
// options. Besides what the sanitizers see, it is a finding if something fails without a sentence that says why, or if
// two kernel paths or numbers of threads compute different bits.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "../tests/allocations.h"
#include "../tests/flexbuffer_writer.h"
#include "../tests/graph.h"
#include "acdbit_runtime.h"
#include "block.h"
#include "cpu.h"
#include "flexbuffer.h"
#include "kernels.h"

namespace acdbit {
namespace {

// Zeros after the end.
struct Bytes {
  const uint8_t* data;
  size_t size;

  int byte() {
    if (size == 0) return 0;
    size--;
    return *data++;
  }
  bool flag() { return byte() & 1; }
  template <typename T>
  T choose(std::initializer_list<T> values) {
    return values.begin()[byte() % values.size()];
  }
  int64_t any_integer() {
    const int kind = byte();
    if (kind < 64) return kind - 8;
    if (kind < 192) {
      static const int64_t values[] = {127,       128,       255,        256,      65535,     65536,
                                       1 << 23,   1 << 24,   1 << 29,    1 << 30,  INT32_MAX, INT32_MIN,
                                       INT64_MAX, INT64_MIN, UINT32_MAX, 1LL << 40};
      return values[kind % 16] - (kind & 16 ? 1 : 0) * (kind % 16 == 13 ? 0 : 1);
    }
    int64_t value = 0;
    for (int i = 0; i < 1 << (kind & 3); i++) value = value << 8 | byte();
    return value;
  }
  float any_float() {
    return choose({0.0f, -0.0f, 1.0f, -1.0f, 1e-45f, 1e-38f, 1e30f, -1e30f, 3.4e38f, -3.4e38f, INFINITY, -INFINITY,
                   std::numeric_limits<float>::quiet_NaN(), 0.5f, 65536.0f, 1e-10f});
  }
};

// Fills buffers; a fuzzer need not choose each of their bytes.
struct Random {
  uint32_t state;

  explicit Random(int seed) : state(static_cast<uint32_t>(seed) * 2654435761u + 1) {}
  uint32_t next() {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
  }
  float real() { return static_cast<float>(next() >> 8) / 8388608.0f - 1.0f; }
};

template <typename T>
void append(std::vector<uint8_t>* bytes, T value) {
  const size_t end = bytes->size();
  bytes->resize(end + sizeof value);
  memcpy(bytes->data() + end, &value, sizeof value);
}

// === Graphs ===

// Some constants of damaged graphs are shorter than their shape; so are those that would take too long to fill.
constexpr size_t kMaxConstant = 1 << 18;

class Builder {
 public:
  explicit Builder(Bytes* bytes) : bytes_(bytes) {}

  GraphSpec build() {
    spec_.apart = bytes_->flag();
    const int nodes = 1 + bytes_->byte() % 4;
    for (int i = 0; i < nodes; i++) add_node();
    for (size_t i = 0; i < spec_.nodes.size(); i++) {
      for (int tensor : spec_.nodes[i].outputs)
        if (tensor == current_ || bytes_->byte() % 3 == 1) spec_.outputs.push_back(tensor);
    }
    const int damage = bytes_->byte();
    for (int i = 0; i < (damage < 128 ? 0 : damage < 224 ? 1 : 3); i++) damage_one();
    for (size_t i = 0; i < spec_.nodes.size(); i++) spec_.nodes[i].options = write_flexbuffer(options_[i]);
    if (damage % 8 == 7) damage_options();
    return spec_;
  }

 private:
  int add_tensor(TfLiteType type, const std::vector<int>& dims) {
    TensorSpec tensor;
    tensor.type = type;
    tensor.dims = dims;
    spec_.tensors.push_back(tensor);
    return static_cast<int>(spec_.tensors.size()) - 1;
  }
  int add_floats(size_t count, bool positive = false) {
    const int tensor = add_tensor(kTfLiteFloat32, {static_cast<int>(std::min<size_t>(count, INT32_MAX))});
    TensorSpec& constant = spec_.tensors[tensor];
    constant.constant = true;
    const int kind = bytes_->byte();
    const float magnitude[] = {1.0f, 0.1f, 0.01f, 30.0f, 1e-30f, 1e30f, 1.0f, 3e38f};
    Random random(kind);
    for (size_t i = 0; i < std::min(count, kMaxConstant); i++) {
      const float x = random.real() * magnitude[kind % 8];
      append(&constant.data, positive ? fabsf(x) + 1e-35f : x);
    }
    if (kind >= 248 && count > 0) {
      const float x = bytes_->any_float();
      memcpy(constant.data.data() + 4 * (random.next() % std::min(count, kMaxConstant)), &x, 4);
    }
    return tensor;
  }
  int add_words(const std::vector<int>& dims) {
    const int tensor = add_tensor(kTfLiteInt32, dims);
    size_t count = 1;
    for (int size : dims) count *= static_cast<size_t>(size);
    TensorSpec& constant = spec_.tensors[tensor];
    constant.constant = true;
    const int seed = bytes_->byte();
    Random random(seed);
    for (size_t i = 0; i < std::min(count, kMaxConstant); i++)
      append(&constant.data, seed == 0 ? 0u : seed == 1 ? ~0u : random.next());
    return tensor;
  }
  void add(const char* op, const std::vector<int>& inputs, const std::vector<int>& outputs,
           const FlexOptions& options) {
    NodeSpec node;
    node.op = op;
    node.inputs = inputs;
    node.outputs = outputs;
    spec_.nodes.push_back(node);
    options_.push_back(options);
    current_ = outputs[0];
  }

  const TensorSpec& now() const { return spec_.tensors[current_]; }
  std::vector<int> image_dims(int channels) {
    return {bytes_->choose({1, 1, 2, 3}), bytes_->choose({5, 1, 2, 3, 7, 9, 16}), bytes_->choose({4, 1, 3, 6, 11}),
            channels};
  }
  // The tensor at hand if it has the type and rank, else a new input.
  void need(TfLiteType type, int rank, const std::vector<int>& dims) {
    if (current_ >= 0 && bytes_->byte() % 8 != 7 && now().type == type &&
        (rank == 0 || static_cast<int>(now().dims.size()) == rank))
      return;
    current_ = add_tensor(type, dims);
    channels_ = type == kTfLiteInt32 ? 32 * dims.back() - bytes_->choose({0, 0, 0, 1, 31}) : dims.back();
  }

  void add_node() {
    switch (bytes_->byte() % 6) {
      case 0: return quantize();
      case 1: return dequantize();
      case 2: return convolve();
      case 3: return pool();
      case 4: return attend();
      case 5: return block();
    }
  }

  void quantize() {
    std::vector<int> dims = image_dims(bytes_->choose({32, 1, 31, 33, 64, 96, 100}));
    dims.erase(dims.begin(), dims.begin() + bytes_->choose({0, 0, 0, 1, 2, 3}));
    need(bytes_->choose({kTfLiteFloat32, kTfLiteFloat32, kTfLiteInt8, kTfLiteBool}), 0, dims);
    dims = now().dims;
    channels_ = dims.back();
    dims.back() = (dims.back() + 31) / 32;
    const int input = current_;
    add("LceQuantize", {input}, {add_tensor(kTfLiteInt32, dims)}, {});
  }

  void dequantize() {
    need(kTfLiteInt32, 0, image_dims(bytes_->choose({1, 2, 3})));
    std::vector<int> dims = now().dims;
    dims.back() = channels_;
    const int input = current_;
    const int output = add_tensor(bytes_->choose({kTfLiteFloat32, kTfLiteFloat32, kTfLiteInt8, kTfLiteBool}), dims);
    spec_.tensors[output].scale = bytes_->choose({1.0f, 0.5f, 0.01f, 1e-40f});
    add("LceDequantize", {input}, {output}, {});
  }

  void convolve() {
    need(kTfLiteInt32, 4, image_dims(bytes_->choose({1, 2, 3, 4, 6})));
    const std::vector<int> dims = now().dims;
    const int input = current_;
    int groups = bytes_->choose({1, 1, 1, 1, 2, 3, 4});
    if (dims[3] % groups != 0) groups = 1;
    if (groups > 1) channels_ = 32 * dims[3];
    const int outputs = groups * bytes_->choose({32, 1, 7, 16, 33, 64, 70});
    const int height = bytes_->choose({1, 1, 3, 2, 5}), width = bytes_->choose({1, 1, 3, 2, 4});
    const int64_t strides[] = {bytes_->choose({1, 1, 2, 3}), bytes_->choose({1, 1, 2, 5})};
    const int64_t dilations[] = {bytes_->choose({1, 1, 2, 3}), bytes_->choose({1, 1, 2})};
    const bool valid = bytes_->flag();
    const TfLiteType type = bytes_->choose({kTfLiteFloat32, kTfLiteInt32, kTfLiteInt8});
    FlexOptions options = {{"channels_in", flex_option(int64_t{channels_})},
                           {"stride_height", flex_option(strides[0])},
                           {"stride_width", flex_option(strides[1])},
                           {"dilation_height_factor", flex_option(dilations[0])},
                           {"dilation_width_factor", flex_option(dilations[1])},
                           {"padding", flex_option(int64_t{valid})},
                           {"pad_values", flex_option(int64_t{type == kTfLiteInt32 || bytes_->flag()})}};
    options["fused_activation_function"] = flex_option(int64_t{type == kTfLiteInt32 ? 0 : bytes_->byte() % 4});
    const auto side = [&](int size, int filter, int axis) {
      const int64_t extent = (filter - 1) * dilations[axis] + 1;
      const int64_t span = valid ? size - extent + 1 : size;
      return static_cast<int>(std::max<int64_t>(1, (span + strides[axis] - 1) / strides[axis]));
    };
    const std::vector<int> result = {dims[0], side(dims[1], height, 0), side(dims[2], width, 1),
                                     type == kTfLiteInt32 ? (outputs + 31) / 32 : outputs};
    const int filter = add_words({outputs, height, width, dims[3] / groups});
    const int multiplier = type == kTfLiteInt32 ? -1 : add_floats(outputs);
    const int bias = type == kTfLiteInt32 ? -1 : add_floats(outputs);
    const int threshold = type == kTfLiteInt32 ? add_words({outputs}) : -1;
    const int output = add_tensor(type, result);
    spec_.tensors[output].scale = bytes_->choose({1.0f, 0.1f, 1e-38f});
    add("LceBconv2d", {input, filter, multiplier, bias, threshold}, {output}, options);
    channels_ = outputs;
  }

  void pool() {
    need(kTfLiteInt32, 4, image_dims(bytes_->choose({1, 2, 3, 5})));
    const int input = current_;
    const int64_t window[] = {bytes_->choose({2, 1, 3, 5}), bytes_->choose({2, 1, 3, 4})};
    const int64_t stride[] = {bytes_->choose({1, 2, 3}), bytes_->choose({1, 2, 3})};
    FlexOptions options = {{"padding", flex_option(int64_t{bytes_->flag()})},
                           {"filter_height", flex_option(window[0])},
                           {"filter_width", flex_option(window[1])},
                           {"stride_height", flex_option(stride[0])},
                           {"stride_width", flex_option(stride[1])}};
    std::vector<int> dims = now().dims;
    dims[1] = static_cast<int>((dims[1] + stride[0] - 1) / stride[0]);
    dims[2] = static_cast<int>((dims[2] + stride[1] - 1) / stride[1]);
    add("LceBMaxPool2d", {input}, {add_tensor(kTfLiteInt32, dims)}, options);
  }

  void attend() {
    const int heads = bytes_->choose({1, 2, 3, 6});
    int head_words = bytes_->choose({1, 2, 3, 4, 7, 5, 8});  // the last is too wide
    int queries = bytes_->choose({5, 1, 15, 16, 17, 40});
    int keys = bytes_->choose({31, 1, 5, 32, 33, 64, 65, 100, 257, 300});
    // What the tiles and the widths of counters do not hold.
    const int extreme = bytes_->byte();
    if (extreme == 255) keys = 16500, queries = 2, head_words = 1;
    if (extreme == 254) keys = 4200, queries = 2, head_words = 1;
    if (extreme == 253) keys = 3, queries = 2, head_words = 2100;  // likewise
    const int words = heads * head_words;
    const bool square = bytes_->byte() % 4 == 0;
    if (square) keys = queries;
    need(kTfLiteInt32, 0, {queries, words});
    std::vector<int> dims = now().dims;
    const int query = current_;
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < dims.size(); i++) rows *= dims[i];
    const int c = dims.back();
    const int real_heads = c % heads == 0 ? heads : 1;
    const auto shape = [&](int count) {
      if (count != rows) return bytes_->flag() ? std::vector<int>{1, count, c} : std::vector<int>{count, c};
      return dims;
    };
    if (square) keys = static_cast<int>(rows);
    const int key = square && bytes_->flag() ? query : add_tensor(kTfLiteInt32, shape(keys));
    const int value = square && bytes_->flag() ? query : add_tensor(kTfLiteInt32, shape(keys));
    struct {
      bool key_bias, dynamic;
    } options;
    options.key_bias = bytes_->byte() % 3 == 1;
    options.dynamic = bytes_->byte() % 3 == 1;
    FlexOptions written = {{"version", flex_option(kContractVersion)},
                           {"heads", flex_option(int64_t{real_heads})},
                           {"rule", flex_option(int64_t{bytes_->byte() % kRules})},
                           {"ratio", flex_option(static_cast<double>(bytes_->choose({0.5f, 0.0f, 1.0f, 2.0f, -1.0f})))},
                           {"key_bias", flex_option(options.key_bias)},
                           {"dynamic", flex_option(options.dynamic)}};
    const size_t channels = kWordBits * static_cast<size_t>(c);
    std::vector<int> inputs = {query, key, value};
    {
      const size_t heads = real_heads, queries = rows;
      const auto is_scale = [](const std::string& name) {
        return name == "score_scale" || name == "probability_scale";
      };
#define ACDBIT_CONSTANT(name, length, given) \
  if (given) inputs.push_back(add_floats(length, is_scale(#name)));
#define ACDBIT_STATISTIC(name, length, given) \
  if (given) inputs.push_back(add_tensor(kTfLiteFloat32, {static_cast<int>(length)}));
      ACDBIT_ATTENTION_CONSTANTS(ACDBIT_CONSTANT)
      ACDBIT_ATTENTION_STATISTICS(ACDBIT_STATISTIC)
#undef ACDBIT_CONSTANT
#undef ACDBIT_STATISTIC
    }
    dims.back() = static_cast<int>(channels);
    std::vector<int> outputs = {add_tensor(kTfLiteFloat32, dims)};
    if (bytes_->flag())
      outputs.push_back(
          add_tensor(kTfLiteInt32, {real_heads, static_cast<int>(rows), (keys + kWordBits - 1) / kWordBits}));
    add(kAttentionName, inputs, outputs, written);
  }

  void block() {
    const int heads = bytes_->choose({1, 2, 3});
    std::vector<int> dims = image_dims(heads * 32 * bytes_->choose({1, 2, 3}));
    need(kTfLiteFloat32, 4, dims);
    dims = now().dims;
    const int input = current_;
    BlockOptions block = {};
    block.heads = dims[3] % (heads * 32) == 0 ? heads : 1;
    block.mlp_ratio = bytes_->choose({2, 1, 3, 4});
    block.rule = static_cast<Rule>(bytes_->byte() % kRules);
    block.ratio = bytes_->choose({0.5f, 0.0f, 2.0f});
    block.key_bias = bytes_->flag();
    block.branches = static_cast<Branches>(bytes_->byte() % kBranches);
    block.dynamic_activation = bytes_->flag();
    block.dynamic_hidden = bytes_->flag();
    block.dynamic_attention = bytes_->flag();
    size_t vectors = 1, words = 1, taps = 1;
    block_sizes(block, dims[3], dims[1], dims[2], &vectors, &words, &taps);
    const FlexOptions options = {{"version", flex_option(kContractVersion)},
                                 {"heads", flex_option(int64_t{block.heads})},
                                 {"mlp_ratio", flex_option(int64_t{block.mlp_ratio})},
                                 {"rule", flex_option(static_cast<int64_t>(block.rule))},
                                 {"ratio", flex_option(static_cast<double>(block.ratio))},
                                 {"key_bias", flex_option(block.key_bias)},
                                 {"branches", flex_option(static_cast<int64_t>(block.branches))},
                                 {"dynamic_activation", flex_option(block.dynamic_activation)},
                                 {"dynamic_hidden", flex_option(block.dynamic_hidden)},
                                 {"dynamic_attention", flex_option(block.dynamic_attention)}};
    const std::vector<int> inputs = {input, add_words({static_cast<int>(words)}), add_floats(vectors, bytes_->flag())};
    std::vector<int> outputs = {add_tensor(kTfLiteFloat32, dims)};
    if (bytes_->flag()) outputs.push_back(add_tensor(kTfLiteInt32, {static_cast<int>(taps) * dims[0]}));
    add(kBlockName, inputs, outputs, options);
  }

  // --- Damage

  int any_index() { return static_cast<int>(bytes_->any_integer()); }
  void damage_index(std::vector<int>* indices) {
    switch (bytes_->byte() % 4) {
      case 0: indices->push_back(any_index()); return;
      case 1:
        if (!indices->empty()) indices->pop_back();
        return;
      case 2:
        if (!indices->empty()) (*indices)[bytes_->byte() % indices->size()] = -1;
        return;
      case 3:
        if (!indices->empty())
          (*indices)[bytes_->byte() % indices->size()] =
              bytes_->byte() % 4 == 0 ? any_index() : bytes_->byte() % static_cast<int>(spec_.tensors.size());
        return;
    }
  }

  void damage_one() {
    TensorSpec& tensor = spec_.tensors[bytes_->byte() % spec_.tensors.size()];
    const size_t index = bytes_->byte() % spec_.nodes.size();
    NodeSpec& node = spec_.nodes[index];
    FlexOptions& options = options_[index];
    auto option = options.begin();
    if (!options.empty()) std::advance(option, bytes_->byte() % options.size());
    switch (bytes_->byte() % 16) {
      case 0: tensor.type = static_cast<TfLiteType>(bytes_->choose({0, 1, 2, 3, 4, 6, 9, 10})); return;
      case 1:
        if (!tensor.dims.empty()) tensor.dims[bytes_->byte() % tensor.dims.size()] = any_index();
        return;
      case 2:
        if (bytes_->flag() || tensor.dims.empty())
          tensor.dims.insert(tensor.dims.begin(), bytes_->choose({1, 1, 2, 0}));
        else
          tensor.dims.erase(tensor.dims.begin());
        return;
      case 3: tensor.constant = !tensor.constant; return;
      case 4: tensor.data.resize(bytes_->flag() ? tensor.data.size() / 2 : tensor.data.size() + 4); return;
      case 5: tensor.misaligned = true; return;
      case 6: return damage_index(&node.inputs);
      case 7: return damage_index(&node.outputs);
      case 8: tensor.scale = bytes_->any_float(); return;
      case 9: tensor.zero_point = any_index(); return;
      case 10: node.version = any_index(); return;
      case 11: tensor.variable = true; return;
      case 12: node.op = bytes_->choose({"LceBconv2d", "LceBMaxPool2d", kBlockName, "LceQuantize", "Other"}); return;
      case 13:
        if (tensor.constant && tensor.data.size() >= 4) {
          const float x = bytes_->any_float();
          memcpy(tensor.data.data() + bytes_->byte() % (tensor.data.size() / 4) * 4, &x, 4);
        }
        return;
      default:
        if (options.empty()) return;
        switch (bytes_->byte() % 8) {
          case 0: options.erase(option); return;
          case 1: option->second = flex_option(static_cast<double>(bytes_->any_float())); return;
          case 2: option->second.type = static_cast<FlexOption::Type>(bytes_->byte() % 64); return;
          default: option->second.integer = bytes_->any_integer(); return;
        }
    }
  }

  void damage_options() {
    std::vector<uint8_t>& options = spec_.nodes[bytes_->byte() % spec_.nodes.size()].options;
    if (bytes_->byte() % 4 == 0) options.resize(bytes_->byte() % (options.size() + 1));
    for (int i = bytes_->byte() % 4; i > 0 && !options.empty(); i--) {
      const int place = bytes_->byte();
      options[options.size() - 1 - place % options.size()] = static_cast<uint8_t>(bytes_->byte());
    }
  }

  Bytes* bytes_;
  GraphSpec spec_;
  std::vector<FlexOptions> options_;
  int current_ = -1;
  int channels_ = 0;  // of bits
};

// === Running ===

[[noreturn]] void finding(const char* what, const std::string& detail) {
  fprintf(stderr, "finding: %s\n%s\n", what, detail.c_str());
  abort();
}

// Delegates are kept: threads take long to start under a sanitizer.
void* delegate_for(const std::string& kernels, const std::string& threads) {
  static auto* const delegates = new std::map<std::string, void*>;
  void*& delegate = (*delegates)[kernels + "/" + threads];
  if (delegate == nullptr) {
    const char* keys[] = {"kernels", "num_threads"};
    const char* values[] = {kernels.c_str(), threads.c_str()};
    delegate = tflite_plugin_create_delegate(keys, values, 2, nullptr);
  }
  return delegate;
}

struct Scenario {
  GraphSpec spec;
  int seed;
  int resized = -1;
  std::vector<int> new_dims;
  int failing = -1;  // allocation
};

struct Outcome {
  bool ok;
  std::vector<std::vector<uint8_t>> outputs;
};

void fill(Graph* graph, size_t tensors, int seed) {
  for (size_t i = 0; i < tensors; i++) {
    TfLiteTensor& tensor = graph->tensor(static_cast<int>(i));
    if (!graph->has_memory(static_cast<int>(i)) || graph->written(static_cast<int>(i))) continue;
    Random random(seed + static_cast<int>(i));
    uint8_t* bytes = static_cast<uint8_t*>(tensor.data);
    if (tensor.type == kTfLiteFloat32) {
      for (size_t k = 0; k < tensor.bytes / 4; k++) {
        const float x = random.real() * (seed % 16 == 15 ? 1e30f : 2.0f);
        memcpy(bytes + 4 * k, &x, 4);
      }
      if (seed >= 240 && tensor.bytes >= 4) {
        const float x = seed % 2 == 0 ? INFINITY : std::numeric_limits<float>::quiet_NaN();
        memcpy(bytes + random.next() % (tensor.bytes / 4) * 4, &x, 4);
      }
    } else {
      for (size_t k = 0; k < tensor.bytes; k++) bytes[k] = static_cast<uint8_t>(random.next() >> 8);
    }
  }
}

void check_told(bool ok, const Graph& graph, const char* stage) {
  if (!ok && graph.errors().empty()) finding("an error without a sentence", stage);
}

Outcome run(const Scenario& scenario, void* delegate, int threads) {
  Outcome outcome = {};
  Graph graph(scenario.spec, threads);
  const size_t tensors = scenario.spec.tensors.size();
  const auto attempt = [&] {
    bool ok = graph.allocate();
    check_told(ok, graph, "allocate");
    if (!ok) return false;
    fill(&graph, tensors, scenario.seed);
    ok = graph.invoke();
    check_told(ok, graph, "invoke");
    return ok;
  };
  fail_allocation(scenario.failing);
  bool ok = graph.apply(delegate);
  check_told(ok, graph, "apply");
  if (!ok) return fail_allocation(-1), outcome;
  ok = attempt();
  fail_allocation(-1);
  if (scenario.failing >= 0) ok = attempt();
  if (scenario.resized >= 0 && graph.resize(scenario.resized, scenario.new_dims)) ok = attempt();
  outcome.ok = ok;
  for (size_t i = 0; i < tensors && ok; i++) {
    if (!graph.has_memory(static_cast<int>(i)) || !graph.written(static_cast<int>(i))) continue;
    const TfLiteTensor& tensor = graph.tensor(static_cast<int>(i));
    std::vector<uint8_t> bytes(static_cast<uint8_t*>(tensor.data), static_cast<uint8_t*>(tensor.data) + tensor.bytes);
    // What NaN an operation yields is the CPU's to choose.
    for (size_t k = 0; tensor.type == kTfLiteFloat32 && k < bytes.size(); k += 4) {
      float x;
      memcpy(&x, bytes.data() + k, 4);
      if (isnan(x)) memset(bytes.data() + k, 255, 4);
    }
    outcome.outputs.push_back(bytes);
  }
  return outcome;
}

void run_graph(Bytes bytes) {
  const int how = bytes.byte();
  Scenario scenario;
  scenario.seed = bytes.byte();
  const int resize = bytes.byte();
  const int failing = bytes.byte();
  if (failing >= 208) scenario.failing = failing - 208;
  scenario.spec = Builder(&bytes).build();
  if (resize >= 128) {
    std::vector<int> candidates;
    for (size_t i = 0; i < scenario.spec.tensors.size(); i++) {
      const TensorSpec& tensor = scenario.spec.tensors[i];
      if (!tensor.constant && !tensor.dims.empty()) candidates.push_back(static_cast<int>(i));
    }
    if (!candidates.empty()) {
      scenario.resized = candidates[bytes.byte() % candidates.size()];
      scenario.new_dims = scenario.spec.tensors[scenario.resized].dims;
      int& size = scenario.new_dims[resize < 224 ? 0 : bytes.byte() % scenario.new_dims.size()];
      size = bytes.choose({2 * std::clamp(size, -1, 1 << 20), 3, 1, 0, size, 70});
    }
  }
  const SupportedKernels kernels = supported_kernels();
  const std::string first = kernels.kernels[how % kernels.count]->name;
  const std::string threads = how & 64 ? "3" : "1";
  if (how >= 240) {
    // A delegate of its own.
    void* delegate = tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr);
    run(scenario, delegate, 2);
    tflite_plugin_destroy_delegate(delegate);
    return;
  }
  const Outcome outcome = run(scenario, delegate_for(first, threads), 1);
  if (!outcome.ok || !(how & 128)) return;
  scenario.failing = -1;
  const std::string second = kernels.kernels[(how + 1 + how / 16) % kernels.count]->name;
  const Outcome other = run(scenario, delegate_for(second, "2"), 1);
  if (outcome.outputs != other.outputs) finding("different results", first + "/" + threads + " and " + second + "/2");
}

// === Options ===

void read_options(Bytes bytes) {
  const std::vector<uint8_t> copy(bytes.data, bytes.data + bytes.size);
  FlexMap map;
  if (!flex_open(copy.data(), copy.size(), &map)) return;
  for (const char* key : {"a", "b", "c", "d", "rule", "heads", "ratio", ""}) {
    int64_t integer;
    double real;
    bool flag;
    const char* text;
    size_t length;
    flex_int(map, key, &integer);
    flex_float(map, key, &real);
    flex_bool(map, key, &flag);
    if (flex_string(map, key, &text, &length) != FlexFound::kFound) continue;
    const uint8_t* start = reinterpret_cast<const uint8_t*>(text);
    if (start < copy.data() || length > copy.size() || start + length > copy.data() + copy.size())
      finding("a string outside its buffer", key);
  }
}

}  // namespace
}  // namespace acdbit

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  acdbit::Bytes bytes = {data, size};
  if (bytes.byte() >= 240)
    acdbit::read_options(bytes);
  else
    acdbit::run_graph(bytes);
  return 0;
}
