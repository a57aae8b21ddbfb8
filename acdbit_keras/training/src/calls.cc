#include "calls.h"

#include "block.h"

namespace acdbit {
namespace {

enum ForwardInput { kX, kKeep, kKernels, kVectors, kStatistics, kForwardOptions };
enum BackwardInput {
  kGrad,
  kGradQuery,
  kGradKey,
  kGradValue,
  kBackX,
  kBackKeep,
  kBackKernels,
  kBackVectors,
  kBackQuery,
  kBackKey,
  kBackValue,
  kSaved,
  kBackwardOptions
};

const char* SetLayout(const Array& x, const Array& options, Layout* layout, Options* parsed) {
  if (options.size() != kOptionCount) return "the options have another length than this library knows";
  if (x.shape.size() != 4) return "the block's input is not (batch, height, width, channels)";
  *parsed = ParseOptions(options.data);
  return layout->Set({x.shape[0], x.shape[1], x.shape[2], x.shape[3]}, *parsed);
}

// Whether every array has the length that the layout gives it.
bool Fit(const Arrays& arrays, const std::vector<std::pair<int, size_t>>& lengths) {
  for (const auto& [index, length] : lengths) {
    if (static_cast<size_t>(arrays[index].size()) != length) return false;
  }
  return true;
}

size_t Size(int64_t length) { return static_cast<size_t>(length); }

const char* ForwardShapes(const Arrays& in, Shapes* out) {
  Layout layout;
  Options options;
  if (const char* wrong = SetLayout(in[kX], in[kForwardOptions], &layout, &options)) return wrong;
  if (!Fit(in, {{kKeep, Size(2 * layout.images)},
                {kKernels, layout.kernels},
                {kVectors, layout.vectors},
                {kStatistics, layout.statistics}})) {
    return "the parameters are not those of a block of this size";
  }
  const auto& shape = in[kX].shape;
  *out = {shape, shape, shape, shape, {static_cast<int64_t>(layout.statistics)}, {static_cast<int64_t>(layout.saved)}};
  return nullptr;
}

void RunForward(const Arrays& in, const std::vector<float*>& out) {
  Layout layout;
  Options options;
  SetLayout(in[kX], in[kForwardOptions], &layout, &options);
  BestKernels().forward(layout, options,
                        {in[kX].data, in[kKeep].data, in[kKernels].data, in[kVectors].data, in[kStatistics].data,
                         out[0], out[1], out[2], out[3], out[4], out[5]});
}

const char* BackwardShapes(const Arrays& in, Shapes* out) {
  Layout layout;
  Options options;
  if (const char* wrong = SetLayout(in[kBackX], in[kBackwardOptions], &layout, &options)) return wrong;
  const size_t all = Size(layout.rows * layout.channels);
  if (!Fit(in, {{kGrad, all},
                {kGradQuery, all},
                {kGradKey, all},
                {kGradValue, all},
                {kBackKeep, Size(2 * layout.images)},
                {kBackKernels, layout.kernels},
                {kBackVectors, layout.vectors},
                {kBackQuery, all},
                {kBackKey, all},
                {kBackValue, all},
                {kSaved, layout.saved}})) {
    return "the gradients are not those of a block of this size";
  }
  *out = {in[kBackX].shape, {static_cast<int64_t>(layout.kernels)}, {static_cast<int64_t>(layout.vectors)}};
  return nullptr;
}

void RunBackward(const Arrays& in, const std::vector<float*>& out) {
  Layout layout;
  Options options;
  SetLayout(in[kBackX], in[kBackwardOptions], &layout, &options);
  const auto data = [&](int index) { return in[index].data; };
  BestKernels().backward(layout, options,
                         {data(kGrad), data(kGradQuery), data(kGradKey), data(kGradValue), data(kBackX),
                          data(kBackKeep), data(kBackKernels), data(kBackVectors), data(kBackQuery), data(kBackKey),
                          data(kBackValue), data(kSaved), out[0], out[1], out[2]});
}

const char* MedianShapes(const Arrays& in, Shapes* out) {
  if (in[0].shape.size() != 2 || in[0].size() == 0) return "medians are of the columns of a matrix";
  *out = {{1, in[0].shape[1]}};
  return nullptr;
}

void RunMedians(const Arrays& in, const std::vector<float*>& out) {
  BestKernels().column_medians(in[0].data, in[0].shape[0], in[0].shape[1], out[0]);
}

}  // namespace

const std::vector<Call>& Calls() {
  static const std::vector<Call> calls = {
      {"AcdbitBlock",
       {"x", "keep", "kernels", "vectors", "statistics", "options"},
       {"out", "query", "key", "value", "moved", "saved"},
       ForwardShapes,
       RunForward},
      {"AcdbitBlockBack",
       {"grad_out", "grad_query", "grad_key", "grad_value", "x", "keep", "kernels", "vectors", "query", "key", "value",
        "saved", "options"},
       {"grad_x", "grad_kernels", "grad_vectors"},
       BackwardShapes,
       RunBackward},
      {"AcdbitColumnMedians", {"matrix"}, {"medians"}, MedianShapes, RunMedians},
  };
  return calls;
}

}  // namespace acdbit
