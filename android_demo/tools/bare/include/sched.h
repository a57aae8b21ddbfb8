#pragma once
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
/* As bionic has it where pointers have 64 bits. */
typedef struct {
  unsigned long __bits[16];
} cpu_set_t;
int sched_getaffinity(int, size_t, cpu_set_t*);
static inline int acdbit_cpu_count(const cpu_set_t* set) {
  int count = 0;
  for (int i = 0; i < 16; i++) count += __builtin_popcountl(set->__bits[i]);
  return count;
}
#define CPU_COUNT(set) acdbit_cpu_count(set)
#ifdef __cplusplus
}
#endif
