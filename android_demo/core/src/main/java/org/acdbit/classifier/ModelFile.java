package org.acdbit.classifier;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/**
 * A .tflite file as far as an app must know it before TFLite opens it: the card, the ops, the form of input and output.
 * Reads the flatbuffer by the field numbers of TFLite's schema.fbs, version 3.
 */
public final class ModelFile {
  private static final int IDENTIFIER = 0x334c4654; // "TFL3"
  private static final String ENTRY = "acdbit_keras";
  private static final List<String> OURS = Arrays.asList(
      "LceQuantize", "LceDequantize", "LceBconv2d", "LceBMaxPool2d", "AcdBinaryAttention", "AcdBinaryBlock");

  /** Types of tensors, as the schema numbers them. */
  static final int FLOAT32 = 0, UINT8 = 3;

  /** The whole file, direct where it is to be run. */
  public final ByteBuffer content;
  /** Names of the ops that are not TFLite's own. */
  public final List<String> customOps;
  /** Of the first input and the first output. */
  final int[] inputShape, outputShape;
  final int inputType, outputType, inputs, outputs;

  private final ByteBuffer file;
  private final String metadata;

  /** @throws ModelException of the reason DAMAGED: it is no .tflite file, or ends too early. */
  public ModelFile(ByteBuffer content) throws ModelException {
    this.content = content;
    file = content.duplicate().order(ByteOrder.LITTLE_ENDIAN);
    try {
      if (file.getInt(4) != IDENTIFIER)
        throw new ModelException(ModelException.Reason.DAMAGED, "it is no .tflite file");
      int root = follow(0);
      customOps = Collections.unmodifiableList(customOps(vector(field(root, 1))));
      int graph = element(vector(field(root, 2)), 0), tensors = vector(field(graph, 0));
      int taken = vector(field(graph, 1)), given = vector(field(graph, 2));
      inputs = count(taken);
      outputs = count(given);
      int input = element(tensors, file.getInt(item(taken, 0))), output = element(tensors, file.getInt(item(given, 0)));
      inputShape = numbers(vector(field(input, 0)));
      outputShape = numbers(vector(field(output, 0)));
      inputType = byteAt(field(input, 1));
      outputType = byteAt(field(output, 1));
      metadata = metadata(vector(field(root, 6)), vector(field(root, 4)));
    } catch (IndexOutOfBoundsException | IllegalArgumentException damaged) {
      throw new ModelException(ModelException.Reason.DAMAGED, "it ends too early, or holds nonsense", damaged);
    }
  }

  /** @throws ModelException of the reason NO_CARD. */
  public ModelCard card() throws ModelException {
    try {
      Object entry = metadata == null ? null : Json.parse(metadata);
      Object card = entry instanceof Map ? ((Map<?, ?>) entry).get("card") : null;
      if (card instanceof Map) return new ModelCard((Map<?, ?>) card);
    } catch (IllegalArgumentException damaged) {
      throw new ModelException(ModelException.Reason.NO_CARD, "its metadata are damaged", damaged);
    }
    throw new ModelException(ModelException.Reason.NO_CARD, "");
  }

  /** Whether libacdbit_runtime has to run a part of it. */
  public boolean needsRuntime() {
    return !Collections.disjoint(customOps, OURS);
  }

  /** Custom ops that are not ours: TFLite knows a few, and refuses the rest. */
  List<String> foreignOps() {
    List<String> foreign = new ArrayList<>(customOps);
    foreign.removeAll(OURS);
    return foreign;
  }

  private List<String> customOps(int codes) {
    List<String> names = new ArrayList<>();
    for (int i = 0; i < count(codes); i++) {
      int name = field(element(codes, i), 1);
      if (name != 0) names.add(text(follow(name)));
    }
    return names;
  }

  private String metadata(int entries, int buffers) {
    for (int i = 0; i < count(entries); i++) {
      int entry = element(entries, i), name = field(entry, 0), buffer = field(entry, 1);
      if (name == 0 || !ENTRY.equals(text(follow(name)))) continue;
      int data = field(element(buffers, buffer == 0 ? 0 : file.getInt(buffer)), 0);
      return data == 0 ? null : text(follow(data));
    }
    return null;
  }

  // === Flatbuffers: positions in the file; a field or vector that is not there is at 0 ===

  private int field(int table, int number) {
    int vtable = table - file.getInt(table), slot = 4 + 2 * number;
    int offset = slot < (file.getShort(vtable) & 0xffff) ? file.getShort(vtable + slot) & 0xffff : 0;
    return offset == 0 ? 0 : table + offset;
  }

  private int follow(int at) {
    return Math.addExact(at, file.getInt(at));
  }

  private int vector(int field) {
    return field == 0 ? 0 : follow(field);
  }

  private int count(int vector) {
    int count = vector == 0 ? 0 : file.getInt(vector);
    if (count < 0 || count > (file.limit() - vector) / 4) throw new IndexOutOfBoundsException();
    return count;
  }

  /** Where an element of four bytes stands. */
  private int item(int vector, int i) {
    if (i < 0 || i >= count(vector)) throw new IndexOutOfBoundsException();
    return vector + 4 + 4 * i;
  }

  private int element(int vector, int i) {
    return follow(item(vector, i));
  }

  private int byteAt(int field) {
    return field == 0 ? 0 : file.get(field);
  }

  private int[] numbers(int vector) {
    int[] numbers = new int[count(vector)];
    for (int i = 0; i < numbers.length; i++) numbers[i] = file.getInt(item(vector, i));
    return numbers;
  }

  private String text(int vector) {
    int length = file.getInt(vector);
    if (length < 0 || length > file.limit() - vector - 4) throw new IndexOutOfBoundsException();
    byte[] bytes = new byte[length];
    ByteBuffer view = file.duplicate();
    view.position(vector + 4);
    view.get(bytes);
    return new String(bytes, StandardCharsets.UTF_8);
  }
}
