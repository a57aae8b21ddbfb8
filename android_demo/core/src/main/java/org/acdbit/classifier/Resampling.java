package org.acdbit.classifier;

import java.util.Arrays;

/**
 * One axis of a picture at another size: bilinear, with antialiasing where it shrinks. As TensorFlow's image.resize
 * does it, with which models are evaluated.
 */
final class Resampling {
  final int size, newSize;
  /** The first old sample of each new one, and the weights of it and of those that follow. */
  final int[] first;
  final float[][] weights;

  Resampling(int size, int newSize) {
    this.size = size;
    this.newSize = newSize;
    first = new int[newSize];
    weights = new float[newSize][];
    double step = size / (double) newSize, radius = Math.max(step, 1);
    for (int i = 0; i < newSize; i++) {
      double middle = (i + 0.5) * step;
      int from = Math.max(0, (int) Math.ceil(middle - radius - 0.5));
      int to = Math.min(size - 1, (int) Math.floor(middle + radius - 0.5));
      while (triangle(from, middle, radius) == 0) from++;
      while (triangle(to, middle, radius) == 0) to--;
      double[] parts = new double[to - from + 1];
      for (int j = from; j <= to; j++) parts[j - from] = triangle(j, middle, radius);
      double sum = Arrays.stream(parts).sum();
      first[i] = from;
      weights[i] = new float[parts.length];
      for (int j = 0; j < parts.length; j++) weights[i][j] = (float) (parts[j] / sum);
    }
  }

  private static double triangle(int sample, double middle, double radius) {
    return Math.max(0, 1 - Math.abs(sample + 0.5 - middle) / radius);
  }

  /** The last old sample of a new one. */
  int last(int i) {
    return first[i] + weights[i].length - 1;
  }
}
