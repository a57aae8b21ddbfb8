// Runs a model with TFLite and the runtime for Android, on glibc behind shim.py's libraries.
//
//   classify TFLITE RUNTIME MODEL THREADS INPUTS OUTPUTS    float32, one input after the other
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

// Code for Android keeps the stack protector's word where glibc has the first bytes of thread-local memory: they stay
// as they are.
__thread long guard[32];

static void* symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (!found) {
    fprintf(stderr, "there is no %s\n", name);
    exit(1);
  }
  return found;
}

static void* library(const char* path) {
  void* opened = dlopen(path, RTLD_NOW);
  if (!opened) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return opened;
}

#define GET(from, type, name, arguments) type(*name) arguments = (type(*) arguments)symbol(from, #name)

int main(int count, char** arguments) {
  if (count != 7) return 2;
  guard[0] = 0;
  void* tflite = library(arguments[1]);
  void* runtime = library(arguments[2]);
  GET(tflite, const char*, TfLiteVersion, (void));
  GET(tflite, void*, TfLiteModelCreateFromFile, (const char*));
  GET(tflite, void*, TfLiteInterpreterOptionsCreate, (void));
  GET(tflite, void, TfLiteInterpreterOptionsAddDelegate, (void*, void*));
  GET(tflite, void, TfLiteInterpreterOptionsSetNumThreads, (void*, int));
  GET(tflite, void*, TfLiteInterpreterCreate, (void*, void*));
  GET(tflite, int, TfLiteInterpreterAllocateTensors, (void*));
  GET(tflite, void*, TfLiteInterpreterGetInputTensor, (void*, int));
  GET(tflite, void*, TfLiteInterpreterGetOutputTensor, (void*, int));
  GET(tflite, int, TfLiteTensorCopyFromBuffer, (void*, const void*, size_t));
  GET(tflite, int, TfLiteTensorCopyToBuffer, (void*, void*, size_t));
  GET(tflite, int, TfLiteInterpreterInvoke, (void*));
  GET(tflite, size_t, TfLiteTensorByteSize, (void*));
  GET(tflite, void, TfLiteInterpreterDelete, (void*));
  GET(runtime, void*, tflite_plugin_create_delegate, (const char**, const char**, size_t, void*));
  GET(runtime, void, tflite_plugin_destroy_delegate, (void*));
  GET(runtime, const char*, acdbit_kernel_path, (void));

  const char* key = "num_threads";
  const char* threads = arguments[4];
  void* delegate = tflite_plugin_create_delegate(&key, &threads, 1, NULL);
  void* options = TfLiteInterpreterOptionsCreate();
  // The threads are the runtime's: those of TFLite wait on objects of bionic's sizes, for which glibc has not the room.
  TfLiteInterpreterOptionsSetNumThreads(options, 1);
  if (delegate) TfLiteInterpreterOptionsAddDelegate(options, delegate);
  void* interpreter = TfLiteInterpreterCreate(TfLiteModelCreateFromFile(arguments[3]), options);
  if (!delegate || !interpreter || TfLiteInterpreterAllocateTensors(interpreter)) return 1;
  void* input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  const void* output = TfLiteInterpreterGetOutputTensor(interpreter, 0);
  const size_t taken = TfLiteTensorByteSize(input), given = TfLiteTensorByteSize((void*)output);
  void* values = malloc(taken);
  void* logits = malloc(given);
  FILE* from = fopen(arguments[5], "rb");
  FILE* to = fopen(arguments[6], "wb");
  if (!from || !to) return 1;
  while (fread(values, 1, taken, from) == taken) {
    if (TfLiteTensorCopyFromBuffer(input, values, taken) || TfLiteInterpreterInvoke(interpreter)) return 1;
    if (TfLiteTensorCopyToBuffer((void*)output, logits, given) || fwrite(logits, 1, given, to) != given) return 1;
  }
  fclose(to);
  TfLiteInterpreterDelete(interpreter);
  tflite_plugin_destroy_delegate(delegate);
  printf("TFLite %s, kernels %s, pages of %lu bytes\n", TfLiteVersion(), acdbit_kernel_path(), getauxval(AT_PAGESZ));
  return 0;
}
