package org.acdbit.demo;

import android.app.ActivityManager;
import android.content.ContentResolver;
import android.content.Context;
import android.content.pm.PackageManager;
import android.content.res.AssetFileDescriptor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;

/** A .tflite file, of the app's assets or of the phone's files, that can be mapped into memory. */
final class ModelSource {
  /** A model for which there is no room. */
  static final class TooLargeException extends IOException {
    private static final long serialVersionUID = 1;
    final long bytes, free;

    TooLargeException(long bytes, long free) {
      super(bytes + " bytes do not fit into " + free);
      this.bytes = bytes;
      this.free = free;
    }
  }

  /** Path of an asset, or a URI. */
  final String place;
  private final boolean asset;

  private ModelSource(String place, boolean asset) {
    this.place = place;
    this.asset = asset;
  }

  static ModelSource ofAsset(String path) {
    return new ModelSource(path, true);
  }

  static ModelSource ofUri(Uri uri) {
    return new ModelSource(uri.toString(), false);
  }

  /**
   * @throws TooLargeException it is larger than the free memory, or than what Java maps.
   * @throws IOException it is not there, or cannot be read.
   */
  ByteBuffer map(Context context) throws IOException {
    return asset ? mapAsset(context) : mapUri(context);
  }

  private ByteBuffer mapAsset(Context context) throws IOException {
    try (AssetFileDescriptor file = context.getAssets().openFd(place);
         FileInputStream stream = file.createInputStream()) {
      return map(context, stream.getChannel(), file.getStartOffset(), file.getDeclaredLength());
    } catch (FileNotFoundException compressed) {
      // Android gives no descriptor of an asset that is compressed in the APK.
      File copy = new File(folder(context), installed(context) + "-" + new File(place).getName());
      if (!copy.isFile()) {
        try (InputStream stream = context.getAssets().open(place)) {
          copy(stream, copy);
        }
      }
      return mapFile(context, copy);
    }
  }

  private ByteBuffer mapUri(Context context) throws IOException {
    ContentResolver resolver = context.getContentResolver();
    Uri uri = Uri.parse(place);
    try (ParcelFileDescriptor file = resolver.openFileDescriptor(uri, "r")) {
      if (file == null) throw new FileNotFoundException(place);
      if (file.getStatSize() >= 0) {
        try (FileInputStream stream = new FileInputStream(file.getFileDescriptor())) {
          return map(context, stream.getChannel(), 0, file.getStatSize());
        }
      }
      // What comes over a network has no place in a file system.
      File copy = new File(folder(context), "opened.tflite");
      try (FileInputStream stream = new FileInputStream(file.getFileDescriptor())) {
        copy(stream, copy);
      }
      return mapFile(context, copy);
    }
  }

  private static ByteBuffer mapFile(Context context, File file) throws IOException {
    try (FileInputStream stream = new FileInputStream(file)) {
      return map(context, stream.getChannel(), 0, file.length());
    }
  }

  private static ByteBuffer map(Context context, FileChannel channel, long start, long bytes) throws IOException {
    ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
    ((ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE)).getMemoryInfo(memory);
    long free = Math.min(memory.availMem, Integer.MAX_VALUE);
    if (bytes > free) throw new TooLargeException(bytes, free);
    return channel.map(FileChannel.MapMode.READ_ONLY, start, bytes);
  }

  private static File folder(Context context) throws IOException {
    File folder = new File(context.getCacheDir(), "models");
    if (!folder.isDirectory() && !folder.mkdirs()) throw new IOException(folder.toString());
    return folder;
  }

  /** When the app was installed, so that what another version left is not taken. */
  private static long installed(Context context) {
    try {
      return context.getPackageManager().getPackageInfo(context.getPackageName(), 0).lastUpdateTime;
    } catch (PackageManager.NameNotFoundException impossible) {
      throw new AssertionError(impossible);
    }
  }

  private static void copy(InputStream from, File target) throws IOException {
    File unfinished = new File(target.getPath() + ".part");
    try (OutputStream to = new FileOutputStream(unfinished)) {
      byte[] block = new byte[1 << 16];
      for (int count = from.read(block); count >= 0; count = from.read(block)) to.write(block, 0, count);
    }
    if (!unfinished.renameTo(target)) throw new IOException(target.toString());
  }
}
