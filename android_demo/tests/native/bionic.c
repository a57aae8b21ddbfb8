// Android's C library, as far as TFLite's library for Android needs it, on glibc: what has another name there, or takes
// other numbers. shim.py adds a jump to glibc for every other function. For tests on this machine alone.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void*);

int pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
  return __register_atfork(before, parent, child, NULL);
}

int* __errno(void) { return &errno; }

// Checked variants, whose sizes the compiler knew.
void* __memmove_chk(void* to, const void* from, size_t count, size_t room) {
  if (count > room) abort();
  return memmove(to, from, count);
}

int __open_2(const char* path, int flags) { return open(path, flags); }

ssize_t __read_chk(int file, void* to, size_t count, size_t room) {
  if (count > room) abort();
  return read(file, to, count);
}

size_t __strlen_chk(const char* text, size_t room) {
  const size_t length = strlen(text);
  if (length >= room) abort();
  return length;
}

int __vsnprintf_chk(char* to, size_t count, int flags, size_t room, const char* format, va_list arguments) {
  (void)flags;
  if (count > room) abort();
  return vsnprintf(to, count, format, arguments);
}

int __system_property_get(const char* name, char* value) {
  strcpy(value, strcmp(name, "ro.build.version.sdk") ? "" : "34");
  return (int)strlen(value);
}

void android_set_abort_message(const char* message) { fprintf(stderr, "%s\n", message); }

int __android_log_vprint(int priority, const char* tag, const char* format, va_list arguments) {
  (void)priority;
  fprintf(stderr, "[%s] ", tag);
  vfprintf(stderr, format, arguments);
  return fputc('\n', stderr);
}

int __android_log_print(int priority, const char* tag, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int written = __android_log_vprint(priority, tag, format, arguments);
  va_end(arguments);
  return written;
}

// Bionic's three streams are an array of 152 bytes each, of which programs take the addresses only.
char __sF[3 * 152];

static FILE* stream(void* theirs) {
  const char* at = theirs;
  if (at < __sF || at >= __sF + sizeof __sF) return theirs;
  return at == __sF + 152 ? stdout : stderr;
}

int bionic_fprintf(FILE* file, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int written = vfprintf(stream(file), format, arguments);
  va_end(arguments);
  return written;
}

int bionic_vfprintf(FILE* file, const char* format, va_list arguments) {
  return vfprintf(stream(file), format, arguments);
}

int bionic_fputc(int c, FILE* file) { return fputc(c, stream(file)); }

size_t bionic_fwrite(const void* from, size_t size, size_t count, FILE* file) {
  return fwrite(from, size, count, stream(file));
}

int bionic_fflush(FILE* file) { return fflush(file ? stream(file) : NULL); }

long bionic_sysconf(int name) {
  switch (name) {
    case 0x27:
    case 0x28: return sysconf(_SC_PAGESIZE);
    case 0x60: return sysconf(_SC_NPROCESSORS_CONF);
    case 0x61: return sysconf(_SC_NPROCESSORS_ONLN);
    case 0x62: return sysconf(_SC_PHYS_PAGES);
    default: return -1;
  }
}

#ifdef __aarch64__
// A mutex has 40 bytes in bionic and 48 in glibc, whose last 8 are never used: nothing may clear them. Attributes are a
// number.
int bionic_pthread_mutex_init(pthread_mutex_t* mutex, const pthread_mutexattr_t* attributes) {
  const long kind = attributes ? *(const long*)attributes & 3 : 0;
  memset(mutex, 0, 40);
  ((int*)mutex)[4] = kind == 1 ? PTHREAD_MUTEX_RECURSIVE : kind == 2 ? PTHREAD_MUTEX_ERRORCHECK : 0;
  return 0;
}
#endif
