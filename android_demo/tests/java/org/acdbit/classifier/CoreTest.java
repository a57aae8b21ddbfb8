package org.acdbit.classifier;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** What needs neither a model nor a library. */
public class CoreTest {
  private static final List<String> NAMES = Arrays.asList("a", "b", "c", "d");

  @Test
  public void theBestAnswersComeFirstAndOfEqualOnesTheFirst() {
    List<Answer> best = Answer.best(new float[] {0, 1, 1, -1}, NAMES, 3);
    assertEquals("b", best.get(0).name);
    assertEquals("c", best.get(1).name);
    assertEquals("a", best.get(2).name);
    assertEquals(Math.E / (1 + 2 * Math.E + 1 / Math.E), best.get(0).probability, 1e-12);
  }

  @Test
  public void largeLogitsDoNotOverflow() {
    List<Answer> best = Answer.best(new float[] {1000, 999, -1000, 0}, NAMES, 9);
    assertEquals(4, best.size());
    assertEquals(1 / (1 + Math.exp(-1)), best.get(0).probability, 1e-12);
  }

  @Test
  public void theMedianIsThatOfTheLastTimes() {
    Latency latency = new Latency(4);
    assertTrue(Double.isNaN(latency.median()));
    latency.add(9_000_000);
    assertEquals(9, latency.median(), 0);
    for (int ms : new int[] {1, 2, 3, 4}) latency.add(ms * 1_000_000L);
    assertEquals(2.5, latency.median(), 0);
  }

  @Test
  public void jsonIsReadWithItsEscapesAndNumbers() {
    Map<?, ?> read =
        (Map<?, ?>) Json.parse(" {\"a\": [1, -2.5e-3, true, null], \"\\u00e4\\n\": {\"b\": \"\\\"\\/\"}, \"c\": []} ");
    assertEquals(Arrays.asList(1.0, -0.0025, true, null), read.get("a"));
    assertEquals(Collections.singletonMap("b", "\"/"), read.get("\u00e4\n"));
    assertEquals(Collections.emptyList(), read.get("c"));
  }

  @Test
  public void whatIsNotJsonIsRefused() {
    StringBuilder deep = new StringBuilder();
    for (int i = 0; i < 100_000; i++) deep.append('[');
    for (String text : new String[] {"", "{", "[1,]", "{\"a\" 1}", "{\"a\": 1,}", "[1] 2", "01x", "--1", "\"a",
             "\"\\u12\"", "\"\\q\"", "tru", "[1 2]", "{1: 2}", "\"\n\"", "1e", deep.toString()}) {
      assertThrows(text, IllegalArgumentException.class, () -> Json.parse(text));
    }
  }

  @Test
  public void theCropIsInTheMiddleAndRoundsHalfToEven() {
    Crop crop = Crop.of(640, 480, 32, 32, 1);
    assertArrayEquals(new int[] {80, 0, 480, 480}, new int[] {crop.left, crop.top, crop.width, crop.height});
    crop = Crop.of(333, 500, 224, 224, 0.875); // 291.375
    assertArrayEquals(new int[] {21, 104, 291, 291}, new int[] {crop.left, crop.top, crop.width, crop.height});
    crop = Crop.of(100, 5, 32, 32, 0.5); // 2.5
    assertArrayEquals(new int[] {49, 1, 2, 2}, new int[] {crop.left, crop.top, crop.width, crop.height});
    crop = Crop.of(400, 100, 64, 32, 1);
    assertArrayEquals(new int[] {100, 0, 200, 100}, new int[] {crop.left, crop.top, crop.width, crop.height});
  }

  @Test
  public void aPlaneThatEndsEarlyIsNoFrame() {
    ByteBuffer luma = ByteBuffer.allocate(63), chroma = ByteBuffer.allocate(16);
    assertThrows(IllegalArgumentException.class, () -> new Frame(8, 8, luma, 8, chroma, chroma, 4, 1));
    ByteBuffer full = ByteBuffer.allocate(64), cut = ByteBuffer.allocate(15);
    assertThrows(IllegalArgumentException.class, () -> new Frame(8, 8, full, 8, chroma, cut, 4, 1));
    assertThrows(IllegalArgumentException.class, () -> new Frame(8, 8, full, 7, chroma, chroma, 4, 1));
    assertThrows(IllegalArgumentException.class, () -> new Frame(0, 8, full, 8, chroma, chroma, 4, 1));
    new Frame(8, 8, full, 8, chroma, chroma, 4, 1);
    // Of the last row only its pixels have to be there.
    new Frame(
        8, 8, ByteBuffer.allocate(7 * 10 + 8), 10, ByteBuffer.allocate(3 * 12 + 7), ByteBuffer.allocate(43), 12, 2);
  }

  @Test
  public void aGreyPictureKeepsItsValueWhateverItsSize() {
    for (int size : new int[] {1, 7, 32, 100}) {
      ByteBuffer grey = ByteBuffer.allocate(3 * size * size);
      Arrays.fill(grey.array(), (byte) 200);
      for (int channels : new int[] {1, 3}) {
        float[] pixels = new Preprocessor(16, 16, channels).prepare(Batch.rgb(size, size, grey), 90, 1);
        for (float value : pixels) assertEquals(200, value, 1e-3);
      }
    }
  }

  @Test
  public void otherRotationsAndChannelsAreRefused() {
    Picture picture = Batch.rgb(8, 8, ByteBuffer.allocate(192));
    for (int rotation : new int[] {-90, 45, 360}) {
      assertThrows(IllegalArgumentException.class, () -> new Preprocessor(8, 8, 3).prepare(picture, rotation, 1));
    }
    assertThrows(IllegalArgumentException.class, () -> new Preprocessor(8, 8, 2));
  }
}
