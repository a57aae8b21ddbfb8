// What a library without the delegate, on 32 bits, tells of itself: it runs flat files, one channel at a time.
#include "acdbit_runtime.h"

extern "C" {

const char* acdbit_version(void) { return ACDBIT_VERSION; }
const char* acdbit_kernel_path(void) { return "scalar"; }
const char* acdbit_kernel_paths(void) { return "scalar"; }
const char* acdbit_last_error(void) { return "this library has no delegate"; }
}
