#pragma once
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
void* malloc(size_t);
void* calloc(size_t, size_t);
void* realloc(void*, size_t);
void free(void*);
int posix_memalign(void**, size_t, size_t);
char* getenv(const char*);
long strtol(const char*, char**, int);
int abs(int);
void abort(void);
#ifdef __cplusplus
}
#endif
