package android.media;

import java.nio.ByteBuffer;

/** An image of a camera that is not there: only this package may make one. */
public final class FakeImage extends Image {
  private final int format, width, height;
  private final Plane[] planes;
  private boolean closed;

  public FakeImage(int format, int width, int height, Plane... planes) {
    this.format = format;
    this.width = width;
    this.height = height;
    this.planes = planes;
    mIsImageValid = true;
  }

  public static Plane plane(ByteBuffer bytes, int row, int pixel) {
    return new Plane() {
      @Override
      public int getRowStride() {
        return row;
      }

      @Override
      public int getPixelStride() {
        return pixel;
      }

      @Override
      public ByteBuffer getBuffer() {
        return bytes;
      }
    };
  }

  public boolean isClosed() {
    return closed;
  }

  @Override
  public int getFormat() {
    return format;
  }

  @Override
  public int getWidth() {
    return width;
  }

  @Override
  public int getHeight() {
    return height;
  }

  @Override
  public int getTransform() {
    return 0;
  }

  @Override
  public int getScalingMode() {
    return 0;
  }

  @Override
  public long getTimestamp() {
    return 0;
  }

  @Override
  public Plane[] getPlanes() {
    return planes;
  }

  @Override
  public void close() {
    closed = true;
  }
}
