// libFuzzer target: any bytes as a flat file. What the check lets through must run without a fault in the memory that
// it asks for. Files that would take long are checked only.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "acdbit_model.h"
#include "flat.h"

namespace {

constexpr double kMostWork = 2e6;  // products
constexpr size_t kMostMemory = size_t{1} << 25;

struct Freed {
  void operator()(void* memory) const { free(memory); }
};
using Memory = std::unique_ptr<unsigned char, Freed>;

// Of exactly so many bytes, so that a sanitizer sees what lies behind them.
Memory allocate(size_t bytes) {
  void* memory = nullptr;
  return Memory(posix_memalign(&memory, 64, bytes ? bytes : 1) == 0 ? static_cast<unsigned char*>(memory) : nullptr);
}

double work_of(const acdbit::flat::Step& step) {
  using namespace acdbit::flat;
  switch (step.op) {
    case kConvolution: {
      const Convolution& c = step.convolution;
      const double window = double(c.filter) * c.filter * c.channels;
      return double(c.rows) * c.columns * c.units * (window + double(c.pool) * c.pool) +
             double(c.rows) * c.pooled_rows * c.pooled_columns;
    }
    case kDense: return double(step.dense.rows) * step.dense.inputs * step.dense.units;
    case kAdd: return step.add.count;
    case kMean: return double(step.mean.rows) * step.mean.channels;
    case kBlock: {
      const Block& b = step.block;
      const double tokens = double(b.height) * b.width;
      return tokens * b.channels * (double(b.channels) / 8 * b.mlp_ratio + tokens);
    }
    default: return double(step.normalise.height) * step.normalise.width * step.normalise.channels;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Memory file = allocate(size);
  if (!file) return 0;
  memcpy(file.get(), data, size);
  if (acdbit_model_check(file.get(), size)) return 0;
  const auto& header = *reinterpret_cast<const acdbit::flat::Header*>(file.get());
  const auto* steps = reinterpret_cast<const acdbit::flat::Step*>(&header + 1);
  double work = 0;
  for (uint32_t i = 0; i < header.steps; i++) work += work_of(steps[i]);
  const AcdbitModelInfo info = acdbit_model_info(file.get());
  const size_t bytes = acdbit_model_memory(file.get());
  const size_t inputs = size_t(info.height) * size_t(info.width) * size_t(info.channels) * (info.pixels ? 1 : 4);
  if (work > kMostWork || bytes > kMostMemory || inputs > kMostMemory || size_t(info.outputs) > kMostMemory / 4)
    return 0;
  const Memory memory = allocate(bytes), input = allocate(inputs), output = allocate(size_t(info.outputs) * 4);
  if (!memory || !input || !output) return 0;
  for (size_t i = 0; i < inputs; i++) input.get()[i] = uint8_t(37 * i);
  if (!info.pixels) memset(input.get(), 0, inputs);
  if (acdbit_model_prepare(file.get(), memory.get(), bytes)) abort();
  acdbit_model_run(file.get(), memory.get(), input.get(), reinterpret_cast<float*>(output.get()));
  return 0;
}
