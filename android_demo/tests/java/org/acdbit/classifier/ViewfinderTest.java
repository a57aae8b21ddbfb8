package org.acdbit.classifier;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import org.junit.Test;

/**
 * That the square on the screen is what the model sees, for every way in which a camera is built in and a phone is
 * held.
 */
public class ViewfinderTest {
  private static final int[] ANGLES = {0, 90, 180, 270};
  private static final int[][] FRAMES = {{640, 480}, {1280, 720}, {352, 288}, {480, 480}};
  private static final int[][] VIEWS = {{1080, 1500}, {2000, 900}, {800, 800}};

  /**
   * A TextureView of a camera, as Android describes it: the sensor's picture turned clockwise by its orientation and
   * stretched over the view, then the transform. Where a place in the sensor's picture (0 to 1) is seen.
   */
  private static double[] seen(double x, double y, int[] frame, int sensor, int display, int[] view) {
    double[] turned = turn(x, y, sensor);
    float[] t = Viewfinder.transform(frame[0], frame[1], sensor, display, view[0], view[1]);
    double dx = turned[0] * view[0] - view[0] / 2.0, dy = turned[1] * view[1] - view[1] / 2.0;
    return new double[] {t[0] * dx + t[1] * dy + view[0] / 2.0, t[2] * dx + t[3] * dy + view[1] / 2.0};
  }

  /** A place in a square of side 1 after a clockwise turn of it. */
  private static double[] turn(double x, double y, int angle) {
    switch (angle) {
      case 90:
        return new double[] {1 - y, x};
      case 180:
        return new double[] {1 - x, 1 - y};
      case 270:
        return new double[] {y, 1 - x};
      default:
        return new double[] {x, y};
    }
  }

  /**
   * Only the back camera's picture is what a TextureView shows; that of the front one it mirrors, over an axis in the
   * middle.
   */
  @Test
  public void theSquareOfTheSensorIsTheOneOnTheScreen() {
    for (int[] frame : FRAMES) {
      for (int[] view : VIEWS) {
        for (int sensor : ANGLES) {
          for (int display : ANGLES) {
            int rotation = Viewfinder.rotation(sensor, display, false);
            Viewfinder shown = new Viewfinder(frame[0], frame[1], rotation, view[0], view[1], 32, 32, 0.875);
            boolean across = rotation % 180 != 0;
            Crop crop = Crop.of(frame[0], frame[1], 32, 32, 0.875);
            double[][] corners = {{crop.left, crop.top}, {crop.left + crop.width, crop.top + crop.height}};
            double left = Double.MAX_VALUE, top = Double.MAX_VALUE, right = -1, bottom = -1;
            for (double[] corner : corners) {
              double[] at = seen(corner[0] / frame[0], corner[1] / frame[1], frame, sensor, display, view);
              left = Math.min(left, at[0]);
              right = Math.max(right, at[0]);
              top = Math.min(top, at[1]);
              bottom = Math.max(bottom, at[1]);
            }
            String what = frame[0] + "x" + frame[1] + " sensor " + sensor + " display " + display;
            float pixel = (shown.right - shown.left) / (across ? frame[1] : frame[0]);
            assertEquals(what, shown.cropLeft, left, pixel + 0.01);
            assertEquals(what, shown.cropTop, top, pixel + 0.01);
            assertEquals(what, shown.cropRight, right, pixel + 0.01);
            assertEquals(what, shown.cropBottom, bottom, pixel + 0.01);
            assertEquals(what, right - left, bottom - top, 0.05);
          }
        }
      }
    }
  }

  @Test
  public void whatIsUprightOnTheScreenIsUprightForTheModel() {
    // One white pixel near the sensor's corner; where the screen shows it, the model must have it.
    int size = 8, x = 1, y = 0;
    int[] frame = {size, size}, view = {80, 80};
    ByteBuffer pixels = ByteBuffer.allocate(3 * size * size);
    for (int c = 0; c < 3; c++) pixels.put(3 * (y * size + x) + c, (byte) 255);
    for (int sensor : ANGLES) {
      for (int display : ANGLES) {
        int rotation = Viewfinder.rotation(sensor, display, false);
        float[] looked = new Preprocessor(size, size, 3).prepare(Batch.rgb(size, size, pixels), rotation, 1);
        double[] at = seen((x + 0.5) / size, (y + 0.5) / size, frame, sensor, display, view);
        int column = (int) (at[0] / 10), row = (int) (at[1] / 10);
        assertEquals("sensor " + sensor + " display " + display, 255, looked[3 * (row * size + column)], 1e-3);
      }
    }
  }

  @Test
  public void theWholePictureIsSeenAsLargeAsItFits() {
    for (int[] frame : FRAMES) {
      for (int[] view : VIEWS) {
        for (int rotation : ANGLES) {
          Viewfinder shown = new Viewfinder(frame[0], frame[1], rotation, view[0], view[1], 32, 32, 1);
          double wide = shown.right - shown.left, high = shown.bottom - shown.top;
          assertTrue(wide <= view[0] + 0.01 && high <= view[1] + 0.01);
          assertTrue(Math.abs(wide - view[0]) < 0.01 || Math.abs(high - view[1]) < 0.01);
          assertEquals(
              rotation % 180 == 0 ? frame[0] / (double) frame[1] : frame[1] / (double) frame[0], wide / high, 1e-3);
        }
      }
    }
  }

  @Test
  public void aFrontCameraTurnsTheOtherWay() {
    assertEquals(0, Viewfinder.rotation(270, 90, true));
    assertEquals(270, Viewfinder.rotation(270, 0, true));
    assertEquals(180, Viewfinder.rotation(270, 90, false));
  }
}
