package org.acdbit.classifier;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Paths;

/**
 * Many pictures through the app's classes, on a desktop: {@code Batch MODEL THREADS INPUT OUTPUT}.
 *
 * <p>INPUT holds frames one after the other, each eight big-endian ints (width, height, rotation, bytes from row to row
 * of luma, of chroma, from pixel to pixel of chroma, place of U and of V in the chroma bytes, -1 twice where the
 * picture is RGB), then the bytes of luma and chroma, each with its length before it; for RGB the pixels alone. OUTPUT
 * gets for each the pixels that the model looks at and the logits, big-endian floats. Prints the versions that ran.
 */
public final class Batch {
  private Batch() {}

  public static void main(String[] arguments) throws IOException, ModelException {
    try (Classifier classifier = new Classifier(map(arguments[0]), Integer.parseInt(arguments[1]));
         DataInputStream input = new DataInputStream(new BufferedInputStream(new FileInputStream(arguments[2])));
         DataOutputStream output = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(arguments[3])))) {
      int[] header = new int[8];
      while (read(input, header)) {
        float[] pixels = classifier.look(picture(input, header), header[2]);
        for (float value : pixels) output.writeFloat(value);
        for (float value : classifier.logits(pixels)) output.writeFloat(value);
      }
      System.out.println("TFLite " + org.tensorflow.lite.TensorFlowLite.runtimeVersion()
          + (classifier.packed ? ", kernels " + AcdbitDelegate.kernels() : ""));
    }
  }

  static ByteBuffer map(String path) throws IOException {
    try (FileChannel file = FileChannel.open(Paths.get(path))) {
      return file.map(FileChannel.MapMode.READ_ONLY, 0, file.size());
    }
  }

  private static boolean read(DataInputStream input, int[] header) throws IOException {
    try {
      for (int i = 0; i < header.length; i++) header[i] = input.readInt();
      return true;
    } catch (EOFException end) {
      return false;
    }
  }

  private static Picture picture(DataInputStream input, int[] header) throws IOException {
    ByteBuffer luma = bytes(input);
    if (header[6] < 0) return rgb(header[0], header[1], luma);
    ByteBuffer chroma = bytes(input);
    return new Frame(
        header[0], header[1], luma, header[3], from(chroma, header[6]), from(chroma, header[7]), header[4], header[5]);
  }

  private static ByteBuffer bytes(DataInputStream input) throws IOException {
    byte[] bytes = new byte[input.readInt()];
    input.readFully(bytes);
    ByteBuffer direct = ByteBuffer.allocateDirect(bytes.length);
    direct.put(bytes).rewind();
    return direct;
  }

  /** As Android gives two planes that share memory: each a buffer of its own that begins at its first pixel. */
  private static ByteBuffer from(ByteBuffer all, int place) {
    ByteBuffer part = all.duplicate();
    part.position(place);
    return part.slice();
  }

  static Picture rgb(int width, int height, ByteBuffer pixels) {
    return new Picture() {
      @Override
      public int width() {
        return width;
      }

      @Override
      public int height() {
        return height;
      }

      @Override
      public void row(int row, int left, int count, int[] rgb) {
        for (int i = 0; i < count; i++) {
          int at = 3 * (row * width + left + i);
          rgb[i] = (pixels.get(at) & 255) << 16 | (pixels.get(at + 1) & 255) << 8 | pixels.get(at + 2) & 255;
        }
      }
    };
  }
}
