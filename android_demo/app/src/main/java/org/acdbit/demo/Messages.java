package org.acdbit.demo;

import android.content.Context;
import android.os.Build;
import android.text.TextUtils;
import android.text.format.Formatter;
import org.acdbit.classifier.ModelException;

/** What went wrong, in one sentence of the user's language. */
final class Messages {
  private Messages() {}

  static String of(Context context, Throwable failed) {
    if (failed instanceof ModelException) return of(context, (ModelException) failed);
    if (failed instanceof ModelSource.TooLargeException) {
      ModelSource.TooLargeException large = (ModelSource.TooLargeException) failed;
      return context.getString(R.string.model_too_large, size(context, large.bytes), size(context, large.free));
    }
    if (failed instanceof Stills.NoPictureException) return context.getString(R.string.picture_bad);
    return context.getString(R.string.file_bad, clause(String.valueOf(failed.getMessage())));
  }

  private static String of(Context context, ModelException failed) {
    switch (failed.reason) {
      case DAMAGED:
        return context.getString(R.string.model_damaged);
      case NO_CARD:
        return context.getString(R.string.model_no_card);
      case UNKNOWN_OPS:
        return context.getString(R.string.model_unknown_ops, clause(failed.detail));
      case NO_CLASSIFIER:
        return context.getString(R.string.model_no_classifier, clause(failed.detail));
      case TOO_LARGE:
        return context.getString(R.string.model_no_memory);
      case NO_LIBRARY:
        return context.getString(R.string.model_no_library, TextUtils.join(", ", Build.SUPPORTED_ABIS));
      default:
        return context.getString(R.string.model_refused, clause(failed.detail));
    }
  }

  static String of(Context context, CameraSource.Problem problem, String detail) {
    switch (problem) {
      case NONE_THERE:
        return context.getString(R.string.camera_none);
      case IN_USE:
        return context.getString(R.string.camera_in_use);
      case FORMAT:
        return context.getString(R.string.camera_format);
      default:
        return context.getString(R.string.camera_failed, clause(detail));
    }
  }

  /** What others say, as a part of our sentence: the first of its sentences, without its full stop. */
  private static String clause(String said) {
    String first = said.trim().split("\\R|\\.\\s")[0];
    return first.endsWith(".") ? first.substring(0, first.length() - 1) : first;
  }

  static String size(Context context, long bytes) {
    return Formatter.formatShortFileSize(context, bytes);
  }
}
