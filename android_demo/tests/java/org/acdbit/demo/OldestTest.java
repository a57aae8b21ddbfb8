package org.acdbit.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import android.content.Intent;
import android.graphics.ImageFormat;
import android.net.Uri;
import android.view.Surface;
import java.io.File;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;

/** What must work on the oldest Android, too, of which Robolectric draws nothing and has no session of a camera. */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = {24, 34, 35}, qualifiers = "w411dp-h823dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.LEGACY)
public class OldestTest {
  @Before
  public void aPhoneWithMemory() {
    Screen.setFreeMemory(2L << 30);
  }

  @Test
  public void itAsksStartsAndEnds() throws Exception {
    try (Screen screen = new Screen()) {
      screen.showPreview();
      assertTrue(screen.isShown(R.id.notice));
      assertNull(screen.activity.camera());
      screen.controller.pause().stop().restart().start().resume();
      assertEquals(screen.activity.getString(R.string.camera_why), screen.text(R.id.notice_text));
      screen.recreate();
      assertTrue(screen.isShown(R.id.notice));
    }
  }

  @Test
  public void aPictureIsClassifiedByBothModels() throws Exception {
    Uri picture = Uri.fromFile(new File(System.getProperty("pictures"), "seen.png"));
    try (Screen screen = new Screen()) {
      screen.activity.onActivityResult(MainActivity.PICTURE, -1, new Intent().setData(picture));
      Screen.idle();
      assertNotNull(screen.spoken(R.id.answers));
      assertTrue(screen.text(R.id.figures), screen.text(R.id.figures).startsWith("1 bit"));
      screen.setBits(false);
      assertTrue(screen.text(R.id.figures), screen.text(R.id.figures).startsWith("float"));
      assertTrue(screen.spoken(R.id.answers).contains("%"));
    }
  }

  @Test
  @Config(sdk = {34, 35})
  public void noSurfaceIsLeftBehindHoweverOftenTheAppIsLeft() throws Exception {
    Screen.allowCamera();
    Screen.addCamera(ImageFormat.YUV_420_888);
    try (Screen screen = new Screen()) {
      screen.showPreview();
      for (int i = 0; i < 20; i++) {
        Surface held = screen.activity.camera().preview();
        assertTrue(held.isValid());
        screen.controller.pause();
        assertNull(screen.activity.camera());
        assertFalse(held.isValid());
        screen.controller.resume();
      }
    }
  }

  @Test
  public void aFrameIsClassified() throws Exception {
    try (Screen screen = new Screen()) {
      CameraSource camera =
          new CameraSource(screen.activity, screen.activity.recognizer().handler(), 0, screen.activity);
      camera.deliver(screen.frame(ImageFormat.YUV_420_888,
          android.graphics.Bitmap.createBitmap(48, 64, android.graphics.Bitmap.Config.ARGB_8888)));
      Screen.idle();
      assertTrue(screen.spoken(R.id.answers).contains("%"));
    }
  }
}
