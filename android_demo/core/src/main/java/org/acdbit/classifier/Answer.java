package org.acdbit.classifier;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** A class that a picture may belong to. */
public final class Answer {
  /** The name of the class. */
  public final String name;
  /** What the softmax of the logits gives it, from 0 to 1. */
  public final double probability;

  public Answer(String name, double probability) {
    this.name = name;
    this.probability = probability;
  }

  /**
   * The most probable classes, best first; of equal ones the first.
   *
   * @param logits one per class.
   * @param classes their names.
   * @param most how many at most.
   */
  public static List<Answer> best(float[] logits, List<String> classes, int most) {
    double largest = Double.NEGATIVE_INFINITY, sum = 0;
    for (float logit : logits) largest = Math.max(largest, logit);
    double[] shares = new double[logits.length];
    List<Integer> order = new ArrayList<>();
    for (int i = 0; i < logits.length; i++) {
      shares[i] = Math.exp(logits[i] - largest);
      sum += shares[i];
      order.add(i);
    }
    Collections.sort(order, (a, b) -> Double.compare(shares[b], shares[a]));
    List<Answer> best = new ArrayList<>();
    for (int i : order.subList(0, Math.min(most, order.size()))) best.add(new Answer(classes.get(i), shares[i] / sum));
    return best;
  }
}
