/* What the float twin of a binary transformer costs when it is quantized to int8, the usual way to a microcontroller.
 *
 * A plain implementation of our own after the manner of CMSIS-NN, which is not in Debian's packages: weights and
 * activations int8, products of two rows by two outputs with SMLAD, sums requantized per output; softmax from a table
 * of exponentials; layer norms and GELU in integers. Sizes are those of the model that TWIN_* name; weights are
 * numbers without a meaning, for the number of instructions depends on the sizes alone. So its output is no
 * classification. */
#define ACDBIT_ISA twin

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "integer_ops.inl"

extern "C" {
#include "board.h"
#include "twin.h"
extern const int8_t twin_weights[];
extern const int32_t twin_constants[];
}

#define TOKENS (TWIN_GRID * TWIN_GRID)
#define HIDDEN (TWIN_CHANNELS * TWIN_RATIO)
#define HEAD (TWIN_CHANNELS / TWIN_HEADS)
#define MOST_INPUTS 1024

static int8_t memory_a[TWIN_LARGEST], memory_b[TWIN_LARGEST];
static int8_t normed[TOKENS * TWIN_CHANNELS], query[TOKENS * TWIN_CHANNELS], key[TOKENS * TWIN_CHANNELS];
static int8_t value[TOKENS * TWIN_CHANNELS], context[TOKENS * TWIN_CHANNELS], hidden[TOKENS * HIDDEN];
static int16_t patches[2 * MOST_INPUTS];
static int32_t exponentials[256];
static int32_t sums_of_two[2 * 1024];

/* (sum * multiplier) >> (31 + shift), rounded, as CMSIS-NN requantizes. */
static inline int32_t requantized(int32_t sum, int32_t multiplier, int shift) {
  const int32_t high = (int32_t)(((int64_t)sum * multiplier + (1 << 30)) >> 31);
  return (high + (1 << (shift - 1))) >> shift;
}

static inline int8_t clipped(int32_t v) { return v < -128 ? -128 : v > 127 ? 127 : (int8_t)v; }

static inline int16_t* widen(const int8_t* x, int count, int16_t* to) {
  for (int i = 0; i < count; i++) *to++ = x[i];
  return to;
}

/* Two rows of int16 with all outputs: y[r * units + u]; the products are those of the engine's own integer stem. */
static void products(const int16_t* rows, int num_rows, const int8_t* weights, int inputs, int units, int relu,
                     int8_t* y) {
  const int count = num_rows > 1 ? 2 : 1;
  acdbit::twin::multiply_rows(rows, count, weights, inputs, units, sums_of_two);
  for (int r = 0; r < count; r++) {
    for (int u = 0; u < units; u++) {
      const int32_t sum = sums_of_two[r * units + u] + twin_constants[u & 255];
      const int8_t value_of = clipped(requantized(sum, twin_constants[256 + (u & 255)], 7));
      y[r * units + u] = relu && value_of < 0 ? 0 : value_of;
    }
  }
}

static void convolution(const int8_t* x, int size, int channels, int units, int stride, int8_t* y) {
  const int out = size / stride, inputs = (9 * channels + 3) / 4 * 4;
  for (int pixel = 0; pixel < out * out; pixel += 2) {
    int16_t* to = patches;
    for (int k = 0; k < 2; k++) {
      const int top = (pixel + k) / out * stride, left = (pixel + k) % out * stride;
      for (int i = 0; i < 3; i++) {
        const int inside = top + i < size ? (left + 3 <= size ? 3 : size - left) : 0;
        to = widen(x + ((top + i) * size + left) * channels, inside * channels, to);
        for (int j = inside * channels; j < 3 * channels; j++) *to++ = 0;
      }
      while ((to - patches) % inputs != 0) *to++ = 0;
    }
    products(patches, 2, twin_weights, inputs, units, 1, y + pixel * units);
  }
}

static void dense(const int8_t* x, int rows, int inputs, int units, int8_t* y) {
  for (int r = 0; r < rows; r += 2) {
    widen(x + r * inputs, 2 * inputs, patches);
    products(patches, rows - r, twin_weights, inputs, units, 0, y + r * units);
  }
}

/* x + requantized y, both with scales of their own. */
static void add(int8_t* x, const int8_t* y, int count) {
  for (int i = 0; i < count; i++)
    x[i] = clipped(requantized((x[i] << 16) + (y[i] << 15) + twin_constants[0], twin_constants[256], 8) >> 8);
}

static void gelu(int8_t* x, int count) {
  for (int i = 0; i < count; i++) x[i] = (int8_t)twin_weights[(uint8_t)x[i]]; /* a table of 256 */
}

/* Mean and variance of every token, and their inverse root from a table: an integer layer norm. */
static void layer_norm(const int8_t* x, int8_t* y) {
  for (int r = 0; r < TOKENS; r++, x += TWIN_CHANNELS, y += TWIN_CHANNELS) {
    int32_t sum = 0, squares = 0;
    for (int c = 0; c < TWIN_CHANNELS; c++) {
      sum += x[c];
      squares += x[c] * x[c];
    }
    const int32_t mean = sum / TWIN_CHANNELS, scale = twin_constants[256 + (squares & 255)];
    for (int c = 0; c < TWIN_CHANNELS; c++) y[c] = clipped(requantized((x[c] - mean) << 8, scale, 4));
  }
}

static void attention(void) {
  for (int h = 0; h < TWIN_HEADS; h++) {
    for (int r = 0; r < TOKENS; r++) {
      int8_t scores[TOKENS];
      int32_t sum = 0;
      int largest = -128;
      for (int j = 0; j < TOKENS; j++) {
        int32_t dot = 0;
        const int8_t *q = query + r * TWIN_CHANNELS + h * HEAD, *k = key + j * TWIN_CHANNELS + h * HEAD;
#if defined(__ARM_FEATURE_DSP)
        for (int c = 0; c < HEAD; c += 4) {
          int8x4_t a, b;
          int16x2_t c0, c1;
          memcpy(&a, q + c, 4);
          memcpy(&b, k + c, 4);
          __asm__("sxtb16 %0, %1, ror #8" : "=r"(c0) : "r"(a));
          __asm__("sxtb16 %0, %1, ror #8" : "=r"(c1) : "r"(b));
          dot = __smlad(c0, c1, __smlad(__sxtb16(a), __sxtb16(b), dot));
        }
#else
        for (int c = 0; c < HEAD; c++) dot += q[c] * k[c];
#endif
        scores[j] = clipped(requantized(dot, twin_constants[256], 7));
        largest = scores[j] > largest ? scores[j] : largest;
      }
      for (int j = 0; j < TOKENS; j++) sum += exponentials[largest - scores[j]];
      const int32_t inverse = (int32_t)(((int64_t)1 << 39) / (sum + 1) >> 8);
      for (int j = 0; j < TOKENS; j++)
        scores[j] = (int8_t)(requantized(exponentials[largest - scores[j]], inverse, 8) >> 1 & 127);
      int8_t* const to = context + r * TWIN_CHANNELS + h * HEAD;
      int32_t sums[HEAD];
      memset(sums, 0, sizeof sums);
      for (int j = 0; j < TOKENS; j++) {
        const int8_t* v = value + j * TWIN_CHANNELS + h * HEAD;
        const int32_t weight = scores[j];
        for (int c = 0; c < HEAD; c++) sums[c] += weight * v[c];
      }
      for (int c = 0; c < HEAD; c++) to[c] = clipped(requantized(sums[c], twin_constants[256], 7));
    }
  }
}

static void block(int8_t* x) {
  layer_norm(x, normed);
  dense(normed, TOKENS, TWIN_CHANNELS, TWIN_CHANNELS, query);
  dense(normed, TOKENS, TWIN_CHANNELS, TWIN_CHANNELS, key);
  dense(normed, TOKENS, TWIN_CHANNELS, TWIN_CHANNELS, value);
  attention();
  dense(context, TOKENS, TWIN_CHANNELS, TWIN_CHANNELS, normed);
  add(x, normed, TOKENS * TWIN_CHANNELS);
  layer_norm(x, normed);
  dense(normed, TOKENS, TWIN_CHANNELS, HIDDEN, hidden);
  gelu(hidden, TOKENS * HIDDEN);
  dense(hidden, TOKENS, HIDDEN, TWIN_CHANNELS, normed);
  add(x, normed, TOKENS * TWIN_CHANNELS);
}

static void twin(const int8_t* image) {
  const int8_t* x = image;
  int size = TWIN_SIZE, channels = 3;
  int8_t* to = memory_a;
  for (int units = TWIN_FIRST; units <= TWIN_CHANNELS; units *= 2) {
    convolution(x, size, channels, units, 2, to);
    x = to;
    to = to == memory_a ? memory_b : memory_a;
    size /= 2;
    channels = units;
  }
  int8_t* tokens = const_cast<int8_t*>(x);
  add(tokens, twin_weights, TOKENS * TWIN_CHANNELS);
  for (int i = 0; i < TWIN_DEPTH; i++) block(tokens);
  for (int c = 0; c < TWIN_CHANNELS; c++) {
    int32_t sum = 0;
    for (int r = 0; r < TOKENS; r++) sum += tokens[r * TWIN_CHANNELS + c];
    normed[c] = (int8_t)(sum / TOKENS);
  }
  dense(normed, 1, TWIN_CHANNELS, 10, hidden);
}

extern "C" int main(void) {
  static int8_t image[TWIN_SIZE * TWIN_SIZE * 3];
  for (size_t i = 0; i < sizeof image; i++) image[i] = (int8_t)(i * 37);
  for (int i = 0; i < 256; i++) exponentials[i] = (int32_t)(0x7fffff >> (i / 24 < 23 ? i / 24 : 23));
  put("arena 0 \n");
  for (int n = 0; n < 3; n++) {
    MARK(0);
    twin(image);
    MARK(1);
    put("logits 0 \n");
  }
  put("stack 0 \n");
  return hidden[0] == 1 && hidden[1] == 2;
}
