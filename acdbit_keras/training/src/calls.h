// The library's functions between arrays, as both frameworks call them.
#ifndef ACDBIT_TRAINING_CALLS_H_
#define ACDBIT_TRAINING_CALLS_H_

#include <cstdint>
#include <vector>

namespace acdbit {

// A dense float32 array.
struct Array {
  const float* data = nullptr;
  std::vector<int64_t> shape;

  int64_t size() const {
    int64_t product = 1;
    for (int64_t length : shape) product *= length;
    return product;
  }
};

using Arrays = std::vector<Array>;
using Shapes = std::vector<std::vector<int64_t>>;

// A function with `inputs` arrays in and some out.
struct Call {
  const char* name;                          // of the op and of the custom call
  std::vector<const char*> inputs, outputs;  // names
  // The shapes of the outputs, or what is wrong with the inputs.
  const char* (*shapes)(const Arrays& inputs, Shapes* outputs);
  // Throws std::bad_alloc.
  void (*run)(const Arrays& inputs, const std::vector<float*>& outputs);
};

const std::vector<Call>& Calls();

}  // namespace acdbit

#endif  // ACDBIT_TRAINING_CALLS_H_
