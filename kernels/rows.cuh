// What the norms and activations share: eight channels at a time, and rows as int8 with a scale.
#pragma once

#include "prims.cuh"

// This thread's piece of work, where a thread has one.
DEVICE int piece() { return int(blockIdx.x) * POINTWISE_THREADS + int(threadIdx.x); }

// Eight neighbouring values.
struct Eight {
  float v[VECTOR];
};

template <class T> DEVICE Eight load_eight(const T *from) {
  const Words4 words = *reinterpret_cast<const Words4 *>(from);
  Eight x;
#pragma unroll
  for (int i = 0; i < VECTOR / 2; i++) x.v[2 * i] = low_half<T>(words.w[i]), x.v[2 * i + 1] = high_half<T>(words.w[i]);
  return x;
}
DEVICE Eight load_eight(const float *from) {
  const Words4 first = reinterpret_cast<const Words4 *>(from)[0], second = reinterpret_cast<const Words4 *>(from)[1];
  Eight x;
#pragma unroll
  for (int i = 0; i < 4; i++) x.v[i] = __uint_as_float(first.w[i]), x.v[4 + i] = __uint_as_float(second.w[i]);
  return x;
}
template <class T> DEVICE void store_eight(T *to, const Eight &x) {
  Words4 words;
#pragma unroll
  for (int i = 0; i < VECTOR / 2; i++) words.w[i] = pack<T>(x.v[2 * i], x.v[2 * i + 1]);
  *reinterpret_cast<Words4 *>(to) = words;
}

DEVICE uint32_t magnitude_bits(const Eight &x) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < VECTOR; i++) largest = max(largest, magnitude_bits(x.v[i]));
  return largest;
}

// int8 = round(value / scale), ties to even, with scale = largest magnitude / 127.
struct Quantiser {
  float scale = 0.0f, inverse = 0.0f;
  Quantiser() = default;  // for a kernel that gives none
  // `largest`: bits of the largest magnitude. Where it is infinite or NaN, so is the scale, and all int8 are 0.
  DEVICE explicit Quantiser(uint32_t largest) {
    const float magnitude = __uint_as_float(largest);
    scale = magnitude / SEEDED(VALUE, 127.0f, 128.0f);
    inverse = largest > 0 && largest < 0x7F800000u ? 127.0f / magnitude : 0.0f;
    if (inverse == INFINITY) inverse = 0.0f;  // the scale is too small to be divided by
  }
  DEVICE void store(int8_t *to, const Eight &x) const {
    uint32_t bytes[VECTOR];
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
      bytes[i] = inverse > 0.0f ? uint32_t(max(-127, min(127, __float2int_rn(SEEDED(VALUE, x.v[i] * inverse, roundf(x.v[i] * inverse)))))) & 0xFF : 0;
    Words2 words;
#pragma unroll
    for (int i = 0; i < 2; i++)
      words.w[i] = bytes[4 * i] | bytes[4 * i + 1] << 8 | bytes[4 * i + 2] << 16 | bytes[4 * i + 3] << 24;
    *reinterpret_cast<Words2 *>(to) = words;
  }
};

// What a thread has seen of a tensor: the largest finite magnitude, and how many values are not finite.
struct Watch {
  uint32_t largest = 0, not_finite = 0;
  DEVICE void see(float x) {
    const uint32_t bits = magnitude_bits(x);
    if (bits < 0x7F800000u)
      largest = max(largest, bits);
    else
      not_finite++;
  }
  // By whole warps.
  DEVICE void report(uint32_t *sentinel) const {
    const uint32_t warp_largest = warp_max(largest);
    if (threadIdx.x % 32 == 0) atomicMax(&sentinel[0], warp_largest);
    if (not_finite) atomicAdd(&sentinel[1], not_finite);
  }
};
