// The engine of flat files: checks a file once, then carries out its steps one after the other.
#include "acdbit_model.h"

#include <limits.h>
#include <string.h>

#include "flat.h"
#include "half.h"
#include "layout.h"
#include "model_steps.h"

namespace acdbit {
namespace {

using flat::Header;
using flat::Step;
using model::padded;

// Sizes of any tensor stay below this, so that products of three fit 64 bits and offsets an int.
constexpr int64_t kMostElements = int64_t{1} << 26;
constexpr int kMostSize = 1 << 16;  // of an axis of images

enum class Type { kPixels, kFloat, kInteger };

size_t bytes_of(Type type) { return type == Type::kPixels ? 1 : type == Type::kInteger ? 2 : 4; }

const Step* steps_of(const void* file) { return reinterpret_cast<const Step*>(static_cast<const Header*>(file) + 1); }

template <typename T>
const T* constant(const void* file, const Step& step, int number) {
  const uint32_t offset = step.constants[number];
  return offset ? reinterpret_cast<const T*>(static_cast<const char*>(file) + offset) : nullptr;
}

template <typename T>
T* at(void* memory, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + offset);
}

// --- What a step is made of

model::Matrix matrix_of(const void* file, const Step& step) {
  const bool convolution = step.op == flat::kConvolution;
  const flat::Convolution& c = step.convolution;
  model::Matrix matrix = {};
  matrix.inputs = convolution ? c.filter * c.filter * c.channels : step.dense.inputs;
  matrix.units = convolution ? c.units : step.dense.units;
  const int storage = convolution ? c.storage : step.dense.storage;
  if (storage == flat::kFloat32) {
    matrix.floats = constant<float>(file, step, 0);
  } else {
    matrix.integers = constant<int8_t>(file, step, 0);
  }
  return matrix;
}

model::Block block_of(const void* file, const Step& step) {
  const flat::Block& b = step.block;
  model::Block block = {};
  block.options = {b.heads,
                   b.mlp_ratio,
                   Rule(b.rule),
                   b.ratio,
                   b.key_bias != 0,
                   Branches(b.branches),
                   b.dynamic_activation != 0,
                   b.dynamic_hidden != 0,
                   b.dynamic_attention != 0};
  block.height = b.height;
  block.width = b.width;
  block.channels = b.channels;
  block.kernels = constant<uint32_t>(file, step, 0);
  block.vectors = constant<void>(file, step, 1);
  block.half = b.storage == flat::kHalf;
  block.table = constant<uint32_t>(file, step, 2);
  return block;
}

bool has_matrix(const Step& step) {
  // A dense layer of int8 is small, and its rows are floats: it is read where it lies.
  return step.op == flat::kConvolution || (step.op == flat::kDense && step.dense.storage == flat::kFloat32);
}

// Where a convolution keeps what it works on.
struct ConvolutionScratch {
  size_t patches, sums, row;
  Layout layout;

  explicit ConvolutionScratch(const flat::Convolution& c) : patches(0), sums(0), row(0) {
    const bool integer = c.storage == flat::kInt8;
    const size_t inputs = size_t(padded(c.filter * c.filter * c.channels)), rows = size_t(model::kRowsAtOnce);
    patches = layout.add(rows * inputs, integer ? sizeof(int16_t) : sizeof(float));
    sums = layout.add(integer ? rows * size_t(c.units) : 0, sizeof(int32_t));
    const size_t width = size_t(c.columns) * size_t(c.units);
    row = layout.add(c.pool > 1 ? width : 0, c.shift ? sizeof(int16_t) : sizeof(float));
  }
};

size_t scratch_bytes(const void* file, const Step& step) {
  if (step.op == flat::kConvolution) return ConvolutionScratch(step.convolution).layout.bytes;
  if (step.op == flat::kDense && has_matrix(step))
    return size_t(model::kRowsAtOnce) * size_t(padded(step.dense.inputs)) * sizeof(float) + kAlignment;
  if (step.op == flat::kBlock) return model::block_scratch(block_of(file, step));
  return 0;
}

size_t kept_bytes(const void* file, const Step& step) {
  if (has_matrix(step)) return model::matrix_bytes(matrix_of(file, step));
  if (step.op == flat::kBlock) return model::block_bytes(block_of(file, step));
  return 0;
}

// The memory: the steps' outputs, then scratch of the step at hand, then what is kept of each.
struct Memory {
  size_t scratch;
  size_t kept;  // of the first step; each adds its kept_bytes, rounded up
  size_t bytes;
  bool ok;

  explicit Memory(const void* file) : scratch(0), kept(0), bytes(0), ok(true) {
    const Header& header = *static_cast<const Header*>(file);
    const Step* const steps = steps_of(file);
    size_t most = 0;
    for (uint32_t i = 0; i < header.steps; i++) {
      const size_t needed = scratch_bytes(file, steps[i]);
      if (needed > most) most = needed;
    }
    Layout layout;
    layout.add(header.tensors, 1);
    scratch = layout.add(most, 1);
    kept = layout.bytes;
    for (uint32_t i = 0; i < header.steps; i++) layout.add(kept_bytes(file, steps[i]), 1);
    bytes = layout.bytes;
    ok = layout.ok && bytes <= size_t(PTRDIFF_MAX);
  }
};

// --- Checking

// The elements of what a step reads or writes.
struct Tensor {
  Type type;
  int64_t count;
  int64_t first;  // offset into the memory; -1: the caller's
};

bool within(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }
bool is_flag(int32_t value) { return value == 0 || value == 1; }

struct Checker {
  const void* file;
  const Header& header;

  // Constant `number` is there and holds so many bytes.
  bool holds(const Step& step, int number, int64_t bytes) const {
    const uint32_t offset = step.constants[number];
    const uint32_t first = uint32_t(sizeof(Header) + header.steps * sizeof(Step));
    return offset >= first && offset % kAlignment == 0 && bytes <= int64_t(header.bytes) - int64_t(offset);
  }
  bool absent(const Step& step, int number) const { return step.constants[number] == 0; }
  bool holds_if_there(const Step& step, int number, int64_t bytes) const {
    return absent(step, number) || holds(step, number, bytes);
  }

  const char* normalise(const Step& step, Tensor* tensor) const {
    const flat::Normalise& n = step.normalise;
    if (!within(n.form, flat::kPixelsToFloat, flat::kFloatToInteger))
      return "a step normalises in a form that this engine does not know";
    if (n.height != header.height || n.width != header.width || n.channels != header.channels)
      return "a step normalises an image of another size than the model's input";
    if (tensor->type != (n.form == flat::kFloatToInteger ? Type::kFloat : Type::kPixels) || tensor->first != -1)
      return "a step normalises what is not the model's input";
    const int64_t bytes = int64_t{4} * n.channels;
    const bool offset = n.form == flat::kFloatToInteger ? absent(step, 0) : holds(step, 0, bytes);
    const bool factor = n.form == flat::kPixelsToInteger ? absent(step, 1) : holds(step, 1, bytes);
    if (!offset || !factor) return "the constants of a normalisation are not in the file";
    tensor->type = n.form == flat::kPixelsToFloat ? Type::kFloat : Type::kInteger;
    return nullptr;
  }

  // One axis of a window: every output's lies on the input somewhere.
  static bool axis(int input, int filter, int stride, int before, int outputs) {
    if (!within(outputs, 1, kMostSize) || !within(before, 0, filter - 1)) return false;
    return int64_t(outputs - 1) * stride - before < input;
  }

  const char* convolution(const Step& step, Tensor* tensor) const {
    const flat::Convolution& c = step.convolution;
    const bool integer = c.storage == flat::kInt8;
    if (!integer && c.storage != flat::kFloat32)
      return "a convolution is stored in a form that this engine does not know";
    if (tensor->type != (integer ? Type::kInteger : Type::kFloat))
      return "a convolution's input is not of the type that its kernel is multiplied with";
    if (!within(c.height, 1, kMostSize) || !within(c.width, 1, kMostSize) || !within(c.channels, 1, kMostSize) ||
        int64_t(c.height) * c.width > kMostElements || int64_t(c.height) * c.width * c.channels != tensor->count)
      return "a convolution's input has another size than the step before it gives";
    if (!within(c.filter, 1, 256) || !within(c.stride, 1, 256) || !within(c.units, 1, kMostSize) || !is_flag(c.relu) ||
        !axis(c.height, c.filter, c.stride, c.rows_before, c.rows) ||
        !axis(c.width, c.filter, c.stride, c.columns_before, c.columns))
      return "the window of a convolution does not lie on its input";
    if (!within(c.pool, 1, 256)) return "the window of a max-pooling does not lie on its input";
    if (c.pool == 1 ? c.pooled_rows != c.rows || c.pooled_columns != c.columns
                    : !within(c.pool_stride, 1, 256) ||
                          !axis(c.rows, c.pool, c.pool_stride, c.pool_rows_before, c.pooled_rows) ||
                          !axis(c.columns, c.pool, c.pool_stride, c.pool_columns_before, c.pooled_columns))
      return "the window of a max-pooling does not lie on its input";
    const int64_t inputs = int64_t(c.filter) * c.filter * c.channels, area = int64_t(c.columns) * c.units;
    if (inputs > kMostElements / 4 || inputs * c.units > kMostElements / 4 || area > kMostElements / 4 ||
        area * c.rows > kMostElements)
      return "a convolution is too large";
    if (!within(c.shift, 0, integer ? 31 : 0)) return "a convolution scales its integers by a shift out of range";
    const int64_t vector = int64_t{4} * c.units, row = (inputs + 3) / 4 * 4;
    if (!holds(step, 0, integer ? row * c.units : 4 * inputs * c.units) ||
        !(integer ? holds(step, 1, vector) && holds(step, 2, vector)
                  : holds_if_there(step, 1, vector) && absent(step, 2)))
      return "the constants of a convolution are not in the file";
    tensor->type = c.shift ? Type::kInteger : Type::kFloat;
    tensor->count = int64_t(c.pooled_rows) * c.pooled_columns * c.units;
    return nullptr;
  }

  const char* dense(const Step& step, Tensor* tensor) const {
    const flat::Dense& d = step.dense;
    if (d.storage != flat::kFloat32 && d.storage != flat::kInt8)
      return "a dense layer is stored in a form that this engine does not know";
    if (tensor->type != Type::kFloat || !within(d.rows, 1, kMostElements) || !within(d.inputs, 1, kMostElements / 4) ||
        !within(d.units, 1, kMostElements / 4) || int64_t(d.rows) * d.inputs != tensor->count)
      return "a dense layer's input has another size than the step before it gives";
    const int64_t weights = int64_t(d.inputs) * d.units;
    if (weights > kMostElements / 4 || int64_t(d.rows) * d.units > kMostElements) return "a dense layer is too large";
    const int64_t vector = int64_t{4} * d.units;
    const bool integer = d.storage == flat::kInt8;
    if (!holds(step, 0, integer ? weights : 4 * weights) || !holds_if_there(step, 1, vector) ||
        !(integer ? holds(step, 2, vector) : absent(step, 2)))
      return "the constants of a dense layer are not in the file";
    tensor->count = int64_t(d.rows) * d.units;
    return nullptr;
  }

  const char* add(const Step& step, const Tensor& tensor) const {
    if (step.add.storage != flat::kFloat32 && step.add.storage != flat::kHalf)
      return "an addition is stored in a form that this engine does not know";
    if (tensor.type != Type::kFloat || step.add.count != tensor.count)
      return "an addition's input has another size than the step before it gives";
    if (!holds(step, 0, tensor.count * (step.add.storage == flat::kHalf ? 2 : 4)))
      return "the constants of an addition are not in the file";
    return nullptr;
  }

  const char* mean(const Step& step, Tensor* tensor) const {
    const flat::Mean& m = step.mean;
    if (tensor->type != Type::kFloat || m.rows < 1 || m.channels < 1 || int64_t(m.rows) * m.channels != tensor->count)
      return "a mean's input has another size than the step before it gives";
    tensor->count = m.channels;
    return nullptr;
  }

  const char* block(const Step& step, const Tensor& tensor) const {
    const flat::Block& b = step.block;
    if (b.storage != flat::kFloat32 && b.storage != flat::kHalf)
      return "a block is stored in a form that this engine does not know";
    if (!within(b.rule, 0, kRules - 1) || !is_flag(b.key_bias) || !within(b.branches, 0, kBranches - 1) ||
        !is_flag(b.dynamic_activation) || !is_flag(b.dynamic_hidden) || !is_flag(b.dynamic_attention))
      return "a block has an option that this engine does not know";
    const model::Block block = block_of(file, step);
    size_t vectors, kernels, taps;
    if (!block_sizes(block.options, b.channels, b.height, b.width, &vectors, &kernels, &taps) ||
        vectors > size_t(kMostElements) || kernels > size_t(kMostElements))
      return "a block's sizes do not fit each other or are too large";
    if (tensor.type != Type::kFloat || tensor.first == -1 || int64_t(b.height) * b.width * b.channels != tensor.count)
      return "a block's input has another size than the step before it gives";
    const int64_t table = int64_t{4} * b.heads * (b.channels / b.heads + 1);
    const bool half = b.storage == flat::kHalf;
    if (!holds(step, 0, int64_t{4} * int64_t(kernels)) || !holds(step, 1, int64_t(half ? 2 : 4) * int64_t(vectors)) ||
        !(b.dynamic_attention ? absent(step, 2) : holds(step, 2, table)))
      return "the constants of a block are not in the file";
    return nullptr;
  }

  const char* step(const Step& step, bool last, Tensor* tensor) const {
    const Tensor input = *tensor;
    const char* error = nullptr;
    switch (step.op) {
      case flat::kNormalise: error = normalise(step, tensor); break;
      case flat::kConvolution: error = convolution(step, tensor); break;
      case flat::kDense: error = dense(step, tensor); break;
      case flat::kAdd: error = add(step, *tensor); break;
      case flat::kMean: error = mean(step, tensor); break;
      case flat::kBlock: error = block(step, *tensor); break;
      default: return "a step is of a kind that this engine does not know";
    }
    if (error) return error;
    if ((step.output == -1) != last) return "another step than the last one gives the model's output";
    if (tensor->count > kMostElements) return "what a step gives is too large";
    tensor->first = step.output;
    if (last) return nullptr;
    const int64_t end = tensor->first + int64_t(bytes_of(tensor->type)) * tensor->count;
    if (tensor->first < 0 || tensor->first % int64_t(kAlignment) != 0 || end > int64_t(header.tensors))
      return "a step writes outside of the memory";
    const int64_t input_end = input.first + int64_t(bytes_of(input.type)) * input.count;
    const bool in_place = step.op == flat::kAdd && input.first == tensor->first;
    if (input.first >= 0 && !in_place && tensor->first < input_end && input.first < end)
      return "a step overwrites what it reads";
    return nullptr;
  }

  const char* steps() const {
    if (!within(header.height, 1, kMostSize) || !within(header.width, 1, kMostSize) ||
        !within(header.channels, 1, kMostSize) || !is_flag(header.pixels) ||
        int64_t(header.height) * header.width * header.channels > kMostElements)
      return "the model's input has a size that is not supported";
    if (header.tensors > kMostElements * 4) return "the model's tensors are too large";
    Tensor tensor = {header.pixels ? Type::kPixels : Type::kFloat,
                     int64_t(header.height) * header.width * header.channels, -1};
    for (uint32_t i = 0; i < header.steps; i++)
      if (const char* error = step(steps_of(file)[i], i + 1 == header.steps, &tensor)) return error;
    if (tensor.type != Type::kFloat || tensor.count != header.outputs)
      return "the last step gives another number of logits than the file says";
    return nullptr;
  }
};

// --- Running

void normalise(const void* file, const Step& step, const void* input, void* output) {
  const flat::Normalise& n = step.normalise;
  const int pixels = n.height * n.width;
  const uint8_t* bytes = static_cast<const uint8_t*>(input);
  const float* factor = constant<float>(file, step, 1);
  if (n.form == flat::kPixelsToFloat) {
    const float* offset = constant<float>(file, step, 0);
    float* y = static_cast<float*>(output);
    for (int i = 0; i < pixels; i++)
      for (int c = 0; c < n.channels; c++) *y++ = (float(*bytes++) - offset[c]) * factor[c];
    return;
  }
  int16_t* y = static_cast<int16_t*>(output);
  if (n.form == flat::kPixelsToInteger) {
    const uint32_t* offset = constant<uint32_t>(file, step, 0);
    for (int i = 0; i < pixels; i++)
      for (int c = 0; c < n.channels; c++) *y++ = int16_t(uint32_t(*bytes++) * uint32_t(flat::kPixelUnits) - offset[c]);
    return;
  }
  const float* x = static_cast<const float*>(input);
  for (int i = 0; i < pixels; i++) {
    for (int c = 0; c < n.channels; c++) {
      float value = *x++ * factor[c];
      value = value < 32767.0f ? value : 32767.0f;
      value = value > -32768.0f ? value : -32768.0f;  // NaN became 32767
      *y++ = int16_t(int(value + (value < 0.0f ? -0.5f : 0.5f)));
    }
  }
}

// The window of one output as a row, zeros beyond the border and up to a multiple of 4.
template <typename T>
void gather(const flat::Convolution& c, const T* x, int row, int column, T* patch) {
  const int across = c.filter * c.channels, width = c.width * c.channels;
  const int top = row * c.stride - c.rows_before, left = column * c.stride - c.columns_before;
  const int first = left < 0 ? -left : 0;
  const int last = left + c.filter > c.width ? c.width - left : c.filter;
  const T* from = x + ptrdiff_t(top) * width + ptrdiff_t(left + first) * c.channels;
  const size_t bytes = size_t(last - first) * size_t(c.channels) * sizeof(T);
  const bool whole = first == 0 && last == c.filter;
  for (int i = 0; i < c.filter; i++, from += width, patch += across) {
    const bool inside = top + i >= 0 && top + i < c.height;
    if (!inside || !whole) memset(patch, 0, size_t(across) * sizeof(T));
    if (inside) memcpy(patch + first * c.channels, from, bytes);
  }
  for (int i = c.filter * across; i % 4 != 0; i++) *patch++ = T(0);
}

int32_t within_int16(int32_t value, int32_t lowest) {
  value = value < lowest ? lowest : value;
  return value > 32767 ? 32767 : value;
}

// Sums of products to what the next step reads; the formula is in flat.h. On its own, so that all stays in registers.
__attribute__((noinline)) void scale(const int32_t* sums, const int32_t* bias, const int32_t* multiplier, int shift,
                                     bool relu, int units, int16_t* y) {
  const uint32_t half = uint32_t{1} << (shift - 1);
  const int32_t lowest = relu ? 0 : -32768;
  for (int u = 0; u < units; u++) {
    const int32_t sum = int32_t(uint32_t(sums[u]) + uint32_t(bias[u]));
    const int32_t upper = int32_t((int64_t(sum) * multiplier[u]) >> 32);
    y[u] = int16_t(within_int16(int32_t(uint32_t(upper) + half) >> shift, lowest));
  }
}

template <typename T>
void maximum(const T* from, int count, T* to) {
  for (int i = 0; i < count; i++) to[i] = from[i] > to[i] ? from[i] : to[i];
}

// Takes row `row` of a convolution to the rows of the pooling whose windows it lies in; windows of one row begin alike.
template <typename T>
void pool(const flat::Convolution& c, const T* values, int row, T* y) {
  const int units = c.units;
  for (int i = 0; i < c.pooled_rows; i++) {
    const int top = i * c.pool_stride - c.pool_rows_before;
    if (row < top || row >= top + c.pool) continue;
    const bool begins = row == (top < 0 ? 0 : top);
    for (int j = 0; j < c.pooled_columns; j++) {
      const int left = j * c.pool_stride - c.pool_columns_before;
      int first = left < 0 ? 0 : left;
      const int last = left + c.pool < c.columns ? left + c.pool : c.columns;
      T* to = y + (ptrdiff_t(i) * c.pooled_columns + j) * units;
      if (begins) memcpy(to, values + ptrdiff_t(first++) * units, size_t(units) * sizeof(T));
      for (; first < last; first++) maximum(values + ptrdiff_t(first) * units, units, to);
    }
  }
}

// Products of kRowsAtOnce windows of a row at a time, T in, Y out; `finish(first, count, y)` makes the y of them.
template <typename T, typename Y, typename Finish>
void convolve(const flat::Convolution& c, const T* x, T* patches, Y* row_values, Y* y, const Finish& finish) {
  const int inputs = padded(c.filter * c.filter * c.channels);
  for (int row = 0; row < c.rows; row++) {
    Y* const values = c.pool > 1 ? row_values : y + ptrdiff_t(row) * c.columns * c.units;
    for (int column = 0; column < c.columns; column += model::kRowsAtOnce) {
      const int left = c.columns - column, count = left < model::kRowsAtOnce ? left : model::kRowsAtOnce;
      for (int i = 0; i < count; i++) gather(c, x, row, column + i, patches + ptrdiff_t(i) * inputs);
      finish(count, values + ptrdiff_t(column) * c.units);
    }
    if (c.pool > 1) pool(c, values, row, y);
  }
}

void clip(float* y, int count) {
  for (int i = 0; i < count; i++) y[i] = y[i] > 0.0f ? y[i] : 0.0f;
}

void convolution(const void* file, const Step& step, const void* kept, const void* x, void* y, void* scratch) {
  const flat::Convolution& c = step.convolution;
  const ConvolutionScratch parts(c);
  const model::Matrix matrix = matrix_of(file, step);
  if (c.storage == flat::kFloat32) {
    const float* bias = constant<float>(file, step, 1);
    float* patches = at<float>(scratch, parts.patches);
    convolve(c, static_cast<const float*>(x), patches, at<float>(scratch, parts.row), static_cast<float*>(y),
             [&](int count, float* to) {
               multiply(matrix, kept, bias, patches, count, to);
               if (c.relu) clip(to, count * c.units);
             });
    return;
  }
  int16_t* patches = at<int16_t>(scratch, parts.patches);
  int32_t* sums = at<int32_t>(scratch, parts.sums);
  if (c.shift) {
    const int32_t *bias = constant<int32_t>(file, step, 1), *multiplier = constant<int32_t>(file, step, 2);
    convolve(c, static_cast<const int16_t*>(x), patches, at<int16_t>(scratch, parts.row), static_cast<int16_t*>(y),
             [&](int count, int16_t* to) {
               multiply(matrix, kept, patches, count, sums);
               for (int i = 0; i < count; i++)
                 scale(sums + i * c.units, bias, multiplier, c.shift, c.relu != 0, c.units, to + i * c.units);
             });
    return;
  }
  const float *bias = constant<float>(file, step, 1), *multiplier = constant<float>(file, step, 2);
  convolve(c, static_cast<const int16_t*>(x), patches, at<float>(scratch, parts.row), static_cast<float*>(y),
           [&](int count, float* to) {
             multiply(matrix, kept, patches, count, sums);
             for (int i = 0; i < count; i++)
               for (int u = 0; u < c.units; u++)
                 to[i * c.units + u] = float(sums[i * c.units + u]) * multiplier[u] + bias[u];
             if (c.relu) clip(to, count * c.units);
           });
}

void dense(const void* file, const Step& step, const void* kept, const float* x, float* y, void* scratch) {
  const flat::Dense& d = step.dense;
  const float* bias = constant<float>(file, step, 1);
  if (d.storage == flat::kFloat32) {
    const model::Matrix matrix = matrix_of(file, step);
    const int inputs = padded(d.inputs);
    float* rows = static_cast<float*>(scratch);
    for (int r = 0; r < d.rows; r++, x += d.inputs, y += d.units) {
      memset(rows + d.inputs, 0, size_t(inputs - d.inputs) * sizeof(float));
      memcpy(rows, x, size_t(d.inputs) * sizeof(float));
      multiply(matrix, kept, bias, rows, 1, y);
    }
    return;
  }
  const float* multiplier = constant<float>(file, step, 2);
  for (int r = 0; r < d.rows; r++, x += d.inputs, y += d.units) {
    const int8_t* weight = constant<int8_t>(file, step, 0);
    for (int u = 0; u < d.units; u++) {
      float sum = 0.0f;
      for (int i = 0; i < d.inputs; i++) sum += x[i] * float(*weight++);
      y[u] = sum * multiplier[u] + (bias ? bias[u] : 0.0f);
    }
  }
}

void add(const void* file, const Step& step, const float* x, float* y) {
  const int count = step.add.count;
  if (step.add.storage == flat::kHalf) {
    const uint16_t* constants = constant<uint16_t>(file, step, 0);
    for (int i = 0; i < count; i++) y[i] = x[i] + widened(constants[i]);
  } else {
    const float* constants = constant<float>(file, step, 0);
    for (int i = 0; i < count; i++) y[i] = x[i] + constants[i];
  }
}

void mean(const Step& step, const float* x, float* y) {
  const int channels = step.mean.channels;
  memcpy(y, x, size_t(channels) * sizeof(float));
  for (int r = 1; r < step.mean.rows; r++) {
    x += channels;
    for (int c = 0; c < channels; c++) y[c] += x[c];
  }
  for (int c = 0; c < channels; c++) y[c] /= float(step.mean.rows);
}

}  // namespace
}  // namespace acdbit

using namespace acdbit;

const char* acdbit_model_check(const void* file, size_t bytes) {
  constexpr uint32_t kTurned = __builtin_bswap32(flat::kMagic);
  if (bytes < sizeof(Header)) return "the file is shorter than the header of a flat model file";
  if (reinterpret_cast<uintptr_t>(file) % 16 != 0) return "the file does not start at a multiple of 16 bytes";
  const Header& header = *static_cast<const Header*>(file);
  if (header.magic == kTurned) return "the file is of the other byte order than this processor";
  if (header.magic != flat::kMagic) return "the file is not a flat model file: it does not begin with ACDM";
  if (header.version != flat::kVersion) return "the file is of another version than this engine, which reads version 1";
  if (header.bytes > bytes) return "the file is truncated: its header says that there is more of it";
  if (header.bytes > uint32_t{1} << 30) return "the file is too large";
  for (uint32_t zero : header.zeros)
    if (zero != 0) return "the file's header has a field that this engine does not know";
  if (header.steps < 1 || header.steps > (header.bytes - sizeof(Header)) / sizeof(Step))
    return "the file is too short for the steps that its header announces";
  if (header.card > header.bytes || header.card_bytes > header.bytes - header.card ||
      (header.card == 0) != (header.card_bytes == 0))
    return "the file's card does not lie within it";
  if (const char* error = Checker{file, header}.steps()) return error;
  if (!Memory(file).ok) return "the model needs more memory than there are addresses";
  return nullptr;
}

AcdbitModelInfo acdbit_model_info(const void* file) {
  const Header& header = *static_cast<const Header*>(file);
  return {header.height,
          header.width,
          header.channels,
          header.pixels,
          header.outputs,
          header.card_bytes,
          header.card ? static_cast<const char*>(file) + header.card : nullptr};
}

size_t acdbit_model_memory(const void* file) { return Memory(file).bytes; }

const char* acdbit_model_prepare(const void* file, void* memory, size_t bytes) {
  const Memory parts(file);
  if (bytes < parts.bytes) return "the memory is smaller than acdbit_model_memory says";
  if (reinterpret_cast<uintptr_t>(memory) % kAlignment != 0)
    return "the memory does not start at a multiple of 64 bytes";
  const Header& header = *static_cast<const Header*>(file);
  Layout layout;
  layout.bytes = parts.kept;
  for (uint32_t i = 0; i < header.steps; i++) {
    const Step& step = steps_of(file)[i];
    void* const kept = at<void>(memory, layout.add(kept_bytes(file, step), 1));
    if (has_matrix(step)) model::prepare_matrix(matrix_of(file, step), kept);
    if (step.op == flat::kBlock) model::prepare_block(block_of(file, step), kept);
  }
  return nullptr;
}

void acdbit_model_run(const void* file, void* memory, const void* input, float* output) {
  const Memory parts(file);
  const Header& header = *static_cast<const Header*>(file);
  void* const scratch = at<void>(memory, parts.scratch);
  Layout layout;
  layout.bytes = parts.kept;
  const void* x = input;
  for (uint32_t i = 0; i < header.steps; i++) {
    const Step& step = steps_of(file)[i];
    const void* const kept = at<void>(memory, layout.add(kept_bytes(file, step), 1));
    void* const y = step.output < 0 ? output : at<void>(memory, size_t(step.output));
    const float* floats = static_cast<const float*>(x);
    switch (step.op) {
      case flat::kNormalise: normalise(file, step, x, y); break;
      case flat::kConvolution: convolution(file, step, kept, x, y, scratch); break;
      case flat::kDense: dense(file, step, kept, floats, static_cast<float*>(y), scratch); break;
      case flat::kAdd: add(file, step, floats, static_cast<float*>(y)); break;
      case flat::kMean: mean(step, floats, static_cast<float*>(y)); break;
      default:  // a block; its input lies in the memory, as checked
        model::run_block(block_of(file, step), kept, static_cast<float*>(const_cast<void*>(x)), static_cast<float*>(y),
                         scratch);
    }
    x = y;
  }
}
