// The instructions that the kernels need and C++ has no word for, each with a body for the GPU (PTX) and one for
// the emulation. No other file holds inline PTX. `g` is a lane's number / 4, `t` the number % 4.
#pragma once

#include "launch.h"

// Element types of activations. Bits only: arithmetic is float32.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

struct alignas(8) Words2 {
  uint32_t w[2];
};
struct alignas(16) Words4 {
  uint32_t w[4];
};

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks_per_sm) extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm)
// Where the emulation can put in a bug (VALUE: a wrong number; PLACE: one from, or to, a wrong place). Here: `right`.
#define SEEDED(kind, right, wrong) (right)

// A block's dynamic shared memory: `shared_bytes` of its launch.
DEVICE unsigned char *shared_memory() {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  return dynamic_shared;
}

DEVICE float to_float(F16 x) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
  return f;
}
DEVICE float to_float(float x) { return x; }
DEVICE float to_float(BF16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

// Rounds to the nearest, ties to even.
template <class T> DEVICE T from_float(float f);
template <> DEVICE F16 from_float<F16>(float f) {
  F16 x;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(x.bits) : "f"(f));
  return x;
}
template <> DEVICE BF16 from_float<BF16>(float f) {
  BF16 x;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(x.bits) : "f"(f));
  return x;
}

// Two values in a word, the first in its low half.
template <class T> DEVICE uint32_t pack(float low, float high);
template <> DEVICE uint32_t pack<F16>(float low, float high) {
  uint32_t w;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
  return w;
}
template <> DEVICE uint32_t pack<BF16>(float low, float high) {
  uint32_t w;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
  return w;
}

DEVICE uint32_t sub_f16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// d += a·b over a warp: a 16×32 int8, b 32×8 int8, d 16×8 int32.
DEVICE void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a·b over a warp: a 16×16, b 16×8 of T, d 16×8 float32.
template <class T> DEVICE void mma_half(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <> DEVICE void mma_half<F16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DEVICE void mma_half<BF16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Four 8×8 matrices of 16-bit values: lane l names row l % 8 of matrix l / 8 (16 bytes of shared memory) and gets
// of each matrix row g, columns 2t and 2t + 1.
DEVICE void load_matrices(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same of the transposed matrices: rows 2t and 2t + 1, column g.
DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Starts a copy of 16 bytes to shared memory, past the first-level cache; of zeros if not `valid`.
DEVICE void copy_async(void *to, const void *from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most IN_FLIGHT of this thread's groups are.
template <int IN_FLIGHT> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(IN_FLIGHT) : "memory"); }

// Is index i one of n? Every check of a bound goes through here, so that the emulation can break each.
DEVICE bool within(int i, int n) { return i < n; }

#else
#include "emulation/prims.h"
#endif

// Four int8 values of a word as two words of two T each, in order. No conversion instruction: those are slow.
template <class T> DEVICE void widen(uint32_t (&out)[2], uint32_t bytes);
template <> DEVICE void widen<F16>(uint32_t (&out)[2], uint32_t bytes) {
  // 0x6400 | u is 1024 + u in float16 for u < 1024; with u = value + 128, 1152 is too much.
  const uint32_t biased = bytes ^ 0x80808080u;
  out[0] = sub_f16x2(__byte_perm(biased, 0x64646464u, 0x4140), 0x64806480u);
  out[1] = sub_f16x2(__byte_perm(biased, 0x64646464u, SEEDED(PLACE, 0x4342, 0x4243)), 0x64806480u);
}
template <> DEVICE void widen<BF16>(uint32_t (&out)[2], uint32_t bytes) {
  // 0x4B000000 | u is 2²³ + u in float32.
  const uint32_t biased = bytes ^ 0x80808080u;
  const float bias = 8388608.0f + SEEDED(VALUE, 128.0f, 127.0f);
  out[0] = pack<BF16>(__uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7440)) - bias,
                      __uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7441)) - bias);
  out[1] = pack<BF16>(__uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7442)) - bias,
                      __uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7443)) - bias);
}

// The two values of a word.
template <class T> DEVICE float low_half(uint32_t w) { return to_float(T{uint16_t(w)}); }
template <class T> DEVICE float high_half(uint32_t w) { return to_float(T{uint16_t(w >> 16)}); }

// x·Φ(x).
DEVICE float gelu(float x) {
  return 0.5f * x * (1.0f + SEEDED(VALUE, erff(x * 0.70710678f), tanhf(0.79788456f * (x + 0.044715f * x * x * x))));
}

DEVICE float warp_sum(float x) {
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
  return x;
}
DEVICE uint32_t warp_max(uint32_t x) {
  for (int d = 16; d > 0; d /= 2) x = max(x, __shfl_xor_sync(0xFFFFFFFFu, x, d));
  return x;
}

// |x| as bits that compare as integers: finite < infinity < NaN. A maximum over these loses no NaN.
DEVICE uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }
