/* Start of a RISC-V core in machine mode: stack, the floating-point unit where there is one, traps, main. */
#include <string.h>

#include "board.h"

extern char data_start, data_end, data_load, bss_start, bss_end;
int main(void);

static intptr_t semihost(intptr_t operation, const void* argument) {
  register intptr_t a0 __asm__("a0") = operation;
  register const void* a1 __asm__("a1") = argument;
  /* These three, not compressed, are one command to the host. */
  __asm__ volatile(
      ".option push\n .option norvc\n .balign 16\n slli x0, x0, 0x1f\n ebreak\n srai x0, x0, 7\n .option pop"
      : "+r"(a0)
      : "r"(a1)
      : "memory");
  return a0;
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

__attribute__((used)) void fault(void) {
  put("fault\n");
  stop(99);
}

__attribute__((used, noreturn)) void start(void) {
  memcpy(&data_start, &data_load, &data_end - &data_start);
  memset(&bss_start, 0, &bss_end - &bss_start);
  stop(main());
}

/* mstatus.FS: floating point. */
__asm__(
    ".section .vectors, \"ax\"\n .globl reset\n"
    "reset:\n la sp, stack_top\n .option push\n .option arch, +zicsr\n li t0, 0x6000\n csrs mstatus, t0\n la t0, trap\n"
    " csrw mtvec, t0\n .option pop\n j start\n .balign 4\n"
    "trap:\n j fault\n .text");
