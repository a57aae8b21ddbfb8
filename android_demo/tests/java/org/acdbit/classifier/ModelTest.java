package org.acdbit.classifier;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Random;
import java.util.stream.Stream;
import org.acdbit.classifier.ModelException.Reason;
import org.junit.Test;

/** Models, good and bad, of the folder in the property "models", on the real TFLite and the real runtime. */
public class ModelTest {
  private static final Path FOLDER = Paths.get(System.getProperty("models"));
  private static final int CYCLES = Integer.getInteger("cycles", 500);

  private static ByteBuffer model(String name) throws IOException {
    return buffer(Files.readAllBytes(FOLDER.resolve(name)));
  }

  private static ByteBuffer buffer(byte[] bytes) {
    ByteBuffer direct = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
    direct.put(bytes).rewind();
    return direct;
  }

  private static ModelException refused(Reason reason, ByteBuffer model) {
    ModelException refused = assertThrows(ModelException.class, () -> new Classifier(model, 1).close());
    assertEquals(refused.getMessage(), reason, refused.reason);
    assertFalse(refused.getMessage(), refused.getMessage().contains("\n"));
    return refused;
  }

  @Test
  public void theFileSaysAllThatTheAppMustKnow() throws Exception {
    try (Classifier packed = new Classifier(model("bits.tflite"), 1);
         Classifier twin = new Classifier(model("float32.tflite"), 1)) {
      assertTrue(packed.packed);
      assertFalse(twin.packed);
      assertEquals(10, packed.card.classes.size());
      assertEquals("airplane", packed.card.classes.get(0));
      assertEquals("cifar10", packed.card.dataset);
      assertEquals("acd_bit", packed.card.scheme);
      assertEquals("float32", twin.card.scheme);
      assertEquals(32, packed.width);
      assertEquals(32, packed.height);
      assertFalse(packed.card.untrained);
      assertEquals(Files.size(FOLDER.resolve("bits.tflite")), packed.fileBytes());
    }
  }

  @Test
  public void aFileThatTakesPixelsGivesTheSameAnswers() throws Exception {
    float[] pixels = new float[32 * 32 * 3];
    Random random = new Random(1);
    for (int i = 0; i < pixels.length; i++) pixels[i] = random.nextInt(256);
    try (Classifier floats = new Classifier(model("bits.tflite"), 1);
         Classifier bytes = new Classifier(model("uint8.tflite"), 1)) {
      assertEquals(Answer.best(floats.logits(pixels), floats.card.classes, 1).get(0).name,
          Answer.best(bytes.logits(pixels), bytes.card.classes, 1).get(0).name);
    }
  }

  @Test
  public void aComparisonTimesBothAndStopsWhenItIsTold() throws Exception {
    try (Classifier packed = new Classifier(model("bits.tflite"), 1);
         Classifier twin = new Classifier(model("float32.tflite"), 1)) {
      float[] pixels = new float[32 * 32 * 3];
      int[] calls = {0};
      Comparison found = Comparison.run(packed, twin, pixels, 20, done -> done == calls[0]++);
      assertEquals(20, calls[0]);
      assertTrue(found.packedMs > 0 && found.twinMs > 0);
      assertEquals(found.twinMs / found.packedMs, found.timesAsFast(), 0);
      assertEquals(twin.fileBytes() / (double) packed.fileBytes(), found.timesAsSmall(), 0);
      assertEquals(null, Comparison.run(packed, twin, pixels, 20, done -> done < 3));
    }
  }

  @Test
  public void aModelWithoutMetadataIsRefused() throws Exception {
    refused(Reason.NO_CARD, model("no_card.tflite"));
  }

  @Test
  public void aTruncatedModelIsRefusedWhereverItEnds() throws Exception {
    byte[] whole = Files.readAllBytes(FOLDER.resolve("bits.tflite"));
    // Behind the flatbuffer the file goes on with the labels; without them it is still a model.
    int end = whole.length - 1000;
    for (int part = 0; part < 40; part++) {
      byte[] cut = new byte[(int) ((long) end * part / 40)];
      System.arraycopy(whole, 0, cut, 0, cut.length);
      ModelException refused = assertThrows(ModelException.class, () -> new Classifier(buffer(cut), 1).close());
      assertTrue(refused.getMessage(), refused.reason == Reason.DAMAGED || refused.reason == Reason.NO_CARD);
    }
  }

  @Test
  public void noFileIsAModelJustBecauseItIsThere() throws Exception {
    for (byte[] bytes : new byte[][] {{}, {1, 2, 3}, new byte[1000], "not a model, but a text".getBytes("US-ASCII")}) {
      refused(Reason.DAMAGED, buffer(bytes));
    }
  }

  @Test
  public void opsThatNeitherSideKnowsAreNamed() throws Exception {
    assertTrue(refused(Reason.UNKNOWN_OPS, model("unknown_op.tflite")).getMessage().contains("Foreign"));
  }

  @Test
  public void aModelThatDoesNotClassifyPicturesIsRefused() throws Exception {
    refused(Reason.NO_CLASSIFIER, model("no_picture.tflite"));
  }

  @Test
  public void threadsAreOneToTwoHundredAndFiftySix() throws Exception {
    ByteBuffer model = model("bits.tflite");
    for (int threads : new int[] {0, -1, 257})
      assertThrows(IllegalArgumentException.class, () -> new Classifier(model, threads));
  }

  @Test
  public void aDamagedCardIsNeverMoreThanARefusal() throws Exception {
    byte[] whole = Files.readAllBytes(FOLDER.resolve("bits.tflite"));
    Random random = new Random(1);
    int refused = 0;
    for (int round = 0; round < 20_000; round++) {
      byte[] damaged = whole.clone();
      for (int i = 0; i < 8; i++) damaged[random.nextInt(4000)] ^= (byte) (1 << random.nextInt(8));
      for (int i = 0; i < 8; i++)
        damaged[damaged.length - 1 - random.nextInt(20_000)] ^= (byte) (1 << random.nextInt(8));
      try {
        new ModelFile(ByteBuffer.wrap(damaged)).card();
      } catch (ModelException sentence) {
        refused++;
      }
    }
    assertTrue(refused + " of 20000", refused > 1000 && refused < 20_000);
  }

  @Test
  public void openingAndClosingLeavesNothingBehind() throws Exception {
    ByteBuffer packed = model("bits.tflite"), twin = model("float32.tflite");
    float[] pixels = new float[32 * 32 * 3];
    // Until Java has compiled what it compiles and the allocator has what it keeps.
    cycle(packed, twin, pixels, 1000);
    long threads = threads();
    // A pair of models that stayed would be 2 MB. What stays, stays every time; what Java compiles late, once.
    long most = 4L << 20, grown = Long.MAX_VALUE;
    for (int round = 0; round < 3 && grown >= most; round++) {
      long before = memory()[0];
      cycle(packed, twin, pixels, CYCLES);
      grown = memory()[0] - before;
    }
    assertTrue("threads " + threads + " -> " + threads(), threads() <= threads + 1);
    assertTrue(CYCLES + " cycles, three times: at least " + grown + " native bytes more", grown < most);
    System.out.println(CYCLES + " times opened and closed: " + grown / 1024 + " kB of memory more");
  }

  @Test
  public void tenMinutesOfFramesLeaveNothingBehind() throws Exception {
    int frames = Integer.getInteger("frames", 18_000);
    ByteBuffer luma = ByteBuffer.allocateDirect(640 * 480), chroma = ByteBuffer.allocateDirect(640 * 240);
    Frame frame = new Frame(640, 480, luma, 640, chroma, chroma, 640, 2);
    try (Classifier classifier = new Classifier(model("bits.tflite"), 2)) {
      for (int i = 0; i < 300; i++) classifier.classify(frame, 90, 3);
      long before = memory()[0];
      for (int i = 0; i < frames; i++) {
        luma.put(i % luma.capacity(), (byte) i);
        classifier.classify(frame, 90 * (i % 4), 3);
      }
      long more = memory()[0] - before;
      // A hundred bytes a frame would be 1.8 MB.
      assertTrue(frames + " frames: " + more / 1024 + " kB more", more < 1 << 20);
      System.out.println(frames + " frames: " + more / 1024 + " kB of memory more, look and answer "
          + "with a median of " + classifier.latency.median() + " ms for the answer");
    }
  }

  private static void cycle(ByteBuffer packed, ByteBuffer twin, float[] pixels, int times) throws ModelException {
    for (int i = 0; i < times; i++) {
      try (Classifier one = new Classifier(packed, 1 + i % 2); Classifier other = new Classifier(twin, 1)) {
        one.logits(pixels);
        other.logits(pixels);
      }
    }
  }

  /** Anonymous memory of the process outside Java's heap, whose size is fixed for these tests. */
  private static long[] memory() throws IOException {
    // Buffers outside the heap are freed with the objects that hold them.
    System.gc();
    System.runFinalization();
    System.gc();
    try (Stream<String> lines = Files.lines(new File("/proc/self/status").toPath())) {
      return lines.filter(line -> line.startsWith("RssAnon"))
          .mapToLong(line -> 1024 * Long.parseLong(line.replaceAll("\\D", "")))
          .toArray();
    }
  }

  private static long threads() throws IOException {
    try (Stream<Path> tasks = Files.list(Paths.get("/proc/self/task"))) {
      return tasks.count();
    }
  }
}
