package org.acdbit.classifier;

import java.util.Arrays;

/**
 * From a picture to the input of a model: the middle of it, turned upright, at the model's size, in its channels.
 * Pixels stay between 0 and 255; {@link Classifier} normalises them. Keeps its working memory; not thread-safe.
 */
public final class Preprocessor {
  private final int width, height, channels;
  private Resampling columns, rows;
  private int[] line = new int[0];
  private float[] samples = new float[0], sums = new float[0];

  /**
   * @param width of the model's input, in pixels.
   * @param height of the model's input.
   * @param channels 3 (red, green, blue) or 1 (luma of BT.601).
   */
  public Preprocessor(int width, int height, int channels) {
    if (channels != 1 && channels != 3)
      throw new IllegalArgumentException("pictures have 1 or 3 channels, not " + channels);
    this.width = width;
    this.height = height;
    this.channels = channels;
  }

  /**
   * @param rotation clockwise degrees that turn the picture upright: 0, 90, 180 or 270.
   * @param share as for {@link Crop#of}.
   * @return height * width * channels pixel values, by rows.
   */
  public float[] prepare(Picture picture, int rotation, double share) {
    if (rotation % 90 != 0 || rotation < 0 || rotation > 270) {
      throw new IllegalArgumentException("a rotation must be 0, 90, 180 or 270 degrees, not " + rotation);
    }
    // What lies across in the sensor's picture lies upright afterwards.
    boolean across = rotation % 180 != 0;
    int w = across ? height : width, h = across ? width : height;
    Crop crop = Crop.of(picture.width(), picture.height(), w, h, share);
    if (columns == null || columns.size != crop.width || columns.newSize != w) columns = new Resampling(crop.width, w);
    if (rows == null || rows.size != crop.height || rows.newSize != h) rows = new Resampling(crop.height, h);
    resample(picture, crop, w);
    return turned(w, h, rotation);
  }

  /** Every row of the crop is read once, made narrower, and added to the new rows that it is part of. */
  private void resample(Picture picture, Crop crop, int w) {
    int wide = w * channels;
    if (line.length != crop.width) line = new int[crop.width];
    if (samples.length != wide) samples = new float[wide];
    if (sums.length != wide * rows.newSize) sums = new float[wide * rows.newSize];
    Arrays.fill(sums, 0);
    int begin = 0;
    for (int row = 0; row < crop.height; row++) {
      while (begin < rows.newSize && rows.last(begin) < row) begin++;
      picture.row(crop.top + row, crop.left, crop.width, line);
      narrow();
      for (int out = begin; out < rows.newSize && rows.first[out] <= row; out++) {
        if (rows.last(out) < row) continue;
        float weight = rows.weights[out][row - rows.first[out]];
        for (int i = 0, at = out * wide; i < wide; i++, at++) sums[at] += weight * samples[i];
      }
    }
  }

  private void narrow() {
    if (channels == 1) {
      // Sixteen bits, rounded, as Pillow makes grey of colours.
      for (int i = 0; i < line.length; i++) {
        int p = line[i];
        line[i] = (p >> 16 & 255) * 19595 + (p >> 8 & 255) * 38470 + (p & 255) * 7471 + 0x8000 >> 16;
      }
    }
    for (int i = 0; i < columns.newSize; i++) {
      float[] weights = columns.weights[i];
      int from = columns.first[i];
      float red = 0, green = 0, blue = 0;
      if (channels == 1) {
        for (int j = 0; j < weights.length; j++) blue += weights[j] * line[from + j];
        samples[i] = blue;
        continue;
      }
      for (int j = 0; j < weights.length; j++) {
        int p = line[from + j];
        red += weights[j] * (p >> 16 & 255);
        green += weights[j] * (p >> 8 & 255);
        blue += weights[j] * (p & 255);
      }
      samples[3 * i] = red;
      samples[3 * i + 1] = green;
      samples[3 * i + 2] = blue;
    }
  }

  private float[] turned(int w, int h, int rotation) {
    float[] upright = new float[sums.length];
    for (int row = 0; row < height; row++) {
      for (int column = 0; column < width; column++) {
        int from;
        switch (rotation) {
          case 90:
            from = (h - 1 - column) * w + row;
            break;
          case 180:
            from = (h - 1 - row) * w + w - 1 - column;
            break;
          case 270:
            from = column * w + w - 1 - row;
            break;
          default:
            from = row * w + column;
        }
        System.arraycopy(sums, from * channels, upright, (row * width + column) * channels, channels);
      }
    }
    return upright;
  }
}
