package org.acdbit.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.text.TextPaint;
import android.text.TextUtils;
import android.util.AttributeSet;
import android.util.TypedValue;
import android.view.View;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Named bars with their values at the right, read out one after the other. */
public final class BarsView extends View {
  /** One bar. */
  static final class Bar {
    final String name, value;
    /** Of the whole width, 0 to 1. */
    final double share;
    final int color;

    Bar(String name, String value, double share, int color) {
      this.name = name;
      this.value = value;
      this.share = share;
      this.color = color;
    }
  }

  private final Paint fill = new Paint();
  private final TextPaint text = new TextPaint(Paint.ANTI_ALIAS_FLAG);
  private final float dp;
  private List<Bar> bars = Collections.emptyList();
  private int rows;

  public BarsView(Context context, AttributeSet attributes) {
    super(context, attributes);
    dp = getResources().getDisplayMetrics().density;
    text.setColor(context.getColor(R.color.text));
    text.setTextSize(TypedValue.applyDimension(TypedValue.COMPLEX_UNIT_SP, 16, getResources().getDisplayMetrics()));
  }

  /** @param rows for how many bars there is to be room. */
  void setRows(int rows) {
    this.rows = rows;
    requestLayout();
  }

  void show(List<Bar> shown) {
    bars = new ArrayList<>(shown);
    List<String> spoken = new ArrayList<>();
    for (Bar bar : bars) spoken.add(getContext().getString(R.string.answer, bar.name, bar.value));
    setContentDescription(TextUtils.join(". ", spoken));
    invalidate();
  }

  private float row() {
    return Math.max(36 * dp, 1.9f * text.getTextSize());
  }

  @Override
  protected void onMeasure(int width, int height) {
    setMeasuredDimension(
        getDefaultSize(getSuggestedMinimumWidth(), width), resolveSize(Math.round(rows * row()), height));
  }

  @Override
  protected void onDraw(Canvas canvas) {
    float row = row(), margin = 8 * dp, gap = 3 * dp;
    for (int i = 0; i < Math.min(rows, bars.size()); i++) {
      Bar bar = bars.get(i);
      float top = i * row, base = top + row / 2 - (text.ascent() + text.descent()) / 2;
      fill.setColor(bar.color);
      canvas.drawRect(0, top + gap, (float) (getWidth() * Math.max(0, Math.min(1, bar.share))), top + row - gap, fill);
      float wide = text.measureText(bar.value), room = getWidth() - wide - 3 * margin;
      canvas.drawText(
          TextUtils.ellipsize(bar.name, text, room, TextUtils.TruncateAt.END).toString(), margin, base, text);
      canvas.drawText(bar.value, getWidth() - wide - margin, base, text);
    }
  }
}
