/* C interface of libacdbit_runtime: a TFLite external delegate for bit-packed models.
 *
 * With TFLite's own C API: create the delegate, TfLiteInterpreterOptionsAddDelegate, create the interpreter; destroy
 * the delegate after the interpreter. Options are pairs of strings:
 *
 *   num_threads   threads of the delegate, 1 to 256; without it, those of the interpreter
 *   spin          "true", the default: threads that wait for each other within an inference spin for at most 0.1 ms
 *                 before they sleep. "false": they sleep at once, which takes longer and less energy
 *   fixed_shapes  "true": a file is refused whose tensors are stored with other shapes than its nodes compute, on
 *                 which the runtime's own ops behind them might rely. Default "false"
 *   kernels       one of acdbit_kernel_paths(), or "auto": the best, or what the environment variable
 *                 ACDBIT_KERNELS says, which must be one of them too
 */
#ifndef ACDBIT_RUNTIME_H_
#define ACDBIT_RUNTIME_H_

#include <stddef.h>

#define ACDBIT_VERSION "0.2.0"

#if defined(__GNUC__)
#define ACDBIT_EXPORT __attribute__((visibility("default")))
#else
#define ACDBIT_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library, ACDBIT_VERSION when it was compiled. */
ACDBIT_EXPORT const char* acdbit_version(void);

/* The kernels that a delegate takes by default on this CPU, such as "avx2" or "portable"; "" if
 * ACDBIT_KERNELS names none that it can run. */
ACDBIT_EXPORT const char* acdbit_kernel_path(void);

/* All kernels that this CPU can run, best first, separated by commas. Valid until the thread's next call. */
ACDBIT_EXPORT const char* acdbit_kernel_paths(void);

/* The last sentence that a delegate reported in the calling thread, "" if it reported none since the thread last
 * created a delegate. Valid until the thread's next call. */
ACDBIT_EXPORT const char* acdbit_last_error(void);

/* What TFLite's loader of external delegates looks for. The result is a TfLiteDelegate*, or null after report_error,
 * which may be null, got one sentence. */
ACDBIT_EXPORT void* tflite_plugin_create_delegate(const char* const* keys, const char* const* values,
                                                  size_t num_options, void (*report_error)(const char* message));
ACDBIT_EXPORT void tflite_plugin_destroy_delegate(void* delegate);

#ifdef __cplusplus
}
#endif

#endif /* ACDBIT_RUNTIME_H_ */
