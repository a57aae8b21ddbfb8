package org.acdbit.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.os.Handler;
import android.os.HandlerThread;
import android.os.Looper;
import android.os.SystemClock;
import java.io.IOException;
import java.util.List;
import org.acdbit.classifier.AcdbitDelegate;
import org.acdbit.classifier.Answer;
import org.acdbit.classifier.Classifier;
import org.acdbit.classifier.Comparison;
import org.acdbit.classifier.Frame;
import org.acdbit.classifier.ModelCard;
import org.acdbit.classifier.ModelException;

/**
 * The model in use, on a thread of its own: frames and pictures in, results to a listener on the main thread, until it
 * is closed. Everything private is touched on that thread alone.
 */
final class Recognizer {
  private static final int FRAMES = 31;

  /** What became of a picture. */
  static final class Result {
    final List<Answer> answers;
    /** The median of the last inferences. */
    final double milliseconds;
    /** NaN for a picture that stands still. */
    final double framesPerSecond;
    /** Of libacdbit_runtime, or empty where TFLite runs everything. */
    final String kernels;

    Result(List<Answer> answers, double milliseconds, double framesPerSecond, String kernels) {
      this.answers = answers;
      this.milliseconds = milliseconds;
      this.framesPerSecond = framesPerSecond;
      this.kernels = kernels;
    }
  }

  /** A model that was opened. */
  static final class Opened {
    final ModelCard card;
    final int width, height;
    final long fileBytes;
    final boolean packed;

    Opened(Classifier model) {
      card = model.card;
      width = model.width;
      height = model.height;
      fileBytes = model.fileBytes();
      packed = model.packed;
    }
  }

  /** Called on the main thread, never after {@link #close}. */
  interface Listener {
    void onOpened(Opened model);

    void onResult(Result result);

    /** @param done inferences of each; equal to all when it has ended, or was stopped. */
    void onComparing(int done, int all);

    void onCompared(Comparison comparison);

    void onNothingToCompare();

    void onFailed(Throwable failed);
  }

  private final Context context;
  private final Listener listener;
  private final int most;
  private final Handler main = new Handler(Looper.getMainLooper());
  private final HandlerThread thread = new HandlerThread("recognizer");
  private final Handler worker;
  private volatile boolean closed, comparing;

  private Classifier classifier;
  private Bitmap still;
  private float[] pixels;
  private final long[] times = new long[FRAMES];
  private int frames;

  /** @param most answers per picture. */
  Recognizer(Context context, int most, Listener listener) {
    this.context = context.getApplicationContext();
    this.most = most;
    this.listener = listener;
    thread.start();
    worker = new Handler(thread.getLooper());
  }

  /** For whoever delivers frames. */
  Handler handler() {
    return worker;
  }

  /** Opens a model in place of the one before. */
  void open(ModelSource source, int threads) {
    worker.post(() -> {
      if (closed) return;
      closeModel();
      pixels = null;
      frames = 0;
      try {
        classifier = new Classifier(source.map(context), threads);
        Opened opened = new Opened(classifier);
        tell(() -> listener.onOpened(opened));
        if (still != null) look(still);
      } catch (IOException | ModelException | RuntimeException failed) {
        tell(() -> listener.onFailed(failed));
      }
    });
  }

  /** On the worker's thread. */
  void onFrame(Frame frame, int rotation) {
    if (classifier == null || closed || still != null) return;
    times[frames++ % FRAMES] = SystemClock.elapsedRealtimeNanos();
    answer(classifier.look(frame, rotation));
  }

  /** @param picture upright; null: the camera's frames again. */
  void show(Bitmap picture) {
    worker.post(() -> {
      still = picture;
      frames = 0;
      if (picture != null && classifier != null && !closed) look(picture);
    });
  }

  private void look(Bitmap picture) {
    answer(classifier.look(Stills.picture(picture), 0));
  }

  private void answer(float[] looked) {
    pixels = looked;
    List<Answer> answers = Answer.best(classifier.logits(looked), classifier.card.classes, most);
    String kernels = classifier.packed ? AcdbitDelegate.kernels() : "";
    Result result = new Result(answers, classifier.latency.median(), framesPerSecond(), kernels);
    tell(() -> listener.onResult(result));
  }

  private double framesPerSecond() {
    int count = Math.min(frames, FRAMES);
    if (count < 2) return Double.NaN;
    long newest = times[(frames - 1) % FRAMES], oldest = times[(frames - count) % FRAMES];
    return 1e9 * (count - 1) / Math.max(1, newest - oldest);
  }

  /** Both models of a choice on what was looked at last. Frames wait for the end. */
  void compare(ModelChoice choice, int threads, int inferences) {
    comparing = true;
    worker.post(() -> {
      if (closed || !comparing) return;
      if (pixels == null) {
        tell(listener::onNothingToCompare);
        return;
      }
      try (Classifier model = new Classifier(choice.model.map(context), threads);
           Classifier twin = new Classifier(choice.twin.map(context), threads)) {
        Comparison comparison = Comparison.run(model, twin, pixels, inferences, done -> {
          tell(() -> listener.onComparing(done, inferences));
          return comparing && !closed;
        });
        tell(() -> listener.onComparing(inferences, inferences));
        if (comparison != null) tell(() -> listener.onCompared(comparison));
      } catch (IOException | ModelException | RuntimeException failed) {
        tell(() -> listener.onFailed(failed));
      } finally {
        comparing = false;
        frames = 0;
      }
    });
  }

  void stopComparing() {
    comparing = false;
  }

  private void tell(Runnable what) {
    main.post(() -> {
      if (!closed) what.run();
    });
  }

  private void closeModel() {
    if (classifier != null) classifier.close();
    classifier = null;
  }

  /** Ends the thread behind whatever it is doing. */
  void close() {
    closed = true;
    worker.post(this::closeModel);
    thread.quitSafely();
  }
}
