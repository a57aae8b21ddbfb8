// Thread-local variables without the linker's help, which Android's has from version 10 on only. An NDK has this
// function in clang's runtime library; the compiler calls it for every thread_local variable.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { kMost = 64 };

// What the compiler lays out for each variable.
typedef struct {
  size_t size;
  size_t alignment;
  union {
    size_t index;  // from 1, 0 before the first use
    void* address;
  } object;
  void* initial;
} Control;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t key;
static int has_key;
static size_t count;

static void end_of_thread(void* values) {
  for (int i = 0; i < kMost; ++i) free(((void**)values)[i]);
  free(values);
}

static size_t index_of(Control* control) {
  size_t index = __atomic_load_n(&control->object.index, __ATOMIC_ACQUIRE);
  if (index != 0) return index;
  pthread_mutex_lock(&mutex);
  if (!has_key) {
    if (pthread_key_create(&key, end_of_thread)) abort();
    has_key = 1;
  }
  index = control->object.index;
  if (index == 0) {
    index = ++count;
    if (index > kMost) abort();
    __atomic_store_n(&control->object.index, index, __ATOMIC_RELEASE);
  }
  pthread_mutex_unlock(&mutex);
  return index;
}

__attribute__((visibility("hidden"))) void* __emutls_get_address(Control* control) {
  const size_t index = index_of(control);
  void** values = pthread_getspecific(key);
  if (values == NULL) {
    values = calloc(kMost, sizeof(void*));
    if (values == NULL || pthread_setspecific(key, values)) abort();
  }
  void** value = &values[index - 1];
  if (*value == NULL) {
    const size_t alignment = control->alignment < 16 ? 16 : control->alignment;
    if (posix_memalign(value, alignment, control->size)) abort();
    if (control->initial != NULL) {
      memcpy(*value, control->initial, control->size);
    } else {
      memset(*value, 0, control->size);
    }
  }
  return *value;
}
