package org.acdbit.classifier;

/**
 * Where a camera's picture lies in a view that shows all of it as large as it fits, upright, and where in it the part
 * lies that a model sees. Lengths are pixels of the view, angles clockwise degrees.
 */
public final class Viewfinder {
  /** Clockwise turn that makes the sensor's picture upright: what {@link Preprocessor#prepare} takes. */
  public final int rotation;
  /** The picture in the view. */
  public final float left, top, right, bottom;
  /** The part of it that the model sees. */
  public final float cropLeft, cropTop, cropRight, cropBottom;

  /**
   * @param width of the sensor's picture, or of one that is upright already, with a rotation of 0.
   * @param height of it.
   * @param rotation clockwise turn that makes it upright.
   */
  public Viewfinder(int width, int height, int rotation, int viewWidth, int viewHeight, int inputWidth, int inputHeight,
      double share) {
    this.rotation = rotation;
    boolean across = rotation % 180 != 0;
    int w = across ? height : width, h = across ? width : height;
    float scale = Math.min(viewWidth / (float) w, viewHeight / (float) h);
    left = (viewWidth - w * scale) / 2;
    top = (viewHeight - h * scale) / 2;
    right = left + w * scale;
    bottom = top + h * scale;
    Crop crop = Crop.of(w, h, inputWidth, inputHeight, share);
    cropLeft = left + crop.left * scale;
    cropTop = top + crop.top * scale;
    cropRight = cropLeft + crop.width * scale;
    cropBottom = cropTop + crop.height * scale;
  }

  /**
   * Clockwise turn that makes a sensor's picture upright on the screen.
   *
   * @param sensor the camera's SENSOR_ORIENTATION.
   * @param display how far the screen is turned from its natural orientation, counter-clockwise as Android counts: 0,
   *     90, 180, 270.
   * @param front whether the camera looks at its user: then the screen turns the other way, as seen from it.
   */
  public static int rotation(int sensor, int display, boolean front) {
    return (front ? sensor + display : sensor - display + 360) % 360;
  }

  /**
   * The transform of a TextureView that shows a camera in this place. A TextureView turns the camera's picture by the
   * sensor's orientation and stretches it over itself; what is left is to turn it back by the screen's rotation, to
   * give it its own proportions and to fit it in.
   *
   * @param sensor as for {@link #rotation(int, int, boolean)}.
   * @param display likewise.
   * @return a, b, c, d of x' = a (x - w / 2) + b (y - h / 2) + w / 2, y' = c (x - w / 2) + d (y - h / 2) + h / 2.
   */
  public static float[] transform(int width, int height, int sensor, int display, int viewWidth, int viewHeight) {
    boolean across = sensor % 180 != 0, turned = display % 180 != 0;
    float w = across ? height : width, h = across ? width : height;
    float scale = turned ? Math.min(viewWidth / h, viewHeight / w) : Math.min(viewWidth / w, viewHeight / h);
    float x = scale * w / viewWidth, y = scale * h / viewHeight;
    // Counter-clockwise by the screen's rotation, the y axis pointing down.
    int cos = display == 0 ? 1 : display == 180 ? -1 : 0, sin = display == 90 ? 1 : display == 270 ? -1 : 0;
    return new float[] {cos * x, sin * y, -sin * x, cos * y};
  }
}
