// What attention_<path>.inl starts from: the sizes that the steps of attention.inl work with, and helpers.
#include <math.h>
#include <string.h>

#include "attention_layout.h"

namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

struct Range {
  int lowest;
  int highest;  // or an upper bound where finding it would cost more than it saves
};

#if !defined(ACDBIT_HAS_TILES)
constexpr int kTileStep = 256;
constexpr int kMostRows = 8;
constexpr int kIntegerTile = 16384;  // distances held at once, over all rows
constexpr int kFloatTile = 4096;     // likewise scores
#endif
static_assert(kIntegerTile % kTileStep == 0 && kFloatTile % kTileStep == 0, "tiles start where distances can");

static inline int words_of(int bits) { return (bits + 31) / 32; }

static inline uint32_t load_word(const void* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return word;
}

// Compilers turn this into the instruction where there is one.
static inline int popcount32(uint32_t x) {
  x -= x >> 1 & 0x55555555u;
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  return int(x * 0x01010101u >> 24);
}

// 64 or fewer words of one column of packed rows.
static inline void load_column(const uint32_t* rows, ptrdiff_t stride, int count, int padded, uint32_t* column) {
  for (int j = 0; j < count; j++) column[j] = rows[j * stride];
  for (int j = count; j < padded; j++) column[j] = 0;
}

// Byte b of word j to planes[b][j].
template <int kWords>
static inline void split_bytes(const uint32_t* words, uint8_t (*planes)[kWords]) {
  for (int j = 0; j < kWords; j++) {
    planes[0][j] = uint8_t(words[j]);
    planes[1][j] = uint8_t(words[j] >> 8);
    planes[2][j] = uint8_t(words[j] >> 16);
    planes[3][j] = uint8_t(words[j] >> 24);
  }
}

// Where `lookup` gives the factors of sixteen distances. Keys beyond the last, up to a multiple of 16, weigh 0.
template <class Lookup>
static inline F16 weigh_with(const Lookup& lookup, const uint8_t* distances, int keys, const float* key_factor,
                             float* weights, F16 sum) {
  for (int j = 0; j < keys; j += 16) {
    const F16 weight = lookup(distances + j) * load(key_factor + j);
    store(weights + j, weight);
    sum = sum + weight;
  }
  return sum;
}

// One by one.
struct PlainLookup {
  const float* values;

  F16 operator()(const uint8_t* distances) const {
    float lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = values[distances[i]];
    return load(lanes);
  }
};

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
