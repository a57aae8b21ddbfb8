// What the page's side of a model needs of its memory: places for files and arenas, one behind the other. A module
// holds one model and is thrown away with it, so that nothing is given back.
#include <stddef.h>
#include <stdint.h>

extern "C" {
extern unsigned char __heap_base;

static uintptr_t top = 0;

// A multiple of 64; 0 if there is no more memory.
__attribute__((export_name("reserve"))) void* reserve(size_t bytes) {
  constexpr uintptr_t kPage = 65536;
  if (top == 0) top = reinterpret_cast<uintptr_t>(&__heap_base);
  const uintptr_t start = (top + 63) / 64 * 64;
  if (bytes > UINT32_MAX - start - kPage) return nullptr;
  const uintptr_t pages = (start + bytes + kPage - 1) / kPage, have = __builtin_wasm_memory_size(0);
  if (pages > have && __builtin_wasm_memory_grow(0, pages - have) == SIZE_MAX) return nullptr;
  top = start + bytes;
  return reinterpret_cast<void*>(start);
}
}
