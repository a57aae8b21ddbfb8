package org.acdbit.classifier;

import java.util.List;

/** Two models on the same pixels, in turns, so that whatever slows the processor down slows both. */
public final class Comparison {
  /** Median milliseconds of one inference. */
  public final double packedMs, twinMs;
  public final long packedBytes, twinBytes;
  /** What each takes the picture for. */
  public final Answer packedAnswer, twinAnswer;

  public Comparison(double packedMs, double twinMs, long packedBytes, long twinBytes, Answer packed, Answer twin) {
    this.packedMs = packedMs;
    this.twinMs = twinMs;
    this.packedBytes = packedBytes;
    this.twinBytes = twinBytes;
    packedAnswer = packed;
    twinAnswer = twin;
  }

  /** Called between inferences. */
  public interface Progress {
    /** @return whether to go on. */
    boolean done(int inferences);
  }

  /** How many times as fast the packed model is. */
  public double timesAsFast() {
    return twinMs / packedMs;
  }

  /** How many times as large the twin's file is. */
  public double timesAsSmall() {
    return twinBytes / (double) packedBytes;
  }

  /**
   * @param pixels what {@link Classifier#look} of either gave.
   * @param times inferences of each.
   * @return null where the progress ended it.
   */
  public static Comparison run(Classifier packed, Classifier twin, float[] pixels, int times, Progress progress) {
    Latency ours = new Latency(times), theirs = new Latency(times);
    List<Answer> first = Answer.best(packed.logits(pixels), packed.card.classes, 1);
    List<Answer> second = Answer.best(twin.logits(pixels), twin.card.classes, 1);
    for (int i = 0; i < times; i++) {
      if (!progress.done(i)) return null;
      timed(packed, pixels, ours);
      timed(twin, pixels, theirs);
    }
    return new Comparison(
        ours.median(), theirs.median(), packed.fileBytes(), twin.fileBytes(), first.get(0), second.get(0));
  }

  private static void timed(Classifier model, float[] pixels, Latency latency) {
    model.logits(pixels);
    latency.add(model.lastNanoseconds());
  }
}
