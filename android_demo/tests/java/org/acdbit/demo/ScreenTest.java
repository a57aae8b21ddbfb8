package org.acdbit.demo;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.Manifest;
import android.app.Activity;
import android.app.AlertDialog;
import android.content.Intent;
import android.content.pm.PackageManager;
import android.graphics.Bitmap;
import android.graphics.ImageFormat;
import android.media.FakeImage;
import android.net.Uri;
import android.provider.Settings;
import android.view.View;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.Switch;
import android.widget.TextView;
import java.io.File;
import org.acdbit.classifier.Viewfinder;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;
import org.robolectric.shadows.ShadowAlertDialog;
import org.robolectric.shadows.ShadowDialog;

/** The app from its start to its end, with the real TFLite, the real runtime and models of the zoo. */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = {34, 35}, qualifiers = "w411dp-h823dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
public class ScreenTest {
  @Before
  public void aPhoneWithMemory() {
    Screen.setFreeMemory(2L << 30);
  }

  private static final Uri PICTURE = Uri.fromFile(new File(System.getProperty("pictures"), "tall.jpg"));

  private static Screen withCamera() throws Exception {
    Screen.allowCamera();
    Screen.addCamera(ImageFormat.YUV_420_888);
    Screen screen = new Screen();
    screen.showPreview();
    return screen;
  }

  private static void answer(Screen screen, int code) throws Exception {
    screen.activity.onRequestPermissionsResult(
        MainActivity.CAMERA, new String[] {Manifest.permission.CAMERA}, new int[] {code});
    Screen.idle();
  }

  private static void choose(Screen screen, int request, Uri uri) throws Exception {
    screen.activity.onActivityResult(request, Activity.RESULT_OK, new Intent().setData(uri));
    Screen.idle();
  }

  // === Permission ===

  @Test
  public void theCameraIsAskedForWithItsReasonAndUsedOnceAllowed() throws Exception {
    Screen.addCamera(ImageFormat.YUV_420_888);
    try (Screen screen = new Screen()) {
      screen.showPreview();
      assertTrue(screen.isShown(R.id.notice));
      assertEquals(screen.activity.getString(R.string.camera_why), screen.text(R.id.notice_text));
      screen.shoot("permission", null);
      screen.press(R.id.notice_button);
      assertArrayEquals(new String[] {Manifest.permission.CAMERA},
          shadowOf(screen.activity).getLastRequestedPermission().requestedPermissions);
      Screen.allowCamera();
      answer(screen, PackageManager.PERMISSION_GRANTED);
      assertFalse(screen.isShown(R.id.notice));
      assertNotNull(screen.activity.camera());
    }
  }

  @Test
  public void deniedOnceItAsksAgainAndDeniedForGoodItLeadsToTheSettings() throws Exception {
    Screen.addCamera(ImageFormat.YUV_420_888);
    try (Screen screen = new Screen()) {
      screen.showPreview();
      shadowOf(RuntimeEnvironment.getApplication().getPackageManager())
          .setShouldShowRequestPermissionRationale(Manifest.permission.CAMERA, true);
      answer(screen, PackageManager.PERMISSION_DENIED);
      assertEquals(screen.activity.getString(R.string.camera_allow), screen.text(R.id.notice_button));
      shadowOf(RuntimeEnvironment.getApplication().getPackageManager())
          .setShouldShowRequestPermissionRationale(Manifest.permission.CAMERA, false);
      answer(screen, PackageManager.PERMISSION_DENIED);
      assertEquals(screen.activity.getString(R.string.camera_denied), screen.text(R.id.notice_text));
      screen.press(R.id.notice_button);
      Intent settings = shadowOf(screen.activity).getNextStartedActivityForResult().intent;
      assertEquals(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, settings.getAction());
      assertEquals("package:org.acdbit.demo", settings.getDataString());
      assertNull(screen.activity.camera());
      // Whoever allows it there comes back to a camera.
      screen.controller.pause();
      Screen.allowCamera();
      screen.controller.resume();
      assertFalse(screen.isShown(R.id.notice));
      assertNotNull(screen.activity.camera());
    }
  }

  @Test
  public void aQuestionThatWasTakenAwayIsNoDenial() throws Exception {
    try (Screen screen = new Screen()) {
      screen.activity.onRequestPermissionsResult(MainActivity.CAMERA, new String[0], new int[0]);
      assertEquals(screen.activity.getString(R.string.camera_allow), screen.text(R.id.notice_button));
    }
  }

  // === Camera ===

  @Test
  public void framesBecomeAnswersFiguresAndAViewfinder() throws Exception {
    Bitmap seen = Screen.picture("seen.png");
    try (Screen screen = withCamera()) {
      for (int i = 0; i < 5; i++) screen.show(seen);
      String spoken = screen.spoken(R.id.answers);
      assertEquals(spoken, 3, spoken.split("%").length);
      assertTrue(spoken, spoken.matches("\\w+, \\d+%\\. \\w+, \\d+%\\. \\w+, \\d+%"));
      String figures = screen.text(R.id.figures);
      assertTrue(figures,
          figures.matches(
              "(?s)1 bit · \\d\\d\\d (kB|KB) · cifar10, 10 classes\\n\\d+\\.\\d\\d ms · 30\\.3 frames/s · \\w+"));
      Viewfinder finder = screen.<ViewfinderView>view(R.id.viewfinder).shown();
      View around = screen.view(R.id.viewfinder);
      // Upright the frame is 480 x 640: the square is as wide as the picture, and in the middle.
      assertEquals(finder.right - finder.left, finder.cropRight - finder.cropLeft, 1.5);
      assertEquals(finder.cropRight - finder.cropLeft, finder.cropBottom - finder.cropTop, 0.1);
      assertEquals(around.getWidth() / 2f, (finder.cropLeft + finder.cropRight) / 2, 1);
      assertEquals(around.getHeight() / 2f, (finder.cropTop + finder.cropBottom) / 2, 1);
      screen.shoot("camera", seen);
    }
  }

  @Test
  public void everyFrameIsGivenBackAndTheCameraClosedWithTheApp() throws Exception {
    try (Screen screen = withCamera()) {
      for (int format : new int[] {ImageFormat.YUV_420_888, ImageFormat.JPEG}) {
        FakeImage image = screen.frame(format, Screen.picture("seen.png"));
        screen.deliver(image);
        assertTrue(image.isClosed());
      }
      screen.press(R.id.notice_button);
      screen.controller.pause();
      assertNull(screen.activity.camera());
      screen.controller.resume();
      assertNotNull(screen.activity.camera());
      screen.show(Screen.picture("seen.png"));
      screen.activity.onSurfaceTextureDestroyed(null);
      assertNull(screen.activity.camera());
      screen.showPreview();
      assertNotNull(screen.activity.camera());
    }
  }

  @Test
  public void withoutACameraPicturesCanStillBeChosen() throws Exception {
    Screen.allowCamera();
    try (Screen screen = new Screen()) {
      screen.showPreview();
      assertEquals(screen.activity.getString(R.string.camera_none), screen.text(R.id.notice_text));
      choose(screen, MainActivity.PICTURE, PICTURE);
      assertFalse(screen.isShown(R.id.notice));
      assertTrue(screen.spoken(R.id.answers), screen.spoken(R.id.answers).contains("%"));
    }
  }

  @Test
  public void aCameraThatAnotherAppTakesIsSaidAndCanBeTriedAgain() throws Exception {
    try (Screen screen = withCamera()) {
      Screen.cameras().triggerDisconnect();
      Screen.idle();
      assertEquals(screen.activity.getString(R.string.camera_in_use), screen.text(R.id.notice_text));
      screen.shoot("camera_in_use", null);
      screen.press(R.id.notice_button);
      assertFalse(screen.isShown(R.id.notice));
      screen.show(Screen.picture("seen.png"));
      assertTrue(screen.spoken(R.id.answers).contains("%"));
    }
  }

  @Test
  public void aFrameOfAnotherFormatIsSaid() throws Exception {
    try (Screen screen = withCamera()) {
      screen.deliver(screen.frame(ImageFormat.JPEG, Screen.picture("seen.png")));
      assertEquals(screen.activity.getString(R.string.camera_format), screen.text(R.id.notice_text));
    }
    Screen.cameras().removeCamera("0");
    Screen.addCamera(ImageFormat.YV12);
    try (Screen screen = new Screen()) {
      screen.showPreview();
      assertEquals(screen.activity.getString(R.string.camera_format), screen.text(R.id.notice_text));
    }
  }

  // === Pictures ===

  @Test
  public void aPictureOfThePhoneIsTurnedAsItsExifDataSay() throws Exception {
    try (Screen screen = withCamera()) {
      String[] answers = new String[2];
      // The same picture, once upright, once lying with a note that says so.
      for (int i = 0; i < 2; i++) {
        choose(screen, MainActivity.PICTURE,
            Uri.fromFile(new File(System.getProperty("pictures"), i == 0 ? "tall.png" : "tall.jpg")));
        answers[i] = screen.spoken(R.id.answers);
        Viewfinder finder = screen.<ViewfinderView>view(R.id.viewfinder).shown();
        assertTrue(finder.bottom - finder.top > finder.right - finder.left);
        if (i == 0) screen.press(R.id.picture);
      }
      assertEquals(answers[0].split(",")[0], answers[1].split(",")[0]);
      assertNull(screen.activity.camera());
      screen.shoot("picture", null);
      screen.press(R.id.picture);
      assertFalse(screen.isShown(R.id.still));
      assertNotNull(screen.activity.camera());
    }
  }

  @Test
  public void whatIsNoPictureIsSaidInOneSentence() throws Exception {
    try (Screen screen = withCamera()) {
      choose(screen, MainActivity.PICTURE, Uri.fromFile(new File(System.getProperty("models"), "bits.tflite")));
      assertEquals(screen.activity.getString(R.string.picture_bad), screen.text(R.id.error));
      choose(screen, MainActivity.PICTURE, Uri.fromFile(new File("/nowhere.png")));
      assertTrue(screen.isShown(R.id.error));
      assertNotNull(screen.activity.camera());
      screen.show(Screen.picture("seen.png"));
      assertTrue(screen.spoken(R.id.answers).contains("%"));
    }
  }

  // === Settings ===

  @Test
  public void theSwitchGoesToTheFloatTwin() throws Exception {
    try (Screen screen = withCamera()) {
      screen.show(Screen.picture("seen.png"));
      assertTrue(screen.text(R.id.figures).startsWith("1 bit"));
      screen.setBits(false);
      screen.show(Screen.picture("seen.png"));
      String figures = screen.text(R.id.figures);
      assertTrue(figures, figures.matches("(?s)float · \\d\\.\\d+ (MB) · cifar10, 10 classes\\n.* · TFLite"));
      screen.shoot("float", Screen.picture("seen.png"));
    }
  }

  @Test
  public void threadsAndResultsGoRound() throws Exception {
    try (Screen screen = withCamera()) {
      for (String threads : new String[] {"1 thread", "2 threads", "4 threads", "1 thread"}) {
        assertEquals(threads, screen.text(R.id.threads));
        screen.show(Screen.picture("seen.png"));
        assertEquals("", screen.text(R.id.error));
        screen.press(R.id.threads);
      }
      screen.show(Screen.picture("seen.png"));
      for (int results : new int[] {3, 5, 1}) {
        assertEquals(results, screen.spoken(R.id.answers).split("%").length);
        screen.press(R.id.results);
      }
    }
  }

  @Test
  public void everyModelOfTheAppCanBePicked() throws Exception {
    try (Screen screen = withCamera()) {
      screen.press(R.id.model);
      AlertDialog dialog = (AlertDialog) ShadowDialog.getLatestDialog();
      int models = dialog.getListView().getCount() - 1;
      assertTrue(models + " models", models >= 2);
      dialog.dismiss();
      for (int i = 0; i < models; i++) {
        screen.press(R.id.model);
        ((AlertDialog) ShadowDialog.getLatestDialog()).getListView().performItemClick(null, i, i);
        Screen.idle();
        screen.show(Screen.picture("seen.png"));
        assertEquals("", screen.text(R.id.error));
        assertTrue(screen.spoken(R.id.answers).contains("%"));
      }
    }
  }

  @Test
  public void aModelOfThePhoneIsOpenedAndABadOneSaidInOneSentence() throws Exception {
    try (Screen screen = withCamera()) {
      screen.press(R.id.model);
      AlertDialog dialog = (AlertDialog) ShadowDialog.getLatestDialog();
      dialog.getListView().performItemClick(null, dialog.getListView().getCount() - 1, 0);
      Screen.idle();
      assertEquals(
          Intent.ACTION_OPEN_DOCUMENT, shadowOf(screen.activity).getNextStartedActivityForResult().intent.getAction());
      choose(screen, MainActivity.MODEL, model("uint8.tflite"));
      screen.show(Screen.picture("seen.png"));
      assertTrue(screen.spoken(R.id.answers).contains("%"));
      assertFalse(screen.<Switch>view(R.id.bits).isEnabled());
      assertFalse(screen.<Button>view(R.id.compare).isEnabled());
      Object[][] bad = {
          {"no_card.tflite", R.string.model_no_card},
          {"truncated.tflite", R.string.model_damaged},
          {"unknown_op.tflite", R.string.model_unknown_ops},
          {"no_picture.tflite", R.string.model_no_classifier},
          {"nowhere.tflite", R.string.file_bad},
      };
      for (Object[] each : bad) {
        choose(screen, MainActivity.MODEL, model((String) each[0]));
        String expected = screen.activity.getString((Integer) each[1]).split("%1")[0];
        assertTrue(each[0] + ": " + screen.text(R.id.error), screen.text(R.id.error).startsWith(expected));
        assertEquals(1, screen.text(R.id.error).split("\n").length);
        screen.show(Screen.picture("seen.png"));
        assertEquals("", screen.text(R.id.figures));
      }
      screen.shoot("bad_model", null);
      // And afterwards a good one.
      choose(screen, MainActivity.MODEL, model("bits.tflite"));
      screen.show(Screen.picture("seen.png"));
      assertTrue(screen.spoken(R.id.answers).contains("%"));
      assertFalse(screen.isShown(R.id.error));
    }
  }

  @Test
  public void aModelThatIsLargerThanTheMemoryIsSaidWithBothSizes() throws Exception {
    Screen.setFreeMemory(100_000);
    try (Screen screen = withCamera()) {
      String said = screen.text(R.id.error);
      assertTrue(said, said.matches("This model of \\d\\d\\d kB is larger than the free memory of 100 kB\\."));
    }
  }

  private static Uri model(String name) {
    return Uri.fromFile(new File(System.getProperty("models"), name));
  }

  // === Comparison ===

  @Test
  public void bothModelsAreComparedOnTheSamePicture() throws Exception {
    try (Screen screen = withCamera()) {
      screen.press(R.id.compare);
      assertEquals(screen.activity.getString(R.string.compare_nothing), screen.text(R.id.error));
      screen.show(Screen.picture("seen.png"));
      screen.press(R.id.compare);
      assertTrue(screen.isShown(R.id.comparison));
      assertEquals("Compare", screen.text(R.id.compare));
      String ratio = screen.text(R.id.comparison_ratio);
      assertTrue(ratio, ratio.matches("1 bit is \\d+\\.\\d times as fast and \\d+\\.\\d times as small\\."));
      assertEquals(2, screen.spoken(R.id.comparison_bars).split(" ms").length - 1);
      assertEquals(2, screen.text(R.id.comparison_answers).split("\n").length);
      screen.shoot("compare", null);
      screen.recreate();
      assertEquals(ratio, screen.text(R.id.comparison_ratio));
      screen.press(R.id.comparison_close);
      assertFalse(screen.isShown(R.id.comparison));
    }
  }

  // === State and looks ===

  @Test
  public void nothingThatWasSetIsLostWhenThePhoneIsTurned() throws Exception {
    try (Screen screen = withCamera()) {
      screen.press(R.id.model);
      ((AlertDialog) ShadowDialog.getLatestDialog()).getListView().performItemClick(null, 0, 0);
      Screen.idle();
      screen.setBits(false);
      screen.press(R.id.threads);
      screen.press(R.id.results);
      choose(screen, MainActivity.PICTURE, PICTURE);
      String figures = screen.text(R.id.figures).split("\n")[0], spoken = screen.spoken(R.id.answers);
      RuntimeEnvironment.setQualifiers("+land");
      screen.recreate();
      assertEquals("2 threads", screen.text(R.id.threads));
      assertEquals("5 results", screen.text(R.id.results));
      assertFalse(screen.<Switch>view(R.id.bits).isChecked());
      assertTrue(screen.isShown(R.id.still));
      assertEquals(figures, screen.text(R.id.figures).split("\n")[0]);
      assertEquals(spoken, screen.spoken(R.id.answers));
      View picture = screen.view(R.id.viewfinder), panel = screen.view(R.id.answers);
      int[] left = new int[2], right = new int[2];
      picture.getLocationInWindow(left);
      panel.getLocationInWindow(right);
      assertTrue("beside each other", right[0] >= left[0] + picture.getWidth());
      screen.shoot("landscape", null);
    }
  }

  @Test
  @Config(qualifiers = "de-rDE-w411dp-h823dp-night-xhdpi")
  public void inGermanAndInTheDark() throws Exception {
    try (Screen screen = withCamera()) {
      for (int i = 0; i < 5; i++) screen.show(Screen.picture("seen.png"));
      assertTrue(screen.text(R.id.figures),
          screen.text(R.id.figures).matches("(?s)1 Bit · .*, 10 Klassen\\n\\d+,\\d\\d ms · 30,3 Bilder/s.*"));
      assertEquals("Vergleichen", screen.text(R.id.compare));
      assertEquals(0xFF1B1C1E, screen.activity.getColor(R.color.panel));
      screen.shoot("german_dark", Screen.picture("seen.png"));
    }
  }

  @Test
  public void whateverIsPressedIsAtLeastAFingerWide() throws Exception {
    for (String turned : new String[] {"+port", "+land"}) {
      RuntimeEnvironment.setQualifiers(turned);
      if (turned.equals("+land")) Screen.cameras().removeCamera("0");
      try (Screen screen = withCamera()) {
        screen.show(Screen.picture("seen.png"));
        screen.press(R.id.compare);
        assertTrue(targets(screen.activity.getWindow().getDecorView()) >= 7);
      }
    }
  }

  /** How many there are; none is smaller than 48 dp, or without a name for TalkBack. */
  private static int targets(View view) {
    int found = 0;
    if (view.getVisibility() != View.VISIBLE) return 0;
    if (view instanceof Button) {
      float dp = view.getResources().getDisplayMetrics().density;
      String what = view.getResources().getResourceEntryName(view.getId());
      assertTrue(what + " is " + view.getWidth() / dp + " x " + view.getHeight() / dp,
          view.getWidth() >= 48 * dp && view.getHeight() >= 48 * dp);
      assertTrue(what, ((TextView) view).getText().length() > 0 || view.getContentDescription() != null);
      found++;
    }
    if (view instanceof ViewGroup) {
      for (int i = 0; i < ((ViewGroup) view).getChildCount(); i++) found += targets(((ViewGroup) view).getChildAt(i));
    }
    return found;
  }
}
