package org.acdbit.demo;

import android.content.Context;
import android.database.Cursor;
import android.net.Uri;
import android.provider.OpenableColumns;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/**
 * What the picker lists: a model, and where there is one its float twin. In the assets NAME.bits.tflite and
 * NAME.float32.tflite are such a pair; any other file stands alone.
 */
final class ModelChoice {
  private static final String FOLDER = "models", BITS = ".bits.tflite", TWIN = ".float32.tflite", END = ".tflite";

  /** What survives in a saved state. */
  final String id;
  final String title;
  final ModelSource model;
  /** Null where there is none. */
  final ModelSource twin;

  private ModelChoice(String id, String title, ModelSource model, ModelSource twin) {
    this.id = id;
    this.title = title;
    this.model = model;
    this.twin = twin;
  }

  /** Those that come with the app, by name; empty where there are none. */
  static List<ModelChoice> ofAssets(Context context) {
    List<ModelChoice> choices = new ArrayList<>();
    List<String> files = new ArrayList<>();
    try {
      files.addAll(Arrays.asList(context.getAssets().list(FOLDER)));
    } catch (IOException none) {
      return choices;
    }
    for (String file : files) {
      if (!file.endsWith(END)) continue;
      String name = file.substring(0, file.length() - (file.endsWith(BITS) ? BITS : END).length());
      String twin = name + TWIN;
      boolean paired = file.endsWith(BITS) && files.contains(twin);
      if (file.endsWith(TWIN) && files.contains(file.replace(TWIN, BITS))) continue;
      choices.add(new ModelChoice(file, name.replace('_', ' '), ModelSource.ofAsset(FOLDER + "/" + file),
          paired ? ModelSource.ofAsset(FOLDER + "/" + twin) : null));
    }
    Collections.sort(choices, (one, other) -> one.title.compareTo(other.title));
    return choices;
  }

  /** One of the phone's files. */
  static ModelChoice ofFile(Context context, Uri uri) {
    String title = String.valueOf(uri.getLastPathSegment());
    try (Cursor row =
             context.getContentResolver().query(uri, new String[] {OpenableColumns.DISPLAY_NAME}, null, null, null)) {
      if (row != null && row.moveToFirst() && row.getString(0) != null) title = row.getString(0);
    } catch (RuntimeException noName) {
      // Whoever keeps the file need not name it.
    }
    return new ModelChoice(uri.toString(), title, ModelSource.ofUri(uri), null);
  }
}
