// Java's door to libacdbit_runtime: org.acdbit.classifier.AcdbitDelegate.
#include <jni.h>
#include <stdint.h>
#include <stdio.h>

#include "acdbit_runtime.h"

#define METHOD(result, name) JNIEXPORT result JNICALL Java_org_acdbit_classifier_AcdbitDelegate_##name

METHOD(jlong, create)(JNIEnv* env, jclass type, jint threads) {
  (void)type;
  char text[12];
  snprintf(text, sizeof text, "%d", (int)threads);
  const char* key = "num_threads";
  const char* value = text;
  void* delegate = tflite_plugin_create_delegate(&key, &value, 1, NULL);
  if (delegate == NULL) {
    jclass error = (*env)->FindClass(env, "java/lang/IllegalStateException");
    if (error != NULL) (*env)->ThrowNew(env, error, acdbit_last_error());
  }
  return (jlong)(intptr_t)delegate;
}

METHOD(void, destroy)(JNIEnv* env, jclass type, jlong handle) {
  (void)env;
  (void)type;
  tflite_plugin_destroy_delegate((void*)(intptr_t)handle);
}

METHOD(jstring, kernels)(JNIEnv* env, jclass type) {
  (void)type;
  return (*env)->NewStringUTF(env, acdbit_kernel_path());
}

METHOD(jstring, lastError)(JNIEnv* env, jclass type) {
  (void)type;
  return (*env)->NewStringUTF(env, acdbit_last_error());
}
