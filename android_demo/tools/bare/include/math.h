#pragma once
#ifdef __cplusplus
extern "C" {
#endif
double exp(double);
double log(double);
double pow(double, double);
double erf(double);
double tanh(double);
double nearbyint(double);
double ldexp(double, int);
float expf(float);
float exp2f(float);
float logf(float);
float powf(float, float);
float erff(float);
float tanhf(float);
float nearbyintf(float);
float ldexpf(float, int);
long lrintf(float);
#ifdef __cplusplus
}
#endif
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
/* Freestanding, the compiler would call a library for what is one instruction. */
#define fabs __builtin_fabs
#define fabsf __builtin_fabsf
#define sqrt __builtin_sqrt
#define sqrtf __builtin_sqrtf
#define floor __builtin_floor
#define floorf __builtin_floorf
#define ceilf __builtin_ceilf
#define round __builtin_round
#define roundf __builtin_roundf
#define rint __builtin_rint
#define rintf __builtin_rintf
#define fmaxf __builtin_fmaxf
#define fminf __builtin_fminf
#define fma __builtin_fma
#define fmaf __builtin_fmaf
#define copysign __builtin_copysign
#define copysignf __builtin_copysignf
