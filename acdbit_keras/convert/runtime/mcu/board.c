/* What main.c asks of a board, by semihosting, and what is done before it begins; start_*.c is what differs between
 * cores. */
#include "board.h"

#include <string.h>

extern char data_start, data_end, data_load, bss_start, bss_end;
int main(void);

void put(const char* text) { semihost(4, text); }

void stop(int status) {
  const uint32_t arguments[2] = {0x20026, (uint32_t)status};
  semihost(0x20, arguments);
  for (;;) {
  }
}

int open_file(const char* name) {
  const uint32_t arguments[3] = {(uint32_t)name, 1, strlen(name)};
  return semihost(1, arguments);
}

size_t read_file(int handle, void* to, size_t bytes) {
  const uint32_t arguments[3] = {(uint32_t)handle, (uint32_t)to, bytes};
  return bytes - (size_t)semihost(6, arguments);
}

void fault(void) {
  put("fault\n");
  stop(99);
}

void start(void) {
  memcpy(&data_start, &data_load, &data_end - &data_start);
  memset(&bss_start, 0, &bss_end - &bss_start);
  stop(main());
}
