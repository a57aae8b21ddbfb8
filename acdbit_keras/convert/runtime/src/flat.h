// Layout of a flat file (.acdm), which acdbit_keras/convert/flat.py writes: header, steps, constants; little-endian.
//
// A step reads what the step before it wrote, the first one the model's input; constants are byte offsets into the
// file, 0 for none. All offsets are multiples of kAlignment.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "contract.h"

namespace acdbit {
namespace flat {

constexpr uint32_t kMagic = 0x4d444341;  // "ACDM"
constexpr uint32_t kVersion = 1;

// What values are stored as.
enum Storage : int32_t { kFloat32 = 0, kHalf = 1, kInt8 = 2 };

struct Header {
  uint32_t magic;
  uint32_t version;
  uint32_t bytes;  // of the file
  uint32_t steps;
  int32_t height;  // of the input
  int32_t width;
  int32_t channels;
  int32_t pixels;  // 1: uint8, 0: float32
  int32_t outputs;
  uint32_t tensors;  // bytes of memory that the steps' outputs lie in
  uint32_t card;     // JSON; 0: none
  uint32_t card_bytes;
  uint32_t zeros[4];
};
static_assert(sizeof(Header) == 64, "the file's layout");

enum Op : int32_t { kNormalise = 1, kConvolution = 2, kDense = 3, kAdd = 4, kMean = 5, kBlock = 6 };

// Integers of convolutions are those of pixels less their mean, in units of 1 / kPixelUnits.
constexpr int kPixelUnits = 128;

// Of the model's input: constants[0] and [1] are offset and factor, one per channel.
enum NormaliseForm : int32_t {
  kPixelsToFloat = 0,    // (pixel - offset) * factor; floats
  kPixelsToInteger = 1,  // pixel * kPixelUnits - offset, int32; int16
  kFloatToInteger = 2,   // x * factor, rounded; int16
};
struct Normalise {
  int32_t height, width, channels;
  int32_t form;
};

// A convolution, then ReLU if there is one, then max-pooling if `pool` > 1; padding as in TFLite's SAME and VALID.
//
// kFloat32: constants[0] kernel [units][filter * filter * channels], [1] bias [units] or none; floats all along.
// kInt8: the input is int16; [0] kernel, int8, rows padded with zeros to a multiple of 4 of which each four are in the
// order 0, 2, 1, 3; [1] bias, int32; [2] multiplier. With a `shift` the output is int16,
//     ((sum + bias) * multiplier, its upper 32 bits, + 2^(shift - 1)) >> shift
// within [-32768, 32767], with multipliers int32; without one (0) it is float, sum * multiplier + bias, with
// multipliers and bias float.
struct Convolution {
  int32_t height, width, channels;
  int32_t filter, stride, rows_before, columns_before;
  int32_t rows, columns, units;
  int32_t relu;
  int32_t pool, pool_stride, pool_rows_before, pool_columns_before;
  int32_t pooled_rows, pooled_columns;  // rows and columns where there is no pooling
  int32_t storage;
  int32_t shift;
};

// constants[0] kernel [units][inputs], [1] bias, float, or none, [2] with kInt8 multiplier [units], float.
struct Dense {
  int32_t rows, inputs, units;
  int32_t storage;  // kFloat32 or kInt8
};

struct Add {  // constants[0], of `storage` kFloat32 or kHalf
  int32_t count;
  int32_t storage;
};

struct Mean {  // over rows
  int32_t rows, channels;
};

// AcdBinaryBlock. constants[0] kernels, [1] vectors, of `storage` kFloat32 or kHalf, [2] with frozen statistics for
// each head what its attention looks up by distance, head_dim + 1 words: AttentionFactors::values with a key bias, else
// AttentionTable::values. Overwrites its input.
struct Block {
  int32_t height, width, channels;
  int32_t heads, mlp_ratio, rule;
  float ratio;
  int32_t key_bias;
  int32_t branches;  // a Branches
  int32_t dynamic_activation, dynamic_hidden, dynamic_attention;
  int32_t storage;
};

struct Step {
  int32_t op;
  int32_t output;  // byte offset into the memory; -1: the model's output
  uint32_t constants[4];
  union {
    Normalise normalise;
    Convolution convolution;
    Dense dense;
    Add add;
    Mean mean;
    Block block;
    int32_t words[26];
  };
};
static_assert(sizeof(Step) == 128, "the file's layout");

}  // namespace flat
}  // namespace acdbit
