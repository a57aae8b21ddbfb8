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
}
