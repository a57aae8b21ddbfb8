// The delegate in a graph without TFLite: allocations that fail, interpreters in several threads, changing batches, and
// errors that say where and why.
#include <gtest/gtest.h>
#include <sched.h>
#include <string.h>

#include <string>
#include <thread>
#include <vector>

#include "acdbit_runtime.h"
#include "allocations.h"
#include "block.h"
#include "flexbuffer_writer.h"
#include "graph.h"
#include "pool.h"

namespace acdbit {
namespace {

uint32_t next(uint32_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

struct Model {
  GraphSpec spec;
  uint32_t state = 12345;

  int add(TfLiteType type, const std::vector<int>& dims) {
    spec.tensors.emplace_back();
    spec.tensors.back().type = type;
    spec.tensors.back().dims = dims;
    return static_cast<int>(spec.tensors.size()) - 1;
  }
  int add_constant(TfLiteType type, const std::vector<int>& dims) {
    const int tensor = add(type, dims);
    TensorSpec& constant = spec.tensors[tensor];
    constant.constant = true;
    size_t count = 1;
    for (int size : dims) count *= static_cast<size_t>(size);
    constant.data.resize(4 * count);
    for (size_t i = 0; i < count; i++) {
      const float x = 0.01f + static_cast<float>(next(&state) >> 8) / 16777216.0f;
      const uint32_t word = next(&state);
      memcpy(constant.data.data() + 4 * i, type == kTfLiteFloat32 ? static_cast<const void*>(&x) : &word, 4);
    }
    return tensor;
  }
  void add_node(const char* op, const std::vector<int>& inputs, const std::vector<int>& outputs,
                const FlexOptions& options) {
    NodeSpec node;
    node.op = op;
    node.inputs = inputs;
    node.outputs = outputs;
    node.options = write_flexbuffer(options);
    spec.nodes.push_back(node);
  }
};

// The models of which every test takes all three are large enough for several threads.

// float image (tensor 0) -> bits -> convolution -> bits -> pooling -> -1 and +1.
Model convolution() {
  Model model;
  const int image = model.add(kTfLiteFloat32, {1, 32, 32, 128});
  const int bits = model.add(kTfLiteInt32, {1, 32, 32, 4});
  model.add_node("LceQuantize", {image}, {bits}, {});
  const int filter = model.add_constant(kTfLiteInt32, {128, 3, 3, 4});
  const int multiplier = model.add_constant(kTfLiteFloat32, {128}), bias = model.add_constant(kTfLiteFloat32, {128});
  const int features = model.add(kTfLiteFloat32, {1, 32, 32, 128});
  FlexOptions options = {{"channels_in", flex_option(int64_t{128})}, {"padding", flex_option(int64_t{0})}};
  for (const char* key : {"stride_height", "stride_width", "dilation_height_factor", "dilation_width_factor"})
    options[key] = flex_option(int64_t{1});
  for (const char* key : {"pad_values", "fused_activation_function"}) options[key] = flex_option(int64_t{0});
  model.add_node("LceBconv2d", {bits, filter, multiplier, bias, -1}, {features}, options);
  const int packed = model.add(kTfLiteInt32, {1, 32, 32, 4});
  model.add_node("LceQuantize", {features}, {packed}, {});
  const int pooled = model.add(kTfLiteInt32, {1, 16, 16, 4});
  options = {{"padding", flex_option(int64_t{1})}};
  for (const char* key : {"stride_height", "stride_width", "filter_height", "filter_width"})
    options[key] = flex_option(int64_t{2});
  model.add_node("LceBMaxPool2d", {packed}, {pooled}, options);
  const int signs = model.add(kTfLiteFloat32, {1, 16, 16, 128});
  model.add_node("LceDequantize", {pooled}, {signs}, {});
  model.spec.outputs = {features, signs};
  return model;
}

// Self-attention.
Model attention_of(int heads, int head_dim, int num_tokens) {
  Model model;
  const int channels = heads * head_dim;
  const int tokens = model.add(kTfLiteFloat32, {1, num_tokens, channels});
  const int bits = model.add(kTfLiteInt32, {1, num_tokens, channels / kWordBits});
  model.add_node("LceQuantize", {tokens}, {bits}, {});
  struct {
    bool key_bias = true;
  } options;
  std::vector<int> inputs;
#define ACDBIT_BITS(name, rows) inputs.push_back(bits);
#define ACDBIT_CONSTANT(name, length, given) \
  if (given) inputs.push_back(model.add_constant(kTfLiteFloat32, {length}));
  ACDBIT_ATTENTION_BITS(ACDBIT_BITS)
  ACDBIT_ATTENTION_CONSTANTS(ACDBIT_CONSTANT)
#undef ACDBIT_BITS
#undef ACDBIT_CONSTANT
  const int context = model.add(kTfLiteFloat32, {1, num_tokens, channels});
  model.add_node(kAttentionName, inputs, {context},
                 {{"version", flex_option(kContractVersion)},
                  {"heads", flex_option(int64_t{heads})},
                  {"rule", flex_option(int64_t{0})},
                  {"ratio", flex_option(0.0)},
                  {"key_bias", flex_option(options.key_bias)},
                  {"dynamic", flex_option(false)}});
  model.spec.outputs = {context};
  return model;
}

Model attention() { return attention_of(2, 64, 512); }

Model block_of(int heads, int head_dim, int height, int width) {
  Model model;
  const int channels = heads * head_dim;
  BlockOptions options = {};
  options.heads = heads;
  options.mlp_ratio = 2;
  options.branches = Branches::kPooling;
  options.dynamic_attention = true;
  size_t vectors = 1, words = 1, taps;
  EXPECT_EQ(block_sizes(options, channels, height, width, &vectors, &words, &taps), head_dim <= kMaxHeadDim);
  const int input = model.add(kTfLiteFloat32, {1, height, width, channels});
  const int kernels = model.add_constant(kTfLiteInt32, {static_cast<int>(words)});
  const int constants = model.add_constant(kTfLiteFloat32, {static_cast<int>(vectors)});
  const int output = model.add(kTfLiteFloat32, {1, height, width, channels});
  FlexOptions written = {{"version", flex_option(kContractVersion)},
                         {"heads", flex_option(int64_t{options.heads})},
                         {"mlp_ratio", flex_option(int64_t{options.mlp_ratio})},
                         {"rule", flex_option(int64_t{0})},
                         {"ratio", flex_option(0.0)}};
  for (const char* key : {"key_bias", "dynamic_activation", "dynamic_hidden"}) written[key] = flex_option(false);
  for (const char* key : {"branches", "dynamic_attention"}) written[key] = flex_option(true);
  model.add_node(kBlockName, {input, kernels, constants}, {output}, written);
  model.spec.outputs = {output};
  return model;
}

// As many tokens as DeiT-S.
Model block() { return block_of(4, 32, 14, 14); }

void* create_delegate() { return tflite_plugin_create_delegate(nullptr, nullptr, 0, nullptr); }

// Runs one image repeated along the batch; the bytes of all outputs, image after image.
std::vector<std::string> run(Graph* graph, const GraphSpec& spec) {
  TfLiteTensor& input = graph->tensor(0);
  const int images = input.dims->data[0];
  const size_t count = input.bytes / sizeof(float) / static_cast<size_t>(images);
  for (int image = 0; image < images; image++) {
    uint32_t state = 99;
    for (size_t i = 0; i < count; i++)
      static_cast<float*>(input.data)[image * count + i] = static_cast<float>(next(&state)) / 2147483648.0f - 1.0f;
  }
  EXPECT_TRUE(graph->invoke()) << graph->errors();
  std::vector<std::string> results;
  for (int image = 0; image < images; image++) {
    std::string result;
    for (int output : spec.outputs) {
      const TfLiteTensor& tensor = graph->tensor(output);
      const size_t bytes = tensor.bytes / static_cast<size_t>(images);
      result.append(static_cast<const char*>(tensor.data) + image * bytes, bytes);
    }
    results.push_back(result);
  }
  return results;
}

std::string expected(const GraphSpec& spec) {
  void* delegate = create_delegate();
  std::string result;
  {
    Graph graph(spec, 1);
    EXPECT_TRUE(graph.apply(delegate) && graph.allocate()) << graph.errors();
    result = run(&graph, spec)[0];
  }
  tflite_plugin_destroy_delegate(delegate);
  return result;
}

class Delegate : public testing::TestWithParam<Model (*)()> {};
INSTANTIATE_TEST_SUITE_P(Models, Delegate, testing::Values(convolution, attention, block));

// Each allocation fails once: one sentence, and the same graph works when memory is back.
TEST_P(Delegate, SurvivesEveryFailingAllocation) {
  const GraphSpec spec = GetParam()().spec;
  const std::string wanted = expected(spec);
  int failures = 0;
  for (int position = 0;; position++) {
    ASSERT_LT(position, 200);
    fail_allocation(position);
    void* delegate = create_delegate();
    const bool created = delegate != nullptr;
    if (!created) {
      fail_allocation(-1);
      EXPECT_NE(std::string(acdbit_last_error()).find("out of memory"), std::string::npos) << acdbit_last_error();
      delegate = create_delegate();
    }
    bool failed;
    {
      Graph graph(spec, 2);
      const bool applied = graph.apply(delegate);
      bool ok = applied && graph.allocate();
      failed = allocation_failed() || !created;
      fail_allocation(-1);
      if (created) {
        EXPECT_EQ(ok, !failed) << "allocation " << position;
      }
      if (!ok) {
        EXPECT_NE(graph.errors().find("out of memory"), std::string::npos) << graph.errors();
        Graph again(spec, 2);
        ASSERT_TRUE(again.apply(delegate) && again.allocate()) << again.errors();
        EXPECT_EQ(run(&again, spec)[0], wanted);
        // A graph whose kernels could not even be set up stays without.
        ok = applied && graph.allocate();
      }
      if (ok) {
        EXPECT_EQ(run(&graph, spec)[0], wanted) << "allocation " << position;
      }
    }
    tflite_plugin_destroy_delegate(delegate);
    if (!failed) break;
    failures++;
  }
  EXPECT_GT(failures, 5);
}

TEST_P(Delegate, FollowsTheBatch) {
  const GraphSpec spec = GetParam()().spec;
  const std::string wanted = expected(spec);
  void* delegate = create_delegate();
  {
    Graph graph(spec, 2);
    ASSERT_TRUE(graph.apply(delegate));
    for (int images : {1, 3, 2, 1, 7}) {
      std::vector<int> dims = spec.tensors[0].dims;
      dims[0] = images;
      ASSERT_TRUE(graph.resize(0, dims) && graph.allocate()) << graph.errors();
      for (const std::string& result : run(&graph, spec)) EXPECT_EQ(result, wanted);
    }
    std::vector<int> dims = spec.tensors[0].dims;
    dims[0] = 0;
    ASSERT_TRUE(graph.resize(0, dims));
    EXPECT_FALSE(graph.allocate());
    EXPECT_NE(graph.errors().find("node 0"), std::string::npos) << graph.errors();
    EXPECT_NE(graph.errors().find("is empty"), std::string::npos) << graph.errors();
  }
  tflite_plugin_destroy_delegate(delegate);
}

// With a delegate each, and with one for all.
TEST_P(Delegate, RunsInSeveralThreads) {
  const GraphSpec spec = GetParam()().spec;
  const std::string wanted = expected(spec);
  void* shared = create_delegate();
  std::vector<std::thread> users;
  for (int user = 0; user < 4; user++) {
    users.emplace_back([&, user] {
      void* own = create_delegate();
      {
        Graph graph(spec, 1 + user);
        ASSERT_TRUE(graph.apply(user % 2 == 0 ? own : shared) && graph.allocate()) << graph.errors();
        for (int round = 0; round < 10; round++) EXPECT_EQ(run(&graph, spec)[0], wanted);
      }
      tflite_plugin_destroy_delegate(own);
    });
  }
  for (std::thread& user : users) user.join();
  tflite_plugin_destroy_delegate(shared);
}

// Regions that an inference hands to its threads, and those that it does alone, for a batch.
struct Regions {
  int64_t shared, alone;
};

Regions regions(const GraphSpec& spec, int threads, int images) {
  void* delegate = create_delegate();
  Regions result = {};
  {
    Graph graph(spec, threads);
    std::vector<int> dims = spec.tensors[0].dims;
    dims[0] = images;
    EXPECT_TRUE(graph.apply(delegate) && graph.resize(0, dims) && graph.allocate()) << graph.errors();
    const PoolCounts before = pool_counts();
    run(&graph, spec);
    const PoolCounts after = pool_counts();
    result = {after.regions - before.regions, after.alone - before.alone};
  }
  tflite_plugin_destroy_delegate(delegate);
  return result;
}

// Four stages of a block, two of an attention; an image for each thread, or several, is one region, and what remains of
// the batch has the stages of one image.
TEST(Threads, RegionsDoNotGrowWithTheBatch) {
  struct Case {
    Model model;
    int stages;
  };
  for (const Case& each : {Case{block(), 4}, Case{attention(), 2}}) {
    const auto count = [&](int threads, int images) {
      const Regions found = regions(each.model.spec, threads, images);
      return static_cast<int>(found.shared + found.alone) - (each.stages == 2);  // less LceQuantize
    };
    for (int threads : {2, 3, 4}) {
      EXPECT_EQ(count(threads, 1), each.stages);
      EXPECT_EQ(count(threads, threads), 1);
      EXPECT_EQ(count(threads, 5 * threads), 1);
      EXPECT_EQ(count(threads, 5 * threads + 1), 1 + each.stages);
      EXPECT_EQ(count(threads, threads - 1), each.stages);
    }
    EXPECT_EQ(count(1, 7), 1);
  }
}

// The stages of a block are shared where they are long enough and threads may spin between them, which they do not on a
// single processor; a block that is over before a thread has woken up is not.
TEST(Threads, SmallModelsWakeNobody) {
  cpu_set_t processors;
  ASSERT_EQ(sched_getaffinity(0, sizeof processors, &processors), 0);
  EXPECT_EQ(regions(block().spec, 2, 1).shared, CPU_COUNT(&processors) > 1 ? 4 : 0);
  const PoolCounts before = pool_counts();
  for (int threads : {2, 4}) {
    EXPECT_EQ(regions(block_of(2, 32, 4, 4).spec, threads, 1).shared, 0);
    EXPECT_EQ(regions(attention_of(2, 32, 16).spec, threads, 1).shared, 0);
  }
  EXPECT_EQ(pool_counts().wakes, before.wakes);
}

// Asked never to spin, an inference wakes threads for the regions alone that are worth it, and computes the same.
TEST(Threads, SpinningCanBeSwitchedOff) {
  const char* const keys[] = {"spin"};
  const char* const values[] = {"false"};
  void* delegate = tflite_plugin_create_delegate(keys, values, 1, nullptr);
  ASSERT_NE(delegate, nullptr);
  {
    const GraphSpec spec = block().spec;
    Graph graph(spec, 2);
    ASSERT_TRUE(graph.apply(delegate) && graph.allocate()) << graph.errors();
    const std::string wanted = expected(spec);
    const PoolCounts before = pool_counts();
    EXPECT_EQ(run(&graph, spec)[0], wanted);
    EXPECT_LT(pool_counts().regions - before.regions, 4);
  }
  tflite_plugin_destroy_delegate(delegate);
  const char* const others[] = {"sometimes"};
  EXPECT_EQ(tflite_plugin_create_delegate(keys, others, 1, nullptr), nullptr);
  EXPECT_STREQ(acdbit_last_error(), "the option spin must be true or false, got sometimes");
}

std::string error_of(const GraphSpec& spec) {
  void* delegate = create_delegate();
  std::string errors;
  {
    Graph graph(spec, 1);
    EXPECT_FALSE(graph.apply(delegate) && graph.allocate());
    errors = graph.errors();
  }
  tflite_plugin_destroy_delegate(delegate);
  return errors;
}

TEST(Refusal, MissingOutputs) {
  const GraphSpec whole = convolution().spec;
  for (size_t i = 0; i < whole.nodes.size(); i++) {
    GraphSpec spec = whole;
    spec.nodes[i].outputs[0] = -1;
    EXPECT_NE(error_of(spec).find("node " + std::to_string(i)), std::string::npos) << error_of(spec);
    EXPECT_NE(error_of(spec).find("output 0 is missing"), std::string::npos) << error_of(spec);
  }
}

TEST(Refusal, TooWideHeads) {
  for (int head_dim : {kMaxHeadDim + kWordBits, 67200}) {
    const std::string sentence = "its heads have " + std::to_string(head_dim) + " channels, at most " +
                                 std::to_string(kMaxHeadDim) + " are supported";
    for (const Model& model : {attention_of(1, head_dim, 40), block_of(1, head_dim, 5, 6)})
      EXPECT_NE(error_of(model.spec).find(sentence), std::string::npos) << error_of(model.spec);
  }
  for (const Model& model : {attention_of(1, kMaxHeadDim, 40), block_of(1, kMaxHeadDim, 5, 6)})
    EXPECT_FALSE(expected(model.spec).empty());
}

// A pooling window and a stride far larger than the image are one window.
TEST(Extremes, HugePoolingWindow) {
  Model model;
  const int bits = model.add(kTfLiteInt32, {1, 30, 30, 1}), pooled = model.add(kTfLiteInt32, {1, 1, 1, 1});
  FlexOptions options = {{"padding", flex_option(int64_t{0})}};
  for (const char* key : {"stride_height", "stride_width", "filter_height", "filter_width"})
    options[key] = flex_option((int64_t{1} << 30) - 1);
  model.add_node("LceBMaxPool2d", {bits}, {pooled}, options);
  model.spec.outputs = {pooled};
  void* delegate = create_delegate();
  {
    Graph graph(model.spec, 2);
    ASSERT_TRUE(graph.apply(delegate) && graph.allocate()) << graph.errors();
    memset(graph.tensor(bits).data, 0xff, graph.tensor(bits).bytes);
    static_cast<uint32_t*>(graph.tensor(bits).data)[899] = 0x7ffffffe;
    ASSERT_TRUE(graph.invoke());
    EXPECT_EQ(*static_cast<uint32_t*>(graph.tensor(pooled).data), 0x7ffffffeu);
  }
  tflite_plugin_destroy_delegate(delegate);
}

}  // namespace
}  // namespace acdbit
