/* Start of a RISC-V core in machine mode: stack, the floating-point unit where there is one, traps. */
#include "board.h"

intptr_t semihost(intptr_t operation, const void* argument) {
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

/* mstatus.FS: floating point. */
__asm__(
    ".section .vectors, \"ax\"\n .globl reset\n"
    "reset:\n la sp, stack_top\n .option push\n .option arch, +zicsr\n li t0, 0x6000\n csrs mstatus, t0\n la t0, trap\n"
    " csrw mtvec, t0\n .option pop\n j start\n .balign 4\n"
    "trap:\n j fault\n .text");
