package org.acdbit.classifier;

import org.tensorflow.lite.Delegate;

/** libacdbit_runtime as a delegate of TFLite's Java interface. To be closed after its interpreter. */
public final class AcdbitDelegate implements Delegate, AutoCloseable {
  static {
    System.loadLibrary("acdbit_runtime");
    System.loadLibrary("acdbit_jni");
  }

  private long handle;

  /**
   * @param threads 1 to 256.
   * @throws IllegalStateException with the runtime's sentence.
   * @throws UnsatisfiedLinkError the library is not there for this processor.
   */
  public AcdbitDelegate(int threads) {
    handle = create(threads);
  }

  @Override
  public long getNativeHandle() {
    return handle;
  }

  @Override
  public void close() {
    if (handle != 0) destroy(handle);
    handle = 0;
  }

  /** What the kernels use on this processor: "neon", "avx2", ... */
  public static native String kernels();

  /** The last sentence that the runtime reported in this thread since it last created a delegate; empty if none. */
  static native String lastError();

  private static native long create(int threads);

  private static native void destroy(long handle);
}
