// What the benchmarks share: a clock and a median.
#ifndef ACDBIT_BENCH_TIMING_H_
#define ACDBIT_BENCH_TIMING_H_

#include <time.h>

#include <algorithm>
#include <vector>

namespace acdbit {

inline double now_us() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace acdbit

#endif  // ACDBIT_BENCH_TIMING_H_
