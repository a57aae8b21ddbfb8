// Included before every source file on Linux: binds to the oldest version of each function of glibc that has several,
// so that a library built here also loads where glibc is 2.17. (2.29 gave exp a new version without error
// handling; 2.34 moved threads into libc.) Sanitizers replace these functions by name and want no version.
#pragma once

#include <features.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ACDBIT_SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ACDBIT_SANITIZED
#endif

#if defined(__GLIBC__) && !defined(ACDBIT_SANITIZED)
#if defined(__x86_64__)
#define ACDBIT_OLDEST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define ACDBIT_OLDEST "GLIBC_2.17"
#elif defined(__arm__)
#define ACDBIT_OLDEST "GLIBC_2.4"
#endif
#endif

#ifdef ACDBIT_OLDEST
#define ACDBIT_BIND(name) __asm__(".symver " #name "," #name "@" ACDBIT_OLDEST)
ACDBIT_BIND(exp);
ACDBIT_BIND(pthread_create);
ACDBIT_BIND(pthread_join);
ACDBIT_BIND(pthread_mutex_trylock);
#undef ACDBIT_BIND
#undef ACDBIT_OLDEST
#endif
