package org.acdbit.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.util.AttributeSet;
import android.view.View;
import org.acdbit.classifier.Viewfinder;

/** The frame around what is classified; what is not is darkened. */
public final class ViewfinderView extends View {
  private final Paint line = new Paint(), outside = new Paint();
  private Viewfinder viewfinder;

  public ViewfinderView(Context context, AttributeSet attributes) {
    super(context, attributes);
    float dp = getResources().getDisplayMetrics().density;
    line.setColor(context.getColor(R.color.viewfinder));
    line.setStyle(Paint.Style.STROKE);
    line.setStrokeWidth(2 * dp);
    outside.setColor(context.getColor(R.color.outside));
  }

  /** @param shown null: nothing. */
  void show(Viewfinder shown) {
    viewfinder = shown;
    invalidate();
  }

  Viewfinder shown() {
    return viewfinder;
  }

  @Override
  protected void onDraw(Canvas canvas) {
    if (viewfinder == null) return;
    float left = viewfinder.cropLeft, top = viewfinder.cropTop, right = viewfinder.cropRight,
          bottom = viewfinder.cropBottom;
    canvas.drawRect(viewfinder.left, viewfinder.top, viewfinder.right, top, outside);
    canvas.drawRect(viewfinder.left, bottom, viewfinder.right, viewfinder.bottom, outside);
    canvas.drawRect(viewfinder.left, top, left, bottom, outside);
    canvas.drawRect(right, top, viewfinder.right, bottom, outside);
    float half = line.getStrokeWidth() / 2;
    canvas.drawRect(left + half, top + half, right - half, bottom - half, line);
  }
}
