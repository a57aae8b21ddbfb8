package org.acdbit.demo;

import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.Manifest;
import android.app.ActivityManager;
import android.content.Context;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.Canvas;
import android.graphics.Color;
import android.graphics.ImageFormat;
import android.graphics.PorterDuff;
import android.graphics.SurfaceTexture;
import android.hardware.camera2.CameraCharacteristics;
import android.hardware.camera2.CameraManager;
import android.media.FakeImage;
import android.media.Image;
import android.os.Looper;
import android.util.Size;
import android.view.View;
import android.widget.Switch;
import android.widget.TextView;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import org.acdbit.classifier.Viewfinder;
import org.robolectric.Robolectric;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.shadow.api.Shadow;
import org.robolectric.shadows.ShadowCameraCharacteristics;
import org.robolectric.shadows.ShadowCameraManager;
import org.robolectric.shadows.ShadowLooper;
import org.robolectric.shadows.ShadowSystemClock;
import org.robolectric.shadows.StreamConfigurationMapBuilder;

/** The app on Robolectric's Android: what a hand does to it, what an eye sees of it. */
final class Screen implements AutoCloseable {
  final ActivityController<MainActivity> controller;
  MainActivity activity;
  private SurfaceTexture texture;

  /** Starts the app. */
  Screen() {
    controller = Robolectric.buildActivity(MainActivity.class).setup();
    activity = controller.get();
    idle();
  }

  /** Robolectric's phone has none until it is told. */
  static void setFreeMemory(long bytes) {
    ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
    memory.availMem = bytes;
    Context phone = RuntimeEnvironment.getApplication();
    shadowOf((ActivityManager) phone.getSystemService(Context.ACTIVITY_SERVICE)).setMemoryInfo(memory);
  }

  static void allowCamera() {
    shadowOf(RuntimeEnvironment.getApplication()).grantPermissions(Manifest.permission.CAMERA);
  }

  /** A camera as most phones have it at their back. */
  static void addCamera(int format) {
    CameraCharacteristics facts = ShadowCameraCharacteristics.newCameraCharacteristics();
    ShadowCameraCharacteristics shadow = Shadow.extract(facts);
    shadow.set(CameraCharacteristics.LENS_FACING, CameraCharacteristics.LENS_FACING_BACK);
    shadow.set(CameraCharacteristics.SENSOR_ORIENTATION, 90);
    StreamConfigurationMapBuilder sizes = StreamConfigurationMapBuilder.newBuilder();
    for (Size size : new Size[] {new Size(1920, 1080), new Size(640, 480), new Size(720, 480)})
      sizes.addOutputSize(format, size);
    shadow.set(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP, sizes.build());
    cameras().addCamera("0", facts);
  }

  static ShadowCameraManager cameras() {
    return Shadow.extract(RuntimeEnvironment.getApplication().getSystemService(Context.CAMERA_SERVICE));
  }

  /** Gives the preview its surface, which Robolectric does not. */
  void showPreview() throws Exception {
    texture = new SurfaceTexture(0);
    activity.onSurfaceTextureAvailable(texture, 640, 480);
    idle();
  }

  <T extends View> T view(int id) {
    return activity.findViewById(id);
  }

  boolean isShown(int id) {
    return view(id).getVisibility() == View.VISIBLE;
  }

  String text(int id) {
    return this.<TextView>view(id).getText().toString();
  }

  String spoken(int id) {
    return String.valueOf(view(id).getContentDescription());
  }

  void press(int id) throws Exception {
    assertTrue(view(id).isEnabled() && isShown(id) && view(id).performClick());
    idle();
  }

  void setBits(boolean on) throws Exception {
    this.<Switch>view(R.id.bits).setChecked(on);
    idle();
  }

  /** Turns the phone, or whatever else makes Android start the activity anew. */
  void recreate() throws Exception {
    controller.recreate();
    activity = controller.get();
    idle();
  }

  /**
   * A frame of the camera, which is upright on the screen after a turn by 90 degrees; as the camera's thread gives it.
   */
  FakeImage frame(int format, Bitmap upright) throws Exception {
    int width = 640, height = 480, row = width + 16;
    ByteBuffer luma = ByteBuffer.allocateDirect(row * height), chroma = ByteBuffer.allocateDirect(row * height / 2);
    for (int y = 0; y < height; y++) {
      for (int x = 0; x < width; x++) {
        // Clockwise by 90 degrees from the sensor to the screen.
        int pixel = upright.getPixel((height - 1 - y) * upright.getWidth() / height, x * upright.getHeight() / width);
        float r = Color.red(pixel), g = Color.green(pixel), b = Color.blue(pixel);
        luma.put(y * row + x, (byte) Math.round(0.299f * r + 0.587f * g + 0.114f * b));
        if (x % 2 != 0 || y % 2 != 0) continue;
        int at = y / 2 * row + x;
        chroma.put(at, (byte) Math.min(255, Math.round(128 + 0.5f * r - 0.418688f * g - 0.081312f * b)));
        chroma.put(at + 1, (byte) Math.min(255, Math.round(128 - 0.168736f * r - 0.331264f * g + 0.5f * b)));
      }
    }
    chroma.position(1);
    ByteBuffer blue = chroma.slice();
    chroma.position(0);
    FakeImage image = new FakeImage(format, width, height, FakeImage.plane(luma, row, 1), FakeImage.plane(blue, row, 2),
        FakeImage.plane(chroma, row, 2));
    return image;
  }

  void deliver(Image image) throws Exception {
    activity.camera().deliver(image);
    idle();
  }

  /** As a camera does, thirty times a second. */
  void show(Bitmap upright) throws Exception {
    ShadowSystemClock.advanceBy(Duration.ofMillis(33));
    deliver(frame(ImageFormat.YUV_420_888, upright));
  }

  /** A picture of the tests' folder. */
  static Bitmap picture(String name) {
    Bitmap picture = BitmapFactory.decodeFile(new File(System.getProperty("pictures"), name).getPath());
    assertTrue(name, picture != null);
    return picture;
  }

  /** Runs what waits in every thread until nothing does. */
  static void idle() {
    for (int i = 0; i < 4; i++) {
      for (Looper looper : ShadowLooper.getAllLoopers()) {
        if (!looper.getThread().isAlive() || looper == Looper.getMainLooper()) continue;
        try {
          shadowOf(looper).idle();
        } catch (IllegalStateException quitting) {
          // It ends between the question and the call; then nothing waits in it.
        }
      }
      shadowOf(Looper.getMainLooper()).idle();
    }
  }

  /**
   * Writes what is seen as a PNG; behind a preview what the camera sees, which a phone's compositor would put there.
   */
  void shoot(String name, Bitmap camera) throws IOException {
    View window = activity.getWindow().getDecorView();
    Bitmap seen = Bitmap.createBitmap(window.getWidth(), window.getHeight(), Bitmap.Config.ARGB_8888);
    Canvas canvas = new Canvas(seen);
    window.draw(canvas);
    // A TextureView leaves a hole.
    canvas.drawColor(Color.BLACK, PorterDuff.Mode.DST_OVER);
    ViewfinderView finder = view(R.id.viewfinder);
    if (camera != null) {
      Viewfinder place = finder.shown();
      int[] at = new int[2];
      finder.getLocationInWindow(at);
      canvas.translate(at[0], at[1]);
      canvas.drawBitmap(
          camera, null, new android.graphics.RectF(place.left, place.top, place.right, place.bottom), null);
      finder.draw(canvas);
    }
    File folder = new File(System.getProperty("screens"));
    assertTrue(folder.isDirectory() || folder.mkdirs());
    try (FileOutputStream file = new FileOutputStream(new File(folder, name + ".png"))) {
      assertTrue(seen.compress(Bitmap.CompressFormat.PNG, 100, file));
    }
  }

  @Override
  public void close() {
    controller.pause().stop().destroy();
    idle();
  }
}
