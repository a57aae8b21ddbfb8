package org.acdbit.demo;

import android.Manifest;
import android.app.Activity;
import android.app.AlertDialog;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.content.pm.PackageManager;
import android.graphics.Bitmap;
import android.graphics.Matrix;
import android.graphics.SurfaceTexture;
import android.hardware.display.DisplayManager;
import android.net.Uri;
import android.os.Bundle;
import android.os.Handler;
import android.os.Looper;
import android.provider.Settings;
import android.view.TextureView;
import android.view.View;
import android.widget.Button;
import android.widget.ImageView;
import android.widget.Switch;
import android.widget.TextView;
import java.io.IOException;
import java.text.NumberFormat;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.acdbit.classifier.Answer;
import org.acdbit.classifier.Comparison;
import org.acdbit.classifier.Frame;
import org.acdbit.classifier.ModelCard;
import org.acdbit.classifier.Viewfinder;

/** The one screen: a picture, what it is taken for, what that costs, and what can be set. */
public final class MainActivity extends Activity implements TextureView.SurfaceTextureListener, CameraSource.Listener,
                                                            Recognizer.Listener, DisplayManager.DisplayListener {
  static final int CAMERA = 1, PICTURE = 2, MODEL = 3;
  private static final int MOST_RESULTS = 5, COMPARED = 200;
  private static final String CHOICE = "choice", BITS = "bits", THREADS = "threads", RESULTS = "results",
                              STILL = "still", MILLISECONDS = "milliseconds", BYTES = "bytes", NAMES = "names";

  private TextureView preview;
  private ImageView still;
  private ViewfinderView viewfinder;
  private View notice, comparisonPanel;
  private TextView noticeText, figures, error;
  private Button noticeButton, threadsButton, resultsButton, pictureButton, compareButton;
  private BarsView answers;
  private Switch bits;
  private AlertDialog picker;

  private Recognizer recognizer;
  private CameraSource camera;
  private SurfaceTexture surface;
  private List<ModelChoice> choices;
  private ModelChoice choice;
  private int threads = 1, results = 3;
  private Uri stillUri;
  private Bitmap stillBitmap;
  private Recognizer.Opened opened;
  private Recognizer.Result result;
  private Comparison comparison;
  private boolean resumed, denied, comparing;

  // === Life ===

  @Override
  protected void onCreate(Bundle state) {
    super.onCreate(state);
    setContentView(R.layout.main);
    findViews();
    recognizer = new Recognizer(this, MOST_RESULTS, this);
    choices = ModelChoice.ofAssets(this);
    choice = choices.isEmpty() ? null : choices.get(0);
    if (state != null) restore(state);
    preview.setSurfaceTextureListener(this);
    viewfinder.addOnLayoutChangeListener((v, l, t, r, b, l0, t0, r0, b0) -> place());
    ((DisplayManager) getSystemService(DISPLAY_SERVICE))
        .registerDisplayListener(this, new Handler(Looper.getMainLooper()));
    listen();
    showSettings();
    if (comparison != null) onCompared(comparison);
    if (stillUri != null) showStill(stillUri);
    open();
  }

  private void findViews() {
    preview = findViewById(R.id.preview);
    still = findViewById(R.id.still);
    viewfinder = findViewById(R.id.viewfinder);
    notice = findViewById(R.id.notice);
    noticeText = findViewById(R.id.notice_text);
    noticeButton = findViewById(R.id.notice_button);
    comparisonPanel = findViewById(R.id.comparison);
    answers = findViewById(R.id.answers);
    figures = findViewById(R.id.figures);
    error = findViewById(R.id.error);
    bits = findViewById(R.id.bits);
    threadsButton = findViewById(R.id.threads);
    resultsButton = findViewById(R.id.results);
    pictureButton = findViewById(R.id.picture);
    compareButton = findViewById(R.id.compare);
  }

  private void listen() {
    bits.setOnCheckedChangeListener((view, on) -> open());
    threadsButton.setOnClickListener(view -> {
      threads = threads >= 4 ? 1 : 2 * threads;
      showSettings();
      open();
    });
    resultsButton.setOnClickListener(view -> {
      results = results >= MOST_RESULTS ? 1 : results + 2;
      showSettings();
      showResult();
    });
    findViewById(R.id.model).setOnClickListener(view -> pickModel());
    pictureButton.setOnClickListener(view -> {
      if (stillUri == null) {
        start(new Intent(Intent.ACTION_GET_CONTENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*"), PICTURE);
      } else {
        leaveStill();
      }
    });
    compareButton.setOnClickListener(view -> compare());
    findViewById(R.id.comparison_close).setOnClickListener(view -> {
      comparison = null;
      comparisonPanel.setVisibility(View.GONE);
    });
  }

  @Override
  protected void onSaveInstanceState(Bundle state) {
    super.onSaveInstanceState(state);
    if (choice != null) state.putString(CHOICE, choice.id);
    state.putBoolean(BITS, bits.isChecked());
    state.putInt(THREADS, threads);
    state.putInt(RESULTS, results);
    state.putString(STILL, stillUri == null ? null : stillUri.toString());
    if (comparison == null) return;
    Answer ours = comparison.packedAnswer, theirs = comparison.twinAnswer;
    state.putDoubleArray(
        MILLISECONDS, new double[] {comparison.packedMs, comparison.twinMs, ours.probability, theirs.probability});
    state.putLongArray(BYTES, new long[] {comparison.packedBytes, comparison.twinBytes});
    state.putStringArray(NAMES, new String[] {ours.name, theirs.name});
  }

  private void restore(Bundle state) {
    String id = state.getString(CHOICE);
    for (ModelChoice known : choices) {
      if (known.id.equals(id)) choice = known;
    }
    if (id != null && (choice == null || !choice.id.equals(id))) choice = ModelChoice.ofFile(this, Uri.parse(id));
    bits.setChecked(state.getBoolean(BITS));
    threads = state.getInt(THREADS);
    results = state.getInt(RESULTS);
    String picture = state.getString(STILL);
    stillUri = picture == null ? null : Uri.parse(picture);
    double[] ms = state.getDoubleArray(MILLISECONDS);
    long[] bytes = state.getLongArray(BYTES);
    String[] names = state.getStringArray(NAMES);
    if (ms == null || bytes == null || names == null) return;
    comparison =
        new Comparison(ms[0], ms[1], bytes[0], bytes[1], new Answer(names[0], ms[2]), new Answer(names[1], ms[3]));
  }

  @Override
  protected void onResume() {
    super.onResume();
    resumed = true;
    startCamera();
  }

  @Override
  protected void onPause() {
    resumed = false;
    stopCamera();
    super.onPause();
  }

  @Override
  protected void onDestroy() {
    ((DisplayManager) getSystemService(DISPLAY_SERVICE)).unregisterDisplayListener(this);
    if (picker != null) picker.dismiss();
    recognizer.close();
    super.onDestroy();
  }

  // === Camera ===

  private void startCamera() {
    if (stillUri != null) {
      notice.setVisibility(View.GONE);
      return;
    }
    if (checkSelfPermission(Manifest.permission.CAMERA) != PackageManager.PERMISSION_GRANTED) {
      askForCamera();
      return;
    }
    notice.setVisibility(View.GONE);
    if (!resumed || surface == null || camera != null) return;
    camera = new CameraSource(this, recognizer.handler(), display(), this);
    camera.open(surface);
    place();
  }

  private void stopCamera() {
    if (camera != null) camera.close();
    camera = null;
  }

  Recognizer recognizer() {
    return recognizer;
  }

  /** Null while none is open. */
  CameraSource camera() {
    return camera;
  }

  /** Says what the camera is for, or, where Android does not ask any more, where it can still be allowed. */
  private void askForCamera() {
    if (denied && !shouldShowRequestPermissionRationale(Manifest.permission.CAMERA)) {
      showNotice(getString(R.string.camera_denied), R.string.camera_settings, view -> {
        Uri app = Uri.fromParts("package", getPackageName(), null);
        start(new Intent(Settings.ACTION_APPLICATION_DETAILS_SETTINGS, app), 0);
      });
    } else {
      showNotice(getString(R.string.camera_why), R.string.camera_allow,
          view -> requestPermissions(new String[] {Manifest.permission.CAMERA}, CAMERA));
    }
  }

  @Override
  public void onRequestPermissionsResult(int request, String[] permissions, int[] granted) {
    super.onRequestPermissionsResult(request, permissions, granted);
    // Empty where the question was taken away before it was answered.
    if (request == CAMERA && granted.length > 0) denied = granted[0] != PackageManager.PERMISSION_GRANTED;
    startCamera();
  }

  @Override
  public void onProblem(CameraSource.Problem problem, String detail) {
    runOnUiThread(() -> {
      if (camera == null) return;
      stopCamera();
      showNotice(Messages.of(this, problem, detail), R.string.camera_again, view -> startCamera());
    });
  }

  private void showNotice(String text, int button, View.OnClickListener pressed) {
    noticeText.setText(text);
    noticeButton.setText(button);
    noticeButton.setOnClickListener(pressed);
    notice.setVisibility(View.VISIBLE);
  }

  @Override
  public void onFrame(Frame frame, int rotation) {
    recognizer.onFrame(frame, rotation);
  }

  @SuppressWarnings("deprecation") // its successor is of Android 11
  private int display() {
    return 90 * getWindowManager().getDefaultDisplay().getRotation();
  }

  /** Puts the preview and the viewfinder where they belong. */
  private void place() {
    int wide = viewfinder.getWidth(), high = viewfinder.getHeight();
    Viewfinder shown = null;
    if (wide > 0 && high > 0 && opened != null) {
      double share = opened.card.centralShare;
      if (stillBitmap != null) {
        shown = new Viewfinder(
            stillBitmap.getWidth(), stillBitmap.getHeight(), 0, wide, high, opened.width, opened.height, share);
      } else if (camera != null && camera.width > 0) {
        int rotation = Viewfinder.rotation(camera.sensor, display(), camera.front);
        shown = new Viewfinder(camera.width, camera.height, rotation, wide, high, opened.width, opened.height, share);
      }
    }
    viewfinder.show(shown);
    if (camera != null && camera.width > 0 && wide > 0 && high > 0) {
      float[] t = Viewfinder.transform(camera.width, camera.height, camera.sensor, display(), wide, high);
      float x = wide / 2f, y = high / 2f;
      Matrix matrix = new Matrix();
      matrix.setValues(new float[] {t[0], t[1], x - t[0] * x - t[1] * y, t[2], t[3], y - t[2] * x - t[3] * y, 0, 0, 1});
      preview.setTransform(matrix);
    }
  }

  @Override
  public void onSurfaceTextureAvailable(SurfaceTexture texture, int width, int height) {
    surface = texture;
    startCamera();
  }

  @Override
  public void onSurfaceTextureSizeChanged(SurfaceTexture texture, int width, int height) {
    place();
  }

  @Override
  public boolean onSurfaceTextureDestroyed(SurfaceTexture texture) {
    stopCamera();
    surface = null;
    return true;
  }

  @Override
  public void onSurfaceTextureUpdated(SurfaceTexture texture) {}

  @Override
  public void onDisplayAdded(int id) {}

  @Override
  public void onDisplayRemoved(int id) {}

  /** Also after half a turn, for which the activity is not made anew. */
  @Override
  public void onDisplayChanged(int id) {
    if (camera != null) camera.setDisplay(display());
    place();
  }

  // === Settings ===

  private void showSettings() {
    threadsButton.setText(getResources().getQuantityString(R.plurals.threads, threads, threads));
    resultsButton.setText(getResources().getQuantityString(R.plurals.results, results, results));
    answers.setRows(results);
    boolean paired = choice != null && choice.twin != null;
    bits.setEnabled(paired);
    compareButton.setEnabled(paired);
    bits.setContentDescription(getString(paired || choice == null ? R.string.switch_bits : R.string.switch_alone));
    pictureButton.setText(stillUri == null ? R.string.picture_pick : R.string.picture_leave);
  }

  private boolean isTwin() {
    return choice.twin != null && !bits.isChecked();
  }

  private void open() {
    if (choice == null) {
      showError(getString(R.string.models_none));
      return;
    }
    showError("");
    recognizer.open(isTwin() ? choice.twin : choice.model, threads);
  }

  private void pickModel() {
    List<String> titles = new ArrayList<>();
    int chosen = -1;
    for (ModelChoice known : choices) {
      if (choice != null && known.id.equals(choice.id)) chosen = titles.size();
      titles.add(known.title);
    }
    titles.add(getString(R.string.model_open));
    picker =
        new AlertDialog.Builder(this)
            .setSingleChoiceItems(titles.toArray(new String[0]), chosen,
                (dialog, which) -> {
                  dialog.dismiss();
                  if (which < choices.size()) {
                    choose(choices.get(which));
                  } else {
                    start(new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"),
                        MODEL);
                  }
                })
            .show();
  }

  private void choose(ModelChoice chosen) {
    choice = chosen;
    opened = null;
    result = null;
    showSettings();
    showResult();
    open();
  }

  @SuppressWarnings("deprecation") // its successor is not in the framework
  private void start(Intent intent, int request) {
    try {
      startActivityForResult(intent, request);
    } catch (ActivityNotFoundException nobody) {
      showError(getString(R.string.file_bad, String.valueOf(intent.getAction())));
    }
  }

  @Override
  protected void onActivityResult(int request, int outcome, Intent data) {
    super.onActivityResult(request, outcome, data);
    Uri uri = outcome == RESULT_OK && data != null ? data.getData() : null;
    if (uri == null) return;
    if (request == PICTURE) showStill(uri);
    if (request == MODEL) {
      if ((data.getFlags() & Intent.FLAG_GRANT_PERSISTABLE_URI_PERMISSION) != 0) {
        // So that it opens again after the app was ended.
        getContentResolver().takePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION);
      }
      choose(ModelChoice.ofFile(this, uri));
    }
  }

  // === Pictures ===

  private void showStill(Uri uri) {
    try {
      stillBitmap = Stills.read(getContentResolver(), uri);
    } catch (IOException | RuntimeException failed) {
      leaveStill();
      showError(Messages.of(this, failed));
      return;
    }
    showError("");
    stillUri = uri;
    stopCamera();
    still.setImageBitmap(stillBitmap);
    still.setVisibility(View.VISIBLE);
    notice.setVisibility(View.GONE);
    recognizer.show(stillBitmap);
    showSettings();
    place();
  }

  private void leaveStill() {
    stillUri = null;
    stillBitmap = null;
    still.setImageBitmap(null);
    still.setVisibility(View.GONE);
    recognizer.show(null);
    showSettings();
    place();
    startCamera();
  }

  // === Results ===

  @Override
  public void onOpened(Recognizer.Opened model) {
    opened = model;
    showResult();
    place();
  }

  @Override
  public void onResult(Recognizer.Result found) {
    result = found;
    showResult();
  }

  @Override
  public void onFailed(Throwable failed) {
    opened = null;
    result = null;
    showResult();
    place();
    showError(Messages.of(this, failed));
  }

  private void showError(String text) {
    error.setText(text);
    error.setVisibility(text.isEmpty() ? View.GONE : View.VISIBLE);
  }

  private void showResult() {
    List<BarsView.Bar> bars = new ArrayList<>();
    if (result != null) {
      int color = getColor(isTwin() ? R.color.bar_twin : R.color.bar);
      for (Answer answer : result.answers.subList(0, Math.min(results, result.answers.size()))) {
        bars.add(new BarsView.Bar(answer.name, percent(answer), answer.probability, color));
      }
    }
    answers.show(bars);
    if (bars.isEmpty()) answers.setContentDescription(getString(R.string.answers_none));
    figures.setText(opened == null ? "" : what() + "\n" + cost());
  }

  private String what() {
    ModelCard card = opened.card;
    String form = getString(opened.packed ? R.string.form_bits : R.string.form_twin);
    String about = card.untrained
        ? getString(R.string.model_untrained)
        : getString(R.string.model_facts, card.dataset.isEmpty() ? choice.title : card.dataset, card.classes.size());
    return getString(R.string.figures, form, Messages.size(this, opened.fileBytes), about);
  }

  private String cost() {
    if (result == null) return "";
    String kernels = result.kernels.isEmpty() ? getString(R.string.kernels_tflite) : result.kernels;
    String ms = decimal(result.milliseconds, 2);
    if (Double.isNaN(result.framesPerSecond)) return getString(R.string.figures_time, ms, kernels);
    return getString(R.string.figures_speed, ms, decimal(result.framesPerSecond, 1), kernels);
  }

  private String percent(Answer answer) {
    return NumberFormat.getPercentInstance().format(answer.probability);
  }

  private String decimal(double value, int digits) {
    NumberFormat format = NumberFormat.getNumberInstance();
    format.setMinimumFractionDigits(digits);
    format.setMaximumFractionDigits(digits);
    return format.format(value);
  }

  // === Comparison ===

  private void compare() {
    if (comparing) {
      recognizer.stopComparing();
    } else {
      showError("");
      recognizer.compare(choice, threads, COMPARED);
    }
  }

  @Override
  public void onComparing(int done, int all) {
    comparing = done < all;
    compareButton.setText(comparing ? getString(R.string.compare_stop, done, all) : getString(R.string.compare));
  }

  @Override
  public void onNothingToCompare() {
    showError(getString(R.string.compare_nothing));
  }

  @Override
  public void onCompared(Comparison found) {
    comparison = found;
    String ours = getString(R.string.form_bits), theirs = getString(R.string.form_twin);
    double slowest = Math.max(found.packedMs, found.twinMs), largest = Math.max(found.packedBytes, found.twinBytes);
    int packed = getColor(R.color.bar), twin = getColor(R.color.bar_twin);
    BarsView bars = findViewById(R.id.comparison_bars);
    bars.setRows(4);
    bars.show(Arrays.asList(new BarsView.Bar(ours, milliseconds(found.packedMs), found.packedMs / slowest, packed),
        new BarsView.Bar(theirs, milliseconds(found.twinMs), found.twinMs / slowest, twin),
        new BarsView.Bar(ours, Messages.size(this, found.packedBytes), found.packedBytes / largest, packed),
        new BarsView.Bar(theirs, Messages.size(this, found.twinBytes), found.twinBytes / largest, twin)));
    this.<TextView>findViewById(R.id.comparison_title).setText(getString(R.string.compare_title, COMPARED));
    this.<TextView>findViewById(R.id.comparison_answers)
        .setText(answered(ours, found.packedAnswer) + "\n" + answered(theirs, found.twinAnswer));
    this.<TextView>findViewById(R.id.comparison_ratio)
        .setText(getString(R.string.compare_ratio, decimal(found.timesAsFast(), 1), decimal(found.timesAsSmall(), 1)));
    comparisonPanel.setVisibility(View.VISIBLE);
  }

  private String milliseconds(double value) {
    return getString(R.string.milliseconds, decimal(value, 2));
  }

  private String answered(String form, Answer answer) {
    return getString(R.string.compare_answer, form, getString(R.string.answer, answer.name, percent(answer)));
  }
}
