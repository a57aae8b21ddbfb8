package org.acdbit.demo;

import android.annotation.SuppressLint;
import android.content.Context;
import android.graphics.ImageFormat;
import android.graphics.SurfaceTexture;
import android.hardware.camera2.CameraAccessException;
import android.hardware.camera2.CameraCaptureSession;
import android.hardware.camera2.CameraCharacteristics;
import android.hardware.camera2.CameraDevice;
import android.hardware.camera2.CameraManager;
import android.hardware.camera2.CaptureRequest;
import android.hardware.camera2.params.StreamConfigurationMap;
import android.media.Image;
import android.media.ImageReader;
import android.os.Handler;
import android.util.Size;
import android.view.Surface;
import java.util.Arrays;
import org.acdbit.classifier.Frame;
import org.acdbit.classifier.Viewfinder;

/**
 * The back camera, or the one that there is: its pictures go into a preview and, always the newest, to a listener on
 * the handler's thread. Opened once and closed once; closing waits for the picture that is being looked at, whose
 * memory ends with it.
 */
final class CameraSource {
  /** Rows of the pictures: more than any model here looks at, and little enough to be read in milliseconds. */
  private static final int ROWS = 480;

  /** What keeps the camera from working. */
  enum Problem { NONE_THERE, IN_USE, FORMAT, FAILED }

  /** Called on the handler's thread, or from {@link #open}. */
  interface Listener {
    /** @param rotation clockwise degrees that turn it upright on the screen. */
    void onFrame(Frame frame, int rotation);

    void onProblem(Problem problem, String detail);
  }

  private final CameraManager manager;
  private final Handler handler;
  private final Listener listener;
  private Surface preview;
  private CameraDevice device;
  private CameraCaptureSession session;
  private ImageReader reader;
  private boolean closed;
  private int display;

  /** What the camera has told of itself once it is opened: size of its pictures, how it is built in, where it looks. */
  int width, height, sensor;
  boolean front;

  /** @param display how far the screen is turned, in degrees. */
  CameraSource(Context context, Handler handler, int display, Listener listener) {
    manager = (CameraManager) context.getSystemService(Context.CAMERA_SERVICE);
    this.handler = handler;
    this.display = display;
    this.listener = listener;
  }

  /** The permission must be granted. */
  @SuppressLint("MissingPermission")
  synchronized void open(SurfaceTexture texture) {
    try {
      String id = find();
      if (id == null) {
        listener.onProblem(Problem.NONE_THERE, "");
        return;
      }
      Size size = size(manager.getCameraCharacteristics(id));
      if (size == null) {
        listener.onProblem(Problem.FORMAT, "");
        return;
      }
      width = size.getWidth();
      height = size.getHeight();
      texture.setDefaultBufferSize(width, height);
      preview = new Surface(texture);
      // Two: one that is looked at, one that is being filled.
      reader = ImageReader.newInstance(width, height, ImageFormat.YUV_420_888, 2);
      reader.setOnImageAvailableListener(this::deliver, handler);
      manager.openCamera(id, new Device(), handler);
    } catch (CameraAccessException | RuntimeException failed) {
      failed(failed);
    }
  }

  private String find() throws CameraAccessException {
    String any = null;
    for (String id : manager.getCameraIdList()) {
      Integer facing = manager.getCameraCharacteristics(id).get(CameraCharacteristics.LENS_FACING);
      if (facing != null && facing == CameraCharacteristics.LENS_FACING_BACK) return id;
      any = id;
    }
    return any;
  }

  private Size size(CameraCharacteristics facts) {
    Integer orientation = facts.get(CameraCharacteristics.SENSOR_ORIENTATION);
    Integer facing = facts.get(CameraCharacteristics.LENS_FACING);
    sensor = orientation == null ? 90 : orientation;
    front = facing != null && facing == CameraCharacteristics.LENS_FACING_FRONT;
    StreamConfigurationMap map = facts.get(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP);
    Size[] sizes = map == null ? null : map.getOutputSizes(ImageFormat.YUV_420_888);
    Size best = null;
    for (Size size : sizes == null ? new Size[0] : sizes) {
      if (best == null || distance(size) < distance(best)) best = size;
    }
    return best;
  }

  /**
   * From the size that is wanted: by rows, and of as many rows the one nearest to 4:3, which shows the whole sensor.
   */
  private static long distance(Size size) {
    return 10_000L * Math.abs(size.getHeight() - ROWS) + Math.abs(3 * size.getWidth() - 4 * size.getHeight());
  }

  private final class Device extends CameraDevice.StateCallback {
    @Override
    @SuppressWarnings("deprecation") // its successor is of Android 9
    public void onOpened(CameraDevice opened) {
      synchronized (CameraSource.this) {
        if (closed) {
          opened.close();
          return;
        }
        device = opened;
        try {
          CaptureRequest.Builder request = opened.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW);
          request.addTarget(preview);
          request.addTarget(reader.getSurface());
          opened.createCaptureSession(
              Arrays.asList(preview, reader.getSurface()), new Session(request.build()), handler);
        } catch (CameraAccessException | RuntimeException failed) {
          failed(failed);
        }
      }
    }

    @Override
    public void onDisconnected(CameraDevice lost) {
      lost.close();
      if (!isClosed()) listener.onProblem(Problem.IN_USE, "");
    }

    @Override
    public void onError(CameraDevice lost, int error) {
      lost.close();
      boolean used = error == ERROR_CAMERA_IN_USE || error == ERROR_MAX_CAMERAS_IN_USE;
      if (!isClosed()) listener.onProblem(used ? Problem.IN_USE : Problem.FAILED, "error " + error);
    }
  }

  private final class Session extends CameraCaptureSession.StateCallback {
    private final CaptureRequest request;

    Session(CaptureRequest request) {
      this.request = request;
    }

    @Override
    public void onConfigured(CameraCaptureSession made) {
      synchronized (CameraSource.this) {
        if (closed) return;
        session = made;
        try {
          made.setRepeatingRequest(request, null, handler);
        } catch (CameraAccessException | RuntimeException failed) {
          failed(failed);
        }
      }
    }

    @Override
    public void onConfigureFailed(CameraCaptureSession failed) {
      if (!isClosed()) listener.onProblem(Problem.FAILED, width + " x " + height);
    }
  }

  private void failed(Exception failed) {
    boolean used = false;
    if (failed instanceof CameraAccessException) {
      int reason = ((CameraAccessException) failed).getReason();
      used = reason == CameraAccessException.CAMERA_IN_USE || reason == CameraAccessException.MAX_CAMERAS_IN_USE;
    }
    listener.onProblem(used ? Problem.IN_USE : Problem.FAILED, String.valueOf(failed.getMessage()));
  }

  private synchronized void deliver(ImageReader from) {
    if (closed) return;
    Image image = from.acquireLatestImage();
    if (image != null) deliver(image);
  }

  /** Looks at an image and gives it back. Not private for tests, which make images without a camera. */
  void deliver(Image image) {
    try {
      look(image);
    } finally {
      image.close();
    }
  }

  private void look(Image image) {
    Image.Plane[] planes = image.getPlanes();
    Frame frame;
    try {
      if (image.getFormat() != ImageFormat.YUV_420_888 || planes.length != 3 || planes[0].getPixelStride() != 1
          || planes[1].getRowStride() != planes[2].getRowStride()
          || planes[1].getPixelStride() != planes[2].getPixelStride()) {
        throw new IllegalArgumentException("format " + image.getFormat());
      }
      frame = new Frame(image.getWidth(), image.getHeight(), planes[0].getBuffer(), planes[0].getRowStride(),
          planes[1].getBuffer(), planes[2].getBuffer(), planes[1].getRowStride(), planes[1].getPixelStride());
    } catch (IllegalArgumentException another) {
      listener.onProblem(Problem.FORMAT, String.valueOf(another.getMessage()));
      return;
    }
    listener.onFrame(frame, Viewfinder.rotation(sensor, display, front));
  }

  /** Into which the preview is drawn; null before and after. */
  synchronized Surface preview() {
    return preview;
  }

  /** The screen was turned. */
  synchronized void setDisplay(int degrees) {
    display = degrees;
  }

  private synchronized boolean isClosed() {
    return closed;
  }

  synchronized void close() {
    closed = true;
    if (session != null) session.close();
    if (device != null) device.close();
    if (reader != null) reader.close();
    if (preview != null) preview.release();
    session = null;
    device = null;
    reader = null;
    preview = null;
  }
}
