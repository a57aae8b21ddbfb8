package org.acdbit.classifier;

/** A picture whose pixels are read row by row: a camera's frame or a bitmap. */
public interface Picture {
  int width();

  int height();

  /**
   * Reads pixels of a row.
   *
   * @param row from 0 at the top.
   * @param left the first column.
   * @param count number of pixels.
   * @param rgb takes them, 0xRRGGBB each; what stands in the highest byte has no meaning.
   */
  void row(int row, int left, int count, int[] rgb);

  /** @param rgb all pixels, row by row, as {@code Bitmap.getPixels} gives them. */
  static Picture of(int width, int height, int[] rgb) {
    if (rgb.length != width * height)
      throw new IllegalArgumentException(rgb.length + " pixels are not " + width + " x " + height);
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
      public void row(int row, int left, int count, int[] line) {
        System.arraycopy(rgb, row * width + left, line, 0, count);
      }
    };
  }
}
