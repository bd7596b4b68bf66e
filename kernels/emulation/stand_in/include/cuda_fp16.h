// What candle's kernels use of CUDA's own headers, on top of the emulation. Names are CUDA's; half precision is
// computed in float32 and rounded, which is what its intrinsics promise.
#pragma once

#include "../../cuda.h"

#include <cassert>
#include <limits>

#define __shared__ static  // blocks run one after another
#define __constant__ static
#define warpSize 32

// ---- types ------------------------------------------------------------------------------------------------------

using __half = _Float16;
using half = _Float16;

struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

template <class To, class From> To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f) {
    const uint32_t u = bits_as<uint32_t>(f);
    bits = (u & 0x7FFFFFFF) > 0x7F800000 ? 0x7FFF : uint16_t((u + 0x7FFF + (u >> 16 & 1)) >> 16);
  }
  template <class Number> requires std::is_arithmetic_v<Number> __nv_bfloat16(Number n) : __nv_bfloat16(float(n)) {}
  operator float() const { return bits_as<float>(uint32_t(bits) << 16); }
  __nv_bfloat16 &operator+=(__nv_bfloat16 o) { return *this = float(*this) + float(o); }
  __nv_bfloat16 &operator*=(__nv_bfloat16 o) { return *this = float(*this) * float(o); }
};

#define ARITHMETIC(op) \
  inline __nv_bfloat16 operator op(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) op float(b); }
ARITHMETIC(+) ARITHMETIC(-) ARITHMETIC(*) ARITHMETIC(/)
#undef ARITHMETIC
#define COMPARISON(op) \
  inline bool operator op(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) op float(b); }
COMPARISON(<) COMPARISON(>) COMPARISON(<=) COMPARISON(>=) COMPARISON(==) COMPARISON(!=)
#undef COMPARISON

struct __half2 {
  __half x, y;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }

// candle compiles kernels of eight-bit floats, which darkroom never launches.
struct __nv_fp8_e4m3 {
  uint8_t __x;
  __nv_fp8_e4m3() = default;
  explicit __nv_fp8_e4m3(float) { emu::die("eight-bit floats are not emulated"); }
  operator float() const { emu::die("eight-bit floats are not emulated"); }
};
using __nv_fp8_storage_t = uint8_t;
struct __half_raw {
  uint16_t x;
  operator __half() const { return bits_as<__half>(x); }
};
enum { __NV_E4M3 };
inline __half_raw __nv_cvt_fp8_to_halfraw(uint8_t, int) { emu::die("eight-bit floats are not emulated"); }

// ---- conversions ------------------------------------------------------------------------------------------------

inline float __half2float(__half h) { return float(h); }
inline __half __float2half(float f) { return __half(f); }
inline float __bfloat162float(__nv_bfloat16 b) { return b; }
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return f; }
inline unsigned short __half_as_ushort(__half h) { return bits_as<unsigned short>(h); }
inline __half __ushort_as_half(unsigned short u) { return bits_as<__half>(u); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return bits_as<__nv_bfloat16>(u); }
inline float __int_as_float(int i) { return bits_as<float>(i); }
inline int __float_as_int(float f) { return bits_as<int>(f); }
inline double __longlong_as_double(long long i) { return bits_as<double>(i); }
inline long long __double_as_longlong(double d) { return bits_as<long long>(d); }

// ---- arithmetic -------------------------------------------------------------------------------------------------

using std::isnan;
using std::signbit;

inline bool __hisnan(__half a) { return a != a; }
inline bool __hisnan(__nv_bfloat16 a) { return float(a) != float(a); }

#define OF_TWO(name, value) \
  inline __half name(__half a, __half b) { return value; } \
  inline __nv_bfloat16 name(__nv_bfloat16 a, __nv_bfloat16 b) { return value; }
OF_TWO(__hmax_nan, __hisnan(a) ? a : __hisnan(b) ? b : a > b ? a : b)
OF_TWO(__hmin_nan, __hisnan(a) ? a : __hisnan(b) ? b : a < b ? a : b)
OF_TWO(__hmax, __hisnan(a) ? b : a < b ? b : a)
OF_TWO(__hmin, __hisnan(a) ? b : b < a ? b : a)
#undef OF_TWO

#define OF_ONE(name, function) \
  inline __half name(__half a) { return __half(function(float(a))); } \
  inline __nv_bfloat16 name(__nv_bfloat16 a) { return function(float(a)); }
OF_ONE(hexp, expf) OF_ONE(hlog, logf) OF_ONE(hsin, sinf) OF_ONE(hcos, cosf) OF_ONE(hsqrt, sqrtf)
OF_ONE(__habs, fabsf) OF_ONE(hceil, ceilf) OF_ONE(hfloor, floorf) OF_ONE(hrint, rintf)
#undef OF_ONE

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
template <class T> T __ldg(const T *p) { return *p; }

// ---- threads ----------------------------------------------------------------------------------------------------

// One emulated thread runs at a time, so a plain read and write is atomic.
template <class T, class U> T atomicAdd(T *p, U v) {
  const T old = *p;
  *p = old + T(v);
  return old;
}
template <class T, class U> T atomicMax(T *p, U v) {
  const T old = *p;
  if (old < T(v)) *p = T(v);
  return old;
}
template <class T, class U> T atomicMin(T *p, U v) {
  const T old = *p;
  if (T(v) < old) *p = T(v);
  return old;
}
template <class T, class U, class V> T atomicCAS(T *p, U compare, V v) {
  const T old = *p;
  if (old == T(compare)) *p = T(v);
  return old;
}

// Of any width up to eight bytes, a word at a time.
template <class T> T shuffle_xor_any(unsigned mask, T value, unsigned distance, int line) {
  uint32_t words[2] = {};
  memcpy(words, &value, sizeof value);
  for (unsigned i = 0; i < (sizeof value + 3) / 4; i++) words[i] = emu::shuffle_xor(mask, words[i], distance, __FILE__, line);
  memcpy(&value, words, sizeof value);
  return value;
}
#undef __shfl_xor_sync
#define __shfl_xor_sync(mask, value, distance, ...) shuffle_xor_any(mask, value, distance, __LINE__)
