package org.acdbit.classifier;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What a .tflite file of acdbit-keras says of itself, so that pictures can be given to it as they are. */
public final class ModelCard {
  /** Names of the classes, in the order of the logits. */
  public final List<String> classes;
  /** Side of the middle that is looked at, over the shorter side of the picture. */
  public final double centralShare;
  /** What the model was trained on, and how it was quantized; empty if the card does not say. */
  public final String dataset, scheme;
  /** Whether its weights are random, so that only its speed means something. */
  public final boolean untrained;

  /** Per channel, of pixels from 0 to 1; null in a file that takes pixels and has no need of them. */
  private final float[] mean, std;

  /**
   * @param card the entry "card" of the file's metadata.
   * @throws ModelException of the reason NO_CARD: it lacks something, or has it in another form.
   */
  ModelCard(Map<?, ?> card) throws ModelException {
    classes = names(card.get("classes"));
    mean = numbers(card, "mean");
    std = numbers(card, "std");
    if ((mean == null) != (std == null) || mean != null && mean.length != std.length) throw missing("mean and std");
    for (float value : std == null ? new float[0] : std) {
      if (!(value > 0)) throw missing("a positive std");
    }
    Object share = card.get("central_share");
    centralShare = share instanceof Double ? (Double) share : 1;
    if (!(centralShare > 0 && centralShare <= 1)) throw missing("a central_share above 0 and at most 1");
    dataset = text(card.get("dataset"));
    scheme = text(card.get("scheme"));
    untrained = Boolean.TRUE.equals(card.get("untrained"));
  }

  /** Whether it has a normalisation for that many channels. */
  boolean normalises(int channels) {
    return mean != null && (mean.length == 1 || mean.length == channels);
  }

  /** In the order and precision of training: pixels lose their offset, then are multiplied. */
  float offset(int channel) {
    return mean[mean.length == 1 ? 0 : channel] * 255f;
  }

  float factor(int channel) {
    return 1f / (std[std.length == 1 ? 0 : channel] * 255f);
  }

  private static List<String> names(Object value) throws ModelException {
    List<String> names = new ArrayList<>();
    if (value instanceof List) {
      for (Object name : (List<?>) value) {
        if (!(name instanceof String)) throw missing("names of classes");
        names.add((String) name);
      }
    }
    if (names.isEmpty()) throw missing("classes");
    return Collections.unmodifiableList(names);
  }

  private static float[] numbers(Map<?, ?> card, String key) throws ModelException {
    Object value = card.get(key);
    if (value == null) return null;
    if (!(value instanceof List) || ((List<?>) value).isEmpty()) throw missing(key);
    float[] numbers = new float[((List<?>) value).size()];
    for (int i = 0; i < numbers.length; i++) {
      Object number = ((List<?>) value).get(i);
      if (!(number instanceof Double) || ((Double) number).isInfinite()) throw missing(key);
      numbers[i] = ((Double) number).floatValue();
    }
    return numbers;
  }

  private static String text(Object value) {
    return value instanceof String ? (String) value : "";
  }

  private static ModelException missing(String what) {
    return new ModelException(ModelException.Reason.NO_CARD, "no " + what);
  }
}
