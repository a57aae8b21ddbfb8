package org.acdbit.demo;

import android.content.ContentResolver;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.Matrix;
import android.media.ExifInterface;
import android.net.Uri;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import org.acdbit.classifier.Picture;

/** Pictures of the phone's files. */
final class Stills {
  private static final int LONGEST = 2048;

  /** What Android cannot read as a picture. */
  static final class NoPictureException extends IOException {
    private static final long serialVersionUID = 1;
  }

  private Stills() {}

  /**
   * A picture, turned as its EXIF data say; a large one at a half, a quarter, ... of its size.
   *
   * @throws NoPictureException it is none.
   * @throws IOException it cannot be read.
   */
  static Bitmap read(ContentResolver resolver, Uri uri) throws IOException {
    BitmapFactory.Options options = new BitmapFactory.Options();
    options.inJustDecodeBounds = true;
    try (InputStream stream = open(resolver, uri)) {
      BitmapFactory.decodeStream(stream, null, options);
    }
    options.inJustDecodeBounds = false;
    options.inSampleSize = 1;
    while (Math.max(options.outWidth, options.outHeight) / options.inSampleSize > LONGEST) options.inSampleSize *= 2;
    Bitmap bitmap;
    try (InputStream stream = open(resolver, uri)) {
      bitmap = BitmapFactory.decodeStream(stream, null, options);
    } catch (OutOfMemoryError tooLarge) {
      bitmap = null;
    }
    if (bitmap == null) throw new NoPictureException();
    Matrix matrix = upright(orientation(resolver, uri));
    return matrix.isIdentity() ? bitmap
                               : Bitmap.createBitmap(bitmap, 0, 0, bitmap.getWidth(), bitmap.getHeight(), matrix, true);
  }

  private static InputStream open(ContentResolver resolver, Uri uri) throws IOException {
    InputStream stream = resolver.openInputStream(uri);
    if (stream == null) throw new FileNotFoundException(uri.toString());
    return stream;
  }

  private static int orientation(ContentResolver resolver, Uri uri) throws IOException {
    try (InputStream stream = open(resolver, uri)) {
      return new ExifInterface(stream).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL);
    } catch (IOException | RuntimeException noExif) {
      return ExifInterface.ORIENTATION_NORMAL; // PNG has none, and older versions of Android throw
    }
  }

  /** What turns a picture of an EXIF orientation upright. */
  static Matrix upright(int orientation) {
    Matrix matrix = new Matrix();
    switch (orientation) {
      case ExifInterface.ORIENTATION_FLIP_HORIZONTAL:
        matrix.setScale(-1, 1);
        break;
      case ExifInterface.ORIENTATION_ROTATE_180:
        matrix.setRotate(180);
        break;
      case ExifInterface.ORIENTATION_FLIP_VERTICAL:
        matrix.setScale(1, -1);
        break;
      case ExifInterface.ORIENTATION_TRANSPOSE:
        matrix.setRotate(90);
        matrix.postScale(-1, 1);
        break;
      case ExifInterface.ORIENTATION_ROTATE_90:
        matrix.setRotate(90);
        break;
      case ExifInterface.ORIENTATION_TRANSVERSE:
        matrix.setRotate(270);
        matrix.postScale(-1, 1);
        break;
      case ExifInterface.ORIENTATION_ROTATE_270:
        matrix.setRotate(270);
        break;
      default:
    }
    return matrix;
  }

  /** A bitmap as the classifier reads it. */
  static Picture picture(final Bitmap bitmap) {
    return new Picture() {
      @Override
      public int width() {
        return bitmap.getWidth();
      }

      @Override
      public int height() {
        return bitmap.getHeight();
      }

      @Override
      public void row(int row, int left, int count, int[] rgb) {
        bitmap.getPixels(rgb, 0, count, left, row, count, 1);
      }
    };
  }
}
