/* C interface of the engine that runs flat files (.acdm) without LiteRT: on microcontrollers, in WebAssembly, anywhere.
 *
 * A flat file is read where it lies, in flash or in memory, from an address that is a multiple of 16 bytes. All working
 * memory is one piece that the caller gives. Nothing is allocated, nothing is static, no thread is started and nothing
 * but memcpy, memset and exp of the C library is called; several models may run beside each other, each in memory of
 * its own.
 *
 *   const char* error = acdbit_model_check(file, bytes);            the only function that distrusts the file
 *   static unsigned char memory[...] aligned to 64 bytes            of acdbit_model_memory(file) bytes
 *   error = acdbit_model_prepare(file, memory, sizeof memory);      once
 *   acdbit_model_run(file, memory, input, output);                  for every image
 */
#ifndef ACDBIT_MODEL_H_
#define ACDBIT_MODEL_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ACDBIT_MODEL_EXPORT __attribute__((visibility("default")))
#else
#define ACDBIT_MODEL_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a file takes and gives. */
typedef struct {
  int32_t height; /* of the input, [height][width][channels], RGB */
  int32_t width;
  int32_t channels;
  int32_t pixels;  /* 1: the input is uint8 pixels, which the file normalises; 0: normalised float32 */
  int32_t outputs; /* number of float32 logits */
  uint32_t card_bytes;
  const char* card; /* JSON in UTF-8, not ended by a zero: classes, mean, std; null where there is none */
} AcdbitModelInfo;

/* Null if the file may be given to the functions below, else one sentence that says what is wrong with it. Reads at
 * most `bytes` bytes, whatever they are. */
ACDBIT_MODEL_EXPORT const char* acdbit_model_check(const void* file, size_t bytes);

/* Of a file that passed the check. */
ACDBIT_MODEL_EXPORT AcdbitModelInfo acdbit_model_info(const void* file);

/* Bytes of working memory that a file which passed the check needs. */
ACDBIT_MODEL_EXPORT size_t acdbit_model_memory(const void* file);

/* Writes what all runs share into the memory: weights in the order of the vector instructions where there are any.
 * Null, or one sentence if the memory is too small or not aligned. */
ACDBIT_MODEL_EXPORT const char* acdbit_model_prepare(const void* file, void* memory, size_t bytes);

/* One image: `input` is float or uint8_t (AcdbitModelInfo.pixels), `output` gets the logits. */
ACDBIT_MODEL_EXPORT void acdbit_model_run(const void* file, void* memory, const void* input, float* output);

#ifdef __cplusplus
}
#endif

#endif /* ACDBIT_MODEL_H_ */
