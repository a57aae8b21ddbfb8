package org.acdbit.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import android.content.Intent;
import android.graphics.ImageFormat;
import android.net.Uri;
import java.io.File;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.annotation.Config;

/** What must work on the oldest Android, too, of which Robolectric draws nothing and has no session of a camera. */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = {24, 34, 35}, qualifiers = "w411dp-h823dp-xhdpi")
public class OldestTest {
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
    Uri picture = Uri.fromFile(new File(System.getProperty("pictures"), "wide.png"));
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
