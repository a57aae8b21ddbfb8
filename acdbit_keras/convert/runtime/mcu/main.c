/* Classifies the images of a file on a board, and says what that took.
 *
 * images.bin: an int32, the number of images, then the images as the model takes them. Written are, in hexadecimal, the
 * bytes of the arena, the logits of each image, and how much of the stack was used. */
#include <string.h>

#include "acdbit_model.h"
#include "board.h"
#include "model.h"

#define PAINT 0xdeadbeefu

static unsigned char arena[MODEL_MEMORY] __attribute__((aligned(64)));
static unsigned char image[MODEL_INPUT_BYTES] __attribute__((aligned(16)));
static float logits[MODEL_OUTPUTS];

static void put_number(uint32_t value) {
  char text[10];
  for (int i = 0; i < 8; i++) text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
  text[8] = ' ';
  text[9] = 0;
  put(text);
}

static int failed(const char* error) {
  put("error ");
  put(error);
  put("\n");
  return 1;
}

int main(void) {
  const char* error = acdbit_model_check(model_data, sizeof model_data);
  if (error) return failed(error);
  error = acdbit_model_prepare(model_data, arena, sizeof arena);
  if (error) return failed(error);
  put("arena ");
  put_number(acdbit_model_memory(model_data));
  put("\n");

  const int file = open_file("images.bin");
  int32_t count = 0;
  if (file < 0 || read_file(file, &count, sizeof count) != sizeof count) return failed("there is no images.bin");
  volatile uint32_t* deepest = stack_bottom;
  const uintptr_t here = (uintptr_t)__builtin_frame_address(0) - 256;
  for (volatile uint32_t* p = deepest; (uintptr_t)p < here; p++) *p = PAINT;
  for (int32_t n = 0; n < count; n++) {
    if (read_file(file, image, sizeof image) != sizeof image) return failed("images.bin ends too early");
    MARK(0);
    acdbit_model_run(model_data, arena, image, logits);
    MARK(1);
    put("logits ");
    for (int i = 0; i < MODEL_OUTPUTS; i++) {
      uint32_t bits;
      memcpy(&bits, logits + i, sizeof bits);
      put_number(bits);
    }
    put("\n");
  }
  while (*deepest == PAINT) deepest++;
  put("stack ");
  put_number((uint32_t)((uintptr_t)stack_top - (uintptr_t)deepest));
  put("\n");
  return 0;
}
