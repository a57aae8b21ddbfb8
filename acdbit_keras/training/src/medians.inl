// Medians of weights. Included once per instruction set.

// Averaging medians by bisection, sixteen columns at a time: the bound closes in on the lower middle value from above.
inline void ColumnMedians(const float* x, int64_t rows, int64_t columns, float* medians) {
  constexpr int64_t kWide = 16;
  for (int64_t start = 0; start < columns; start += kWide) {
    const int64_t wide = std::min(kWide, columns - start);
    float low[kWide], high[kWide], lower[kWide], upper[kWide];
    int32_t count[kWide];
    for (int64_t c = 0; c < wide; c++) low[c] = high[c] = x[start + c];
    for (int64_t r = 0; r < rows; r++) {
      const float* own = x + r * columns + start;
      for (int64_t c = 0; c < wide; c++) {
        low[c] = std::min(low[c], own[c]);
        high[c] = std::max(high[c], own[c]);
      }
    }
    const int32_t middle = static_cast<int32_t>((rows - 1) / 2);
    for (int iteration = 0; iteration < 24; iteration++) {
      float bound[kWide];
      for (int64_t c = 0; c < wide; c++) {
        bound[c] = low[c] + 0.5f * (high[c] - low[c]);
        count[c] = 0;
      }
      for (int64_t r = 0; r < rows; r++) {
        const float* own = x + r * columns + start;
        if (wide == kWide) {
#pragma omp simd
          for (int64_t c = 0; c < kWide; c++) count[c] += own[c] <= bound[c];
        } else {
          for (int64_t c = 0; c < wide; c++) count[c] += own[c] <= bound[c];
        }
      }
      for (int64_t c = 0; c < wide; c++) (count[c] > middle ? high[c] : low[c]) = bound[c];
    }
    for (int64_t c = 0; c < wide; c++) {
      lower[c] = -INFINITY, upper[c] = INFINITY, count[c] = 0;
      for (int64_t r = 0; r < rows; r++) {
        const float value = x[r * columns + start + c];
        if (value <= high[c]) {
          lower[c] = std::max(lower[c], value);
          count[c]++;
        } else {
          upper[c] = std::min(upper[c], value);
        }
      }
      // The upper middle value, too, is `lower` where more than half are at most that.
      if (rows % 2 || count[c] > rows / 2) upper[c] = lower[c];
      medians[start + c] = 0.5f * (lower[c] + upper[c]);
    }
  }
}
