package org.acdbit.classifier;

/**
 * Why a model cannot be used: a reason that an app says in its user's language, and the same as an English sentence.
 */
public final class ModelException extends Exception {
  private static final long serialVersionUID = 1;

  /** What is wrong. */
  public enum Reason {
    /** Not a .tflite file, or one that ends too early or holds nonsense. */
    DAMAGED,
    /** The file does not say its classes, or how its pictures are normalised. */
    NO_CARD,
    /** The file holds ops that neither TFLite nor libacdbit_runtime knows. */
    UNKNOWN_OPS,
    /** Its input is no picture, or its output no row of logits. */
    NO_CLASSIFIER,
    /** It does not fit into memory. */
    TOO_LARGE,
    /** The libraries are not there for this processor. */
    NO_LIBRARY,
    /** TFLite or the runtime refuses it; the detail says why. */
    REFUSED
  }

  public final Reason reason;
  /** What exactly, without a sentence around it; may be empty. */
  public final String detail;

  public ModelException(Reason reason, String detail) {
    this(reason, detail, null);
  }

  public ModelException(Reason reason, String detail, Throwable cause) {
    super(sentence(reason) + (detail.isEmpty() ? "" : ": " + detail), cause);
    this.reason = reason;
    this.detail = detail;
  }

  private static String sentence(Reason reason) {
    switch (reason) {
      case DAMAGED:
        return "the file is no model, or damaged";
      case NO_CARD:
        return "the file does not say its classes and its normalisation";
      case UNKNOWN_OPS:
        return "the file holds ops that are not known here";
      case NO_CLASSIFIER:
        return "the model does not classify pictures";
      case TOO_LARGE:
        return "the model is larger than the free memory";
      case NO_LIBRARY:
        return "the libraries do not fit this processor";
      default:
        return "the model cannot be opened";
    }
  }
}
