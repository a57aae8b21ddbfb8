#pragma once
#ifdef __cplusplus
extern "C" {
#endif
/* As bionic has it where pointers have 64 bits. */
struct timespec {
  long tv_sec;
  long tv_nsec;
};
#define CLOCK_MONOTONIC 1
int clock_gettime(int, struct timespec*);
#ifdef __cplusplus
}
#endif
