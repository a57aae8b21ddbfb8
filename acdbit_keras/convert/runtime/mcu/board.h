/* What a board gives to main.c, by semihosting: text, a file to read, a way to stop. */
#ifndef ACDBIT_MCU_BOARD_H_
#define ACDBIT_MCU_BOARD_H_

#include <stddef.h>
#include <stdint.h>

/* Instructions without an effect that an emulator's counter recognises (tests/mcu/instructions.c). */
#if defined(__riscv)
#define MARK(number) __asm__ volatile("lui zero, %0" ::"i"(0xacd00u | (number)) : "memory")
#else
#define MARK(number) __asm__ volatile("movw r12, #(0xac00 + %c0)" ::"i"(number) : "r12", "memory")
#endif

extern uint32_t stack_top[], stack_bottom[];

void put(const char* text);
int open_file(const char* name);                      /* a handle, negative if there is none */
size_t read_file(int handle, void* to, size_t bytes); /* bytes that were read */
void stop(int status) __attribute__((noreturn));

/* Between start_*.c, which has the first and calls the others, and board.c. */
intptr_t semihost(intptr_t operation, const void* argument);
void fault(void) __attribute__((noreturn));
void start(void) __attribute__((noreturn));

#endif /* ACDBIT_MCU_BOARD_H_ */
