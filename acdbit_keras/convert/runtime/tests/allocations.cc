#include "allocations.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

namespace acdbit {
namespace {

thread_local int t_countdown = -1;
thread_local bool t_failed = false;

bool fails() {
  if (t_countdown < 0 || t_countdown-- > 0) return false;
  t_failed = true;
  return true;
}

}  // namespace

void fail_allocation(int count) {
  t_countdown = count;
  t_failed = false;
}

bool allocation_failed() { return t_failed; }

}  // namespace acdbit

extern "C" {

void* __real_malloc(size_t size);
void* __real_calloc(size_t count, size_t size);
int __real_posix_memalign(void** memory, size_t alignment, size_t size);
int __real_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument);

void* __wrap_malloc(size_t size) { return acdbit::fails() ? nullptr : __real_malloc(size); }

void* __wrap_calloc(size_t count, size_t size) { return acdbit::fails() ? nullptr : __real_calloc(count, size); }

int __wrap_posix_memalign(void** memory, size_t alignment, size_t size) {
  return acdbit::fails() ? ENOMEM : __real_posix_memalign(memory, alignment, size);
}

int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  return acdbit::t_countdown >= 0 ? EAGAIN : __real_pthread_create(thread, attributes, start, argument);
}

}  // extern "C"
