package org.acdbit.classifier;

/** The part of a picture that a model sees: in the middle, in the proportions of the model's input. */
public final class Crop {
  public final int left, top, width, height;

  private Crop(int left, int top, int width, int height) {
    this.left = left;
    this.top = top;
    this.width = width;
    this.height = height;
  }

  /**
   * @param width of the picture, in pixels.
   * @param height of the picture.
   * @param inputWidth of the model's input.
   * @param inputHeight of the model's input.
   * @param share of the side that limits the crop, above 0 and at most 1: the card's central_share.
   */
  public static Crop of(int width, int height, int inputWidth, int inputHeight, double share) {
    double scale = Math.min(height / (double) inputHeight, width / (double) inputWidth) * share;
    int w = kept(inputWidth, scale), h = kept(inputHeight, scale);
    return new Crop((width - w) / 2, (height - h) / 2, w, h);
  }

  private static int kept(int side, double scale) {
    return Math.max(1, (int) Math.rint(side * scale)); // half to even, as evaluation in Python rounds
  }
}
