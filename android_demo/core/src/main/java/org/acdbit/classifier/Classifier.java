package org.acdbit.classifier;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.List;
import org.acdbit.classifier.ModelException.Reason;
import org.tensorflow.lite.Interpreter;

/**
 * A model that is open: pictures in, classes out. What stands in its file decides everything else: the size of the
 * pictures, their normalisation, the names of the classes, and whether libacdbit_runtime takes part. Not thread-safe.
 */
public final class Classifier implements AutoCloseable {
  private static final int WINDOW = 31;

  public final ModelCard card;
  /** Size of the input, in pixels, and its channels. */
  public final int width, height, channels;
  /** Whether libacdbit_runtime runs a part of it. */
  public final boolean packed;
  /** Times of the last inferences, without the preparation of pictures. */
  public final Latency latency = new Latency(WINDOW);

  private final ModelFile file;
  private final AcdbitDelegate delegate;
  private final Interpreter interpreter;
  private final ByteBuffer input, output;
  private final Preprocessor preprocessor;

  /**
   * @param model the content of a .tflite file: direct, such as a mapped file, which must stay as it is.
   * @param threads 1 to 256.
   * @throws ModelException naming the reason.
   */
  public Classifier(ByteBuffer model, int threads) throws ModelException {
    if (threads < 1 || threads > 256) throw new IllegalArgumentException("threads must be 1 to 256, not " + threads);
    file = new ModelFile(model);
    card = file.card();
    checkForm();
    height = file.inputShape[1];
    width = file.inputShape[2];
    channels = file.inputShape[3];
    packed = file.needsRuntime();
    preprocessor = new Preprocessor(width, height, channels);
    AcdbitDelegate made = null;
    Interpreter opened = null;
    try {
      Interpreter.Options options = new Interpreter.Options().setNumThreads(threads);
      if (packed) {
        made = new AcdbitDelegate(threads);
        options.addDelegate(made);
      }
      opened = new Interpreter(model, options);
      input = buffer(opened.getInputTensor(0).numBytes());
      output = buffer(opened.getOutputTensor(0).numBytes());
    } catch (RuntimeException | LinkageError | OutOfMemoryError failed) {
      if (opened != null) opened.close();
      String said = made == null ? "" : AcdbitDelegate.lastError();
      if (made != null) made.close();
      throw explained(failed, said);
    }
    delegate = made;
    interpreter = opened;
  }

  private void checkForm() throws ModelException {
    int[] shape = file.inputShape;
    if (file.inputs != 1 || shape.length != 4 || shape[0] != 1 || shape[1] < 1 || shape[2] < 1) {
      throw new ModelException(Reason.NO_CLASSIFIER, "its input is not one picture");
    }
    if (shape[3] != 1 && shape[3] != 3) throw new ModelException(Reason.NO_CLASSIFIER, shape[3] + " channels");
    if (file.inputType != ModelFile.FLOAT32 && file.inputType != ModelFile.UINT8) {
      throw new ModelException(Reason.NO_CLASSIFIER, "its input is neither of float32 nor of uint8");
    }
    if (file.inputType == ModelFile.FLOAT32 && !card.normalises(shape[3])) {
      throw new ModelException(Reason.NO_CARD, "no mean and std for " + shape[3] + " channels");
    }
    int[] logits = file.outputShape;
    if (file.outputs != 1 || file.outputType != ModelFile.FLOAT32 || logits.length != 2 || logits[0] != 1
        || logits[1] != card.classes.size()) {
      throw new ModelException(
          Reason.NO_CLASSIFIER, "its output is not one logit for each of " + card.classes.size() + " classes");
    }
  }

  private ModelException explained(Throwable failed, String said) {
    String text = said.isEmpty() ? String.valueOf(failed.getMessage()).trim().replaceAll("\\s+", " ") : said;
    if (failed instanceof LinkageError) return new ModelException(Reason.NO_LIBRARY, text, failed);
    if (failed instanceof OutOfMemoryError) return new ModelException(Reason.TOO_LARGE, "", failed);
    if (!file.foreignOps().isEmpty()) {
      return new ModelException(Reason.UNKNOWN_OPS, listed(file.foreignOps()), failed);
    }
    if (text.contains("find op for builtin"))
      return new ModelException(Reason.UNKNOWN_OPS, "a newer version of TFLite's", failed);
    if (text.contains("not a valid")) return new ModelException(Reason.DAMAGED, "TFLite does not read it", failed);
    return new ModelException(Reason.REFUSED, text, failed);
  }

  private static String listed(List<String> names) {
    // String.join is of Android 8.
    StringBuilder list = new StringBuilder();
    for (String name : names) list.append(list.length() == 0 ? "" : ", ").append(name);
    return list.toString();
  }

  private static ByteBuffer buffer(int bytes) {
    return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
  }

  /** Bytes of the file. */
  public long fileBytes() {
    return file.content.capacity();
  }

  /**
   * The pixels of a picture that this model looks at; another model of the same size may look at them, too.
   *
   * @param rotation clockwise degrees that turn the picture upright: 0, 90, 180 or 270.
   * @return height * width * channels values from 0 to 255, by rows.
   */
  public float[] look(Picture picture, int rotation) {
    return preprocessor.prepare(picture, rotation, card.centralShare);
  }

  /** The logits of pixels that {@link #look} gave. */
  public float[] logits(float[] pixels) {
    if (pixels.length != width * height * channels) {
      throw new IllegalArgumentException(
          pixels.length + " values are not " + height + " x " + width + " x " + channels);
    }
    input.rewind();
    if (file.inputType == ModelFile.UINT8) {
      for (float pixel : pixels) input.put((byte) Math.max(0, Math.min(255, (int) Math.rint(pixel))));
    } else {
      FloatBuffer values = input.asFloatBuffer();
      for (int i = 0; i < pixels.length; i++) {
        int channel = i % channels;
        values.put((pixels[i] - card.offset(channel)) * card.factor(channel));
      }
    }
    input.rewind();
    output.rewind();
    interpreter.run(input, output);
    latency.add(lastNanoseconds());
    float[] logits = new float[card.classes.size()];
    output.rewind();
    output.asFloatBuffer().get(logits);
    return logits;
  }

  /** How long the last inference took, without the preparation of its picture. */
  long lastNanoseconds() {
    return interpreter.getLastNativeInferenceDurationNanoseconds();
  }

  /** The most probable classes of a picture, best first. */
  public List<Answer> classify(Picture picture, int rotation, int most) {
    return Answer.best(logits(look(picture, rotation)), card.classes, most);
  }

  @Override
  public void close() {
    interpreter.close();
    if (delegate != null) delegate.close();
  }
}
