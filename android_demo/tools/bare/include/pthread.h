#pragma once
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
/* Sizes and initialisers of bionic where pointers have 64 bits. */
typedef long pthread_t;
typedef long pthread_mutexattr_t;
typedef long pthread_condattr_t;
typedef int pthread_once_t;
typedef int pthread_key_t;
typedef struct {
  int words[10];
} pthread_mutex_t;
typedef struct {
  int words[12];
} pthread_cond_t;
typedef struct {
  long words[7];
} pthread_attr_t;
#define PTHREAD_MUTEX_INITIALIZER \
  {                               \
    { 0 }                         \
  }
#define PTHREAD_COND_INITIALIZER \
  {                              \
    { 0 }                        \
  }
#define PTHREAD_ONCE_INIT 0
int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int pthread_join(pthread_t, void**);
int pthread_detach(pthread_t);
int pthread_once(pthread_once_t*, void (*)(void));
int pthread_atfork(void (*)(void), void (*)(void), void (*)(void));
int pthread_key_create(pthread_key_t*, void (*)(void*));
void* pthread_getspecific(pthread_key_t);
int pthread_setspecific(pthread_key_t, const void*);
int pthread_mutex_init(pthread_mutex_t*, const pthread_mutexattr_t*);
int pthread_mutex_destroy(pthread_mutex_t*);
int pthread_mutex_lock(pthread_mutex_t*);
int pthread_mutex_trylock(pthread_mutex_t*);
int pthread_mutex_unlock(pthread_mutex_t*);
int pthread_cond_init(pthread_cond_t*, const pthread_condattr_t*);
int pthread_cond_destroy(pthread_cond_t*);
int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*);
int pthread_cond_signal(pthread_cond_t*);
int pthread_cond_broadcast(pthread_cond_t*);
#ifdef __cplusplus
}
#endif
