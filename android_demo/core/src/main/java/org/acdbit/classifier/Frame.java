package org.acdbit.classifier;

import java.nio.ByteBuffer;

/**
 * A camera's picture as Android hands it over, YUV_420_888: one plane of luma and two of chroma at half the size, each
 * with strides of its own. The planes are not copied: a frame is good as long as its buffers are.
 *
 * <p>Colours are those of JFIF: BT.601, full range.
 */
public final class Frame implements Picture {
  private final int width, height, lumaRow, chromaRow, chromaPixel;
  private final ByteBuffer luma, blue, red;

  /**
   * @param luma Y, bytes; pixels of a row lie next to each other.
   * @param lumaRow bytes from one row of luma to the next.
   * @param blue U, bytes.
   * @param red V, bytes.
   * @param chromaRow bytes from one row of U or V to the next.
   * @param chromaPixel bytes from one pixel of U or V to the next: 1, or 2 where both share memory.
   * @throws IllegalArgumentException strides that do not fit the size, or a plane that ends before its last pixel.
   */
  public Frame(int width, int height, ByteBuffer luma, int lumaRow, ByteBuffer blue, ByteBuffer red, int chromaRow,
      int chromaPixel) {
    if (width < 1 || height < 1) throw new IllegalArgumentException("a frame of " + width + " x " + height + " pixels");
    check("Y", luma, width, height, lumaRow, 1);
    check("U", blue, (width + 1) / 2, (height + 1) / 2, chromaRow, chromaPixel);
    check("V", red, (width + 1) / 2, (height + 1) / 2, chromaRow, chromaPixel);
    this.width = width;
    this.height = height;
    this.luma = luma;
    this.lumaRow = lumaRow;
    this.blue = blue;
    this.red = red;
    this.chromaRow = chromaRow;
    this.chromaPixel = chromaPixel;
  }

  private static void check(String plane, ByteBuffer bytes, int width, int height, int row, int pixel) {
    long wide = (width - 1L) * pixel + 1;
    if (pixel < 1 || row < wide) {
      throw new IllegalArgumentException(
          "plane " + plane + ": rows of " + row + " bytes do not hold " + width + " pixels");
    }
    if (bytes.limit() < (height - 1L) * row + wide) {
      throw new IllegalArgumentException("plane " + plane + " ends after " + bytes.limit() + " bytes");
    }
  }

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
    int from = row * lumaRow + left, chroma = (row >> 1) * chromaRow;
    for (int i = 0; i < count; i++) {
      int y = (luma.get(from + i) & 0xff) << 16, at = chroma + (left + i >> 1) * chromaPixel;
      int u = (blue.get(at) & 0xff) - 128, v = (red.get(at) & 0xff) - 128;
      // 1.402, 0.344136, 0.714136 and 1.772 in units of 2^-16.
      rgb[i] = byteOf(y + 91881 * v) << 16 | byteOf(y - 22554 * u - 46802 * v) << 8 | byteOf(y + 116130 * u);
    }
  }

  private static int byteOf(int fixed) {
    int value = fixed + 0x8000 >> 16;
    return value < 0 ? 0 : Math.min(value, 255);
  }
}
