// The portable fused multiply-add against that of libm, above all where a sum lies half way between two floats but for
// what double precision loses.
#define ACDBIT_ISA portable_under_test

#include "vec_portable.h"

#include <gtest/gtest.h>
#include <math.h>

#include <random>

namespace acdbit {
namespace portable_under_test {
namespace {

void expect_fused(const float (&a)[16], const float (&b)[16], const float (&c)[16]) {
  float result[16];
  store(result, multiply_add(load(a), load(b), load(c)));
  for (int i = 0; i < 16; i++) ASSERT_EQ(result[i], fmaf(a[i], b[i], c[i])) << a[i] << " * " << b[i] << " + " << c[i];
}

TEST(VecTest, MultiplyAddIsRoundedOnce) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 20000; round++) {
    float a[16], b[16], c[16];
    for (int i = 0; i < 16; i++) {
      a[i] = normal(random);
      b[i] = normal(random);
      c[i] = normal(random) * (i % 2 ? 1.0f : 1e-4f);
    }
    expect_fused(a, b, c);
  }
}

TEST(VecTest, MultiplyAddHalfWayBetweenTwoFloats) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int> mantissa(0, (1 << 23) - 1), small(-8, 8), sign(0, 1);
  int twice_rounded_differs = 0;
  for (int round = 0; round < 20000; round++) {
    float a[16], b[16], c[16];
    for (int i = 0; i < 16; i++) {
      // c has the unit 2^-15, and the product is half of it but for a few 2^-62.
      c[i] = (sign(random) ? 1.0f : -1.0f) * ldexpf(float((1 << 23) + mantissa(random)), -15);
      const int steps = small(random);
      a[i] = (sign(random) ? 1.0f : -1.0f) * ldexpf(1.0f + ldexpf(float(steps), -23), -8);
      b[i] = ldexpf(1.0f - ldexpf(float(steps), -23), -8);
      twice_rounded_differs += float(double(a[i]) * double(b[i]) + double(c[i])) != fmaf(a[i], b[i], c[i]);
    }
    expect_fused(a, b, c);
  }
  EXPECT_GT(twice_rounded_differs, 1000) << "these numbers do not test what they are for";
}

}  // namespace
}  // namespace portable_under_test
}  // namespace acdbit
