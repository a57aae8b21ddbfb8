package org.acdbit.classifier;

import java.util.Arrays;

/** Times of the last inferences, in milliseconds. */
public final class Latency {
  private final double[] last;
  private int count;

  /** @param window how many times count; the oldest are forgotten. */
  public Latency(int window) {
    last = new double[window];
  }

  public void add(long nanoseconds) {
    last[count++ % last.length] = nanoseconds / 1e6;
  }

  /** The median, of an even number the mean of the middle two; NaN before the first. */
  public double median() {
    int n = Math.min(count, last.length);
    if (n == 0) return Double.NaN;
    double[] sorted = Arrays.copyOf(last, n);
    Arrays.sort(sorted);
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
  }
}
