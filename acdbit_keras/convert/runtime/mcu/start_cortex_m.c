/* Start of a Cortex-M: vectors, data, the floating-point unit, main. */
#include <string.h>

#include "board.h"

extern char data_start, data_end, data_load, bss_start, bss_end;
int main(void);

static intptr_t semihost(intptr_t operation, const void* argument) {
  register intptr_t r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

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

static void fault(void) {
  put("fault\n");
  stop(99);
}

__attribute__((noreturn)) void reset(void) {
  *(volatile uint32_t*)0xe000ed88 |= 0xfu << 20; /* CPACR: floating point and vectors */
  __asm__ volatile("dsb\n isb");
  memcpy(&data_start, &data_load, &data_end - &data_start);
  memset(&bss_start, 0, &bss_end - &bss_start);
  stop(main());
}

__attribute__((section(".vectors"), used)) static const void* const vectors[16] = {
    stack_top, reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, fault,
};
