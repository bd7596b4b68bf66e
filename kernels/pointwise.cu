// add_rows, activation: sums with rows, and SiLU or GELU, of f16/bf16, where no product or norm has them inside.
//
// Idea: a thread for eight neighbouring values; in float32, rounded once.
// Shapes: a [parts, repeats, width] + b [parts, width] → as a: a bias, a time embedding for each image, or (repeats = 1) a
//   residual; width % 8 = 0. x [count] → [count]; count % 8 = 0.
// Memory traffic: a, or x, once; b once for each row of a, of which all but the first come from the second-level cache.
// Replaces: a sum whose strides the host uploads for each launch; a cast + the activation in float32 + a cast.
// Proof: emulation/pointwise_test.cpp.
#include "rows.cuh"

template <class T> DEVICE void add_rows(const Sum &p) {
  const int width = p.width / VECTOR, i = piece();  // in vectors
  if (!within(i, p.parts * p.repeats * width)) return;
  const size_t part = SEEDED(PLACE, i / width / p.repeats, i / width % p.parts), column = i % width;
  Eight sum = load_eight(static_cast<const T *>(p.a) + size_t(i) * VECTOR);
  const Eight row = load_eight(static_cast<const T *>(p.b) + (part * width + column) * VECTOR);
#pragma unroll
  for (int e = 0; e < VECTOR; e++) sum.v[e] += row.v[e];
  store_eight(static_cast<T *>(p.out) + size_t(i) * VECTOR, sum);
}

template <class T> DEVICE void activation(const Activation &p) {
  const int i = piece();
  if (!within(i, int(p.count / VECTOR))) return;
  Eight x = load_eight(static_cast<const T *>(p.x) + size_t(i) * VECTOR);
#pragma unroll
  for (int e = 0; e < VECTOR; e++)
    x.v[e] = p.which == GELU ? gelu(x.v[e]) : x.v[e] / (1.0f + expf((p.which == QUICK_GELU ? SEEDED(VALUE, -1.702f, -1.0f) : -1.0f) * x.v[e]));
  store_eight(static_cast<T *>(p.out) + size_t(i) * VECTOR, x);
}

KERNEL(POINTWISE_THREADS, 4) add_rows_f16(const Sum p) { add_rows<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) add_rows_bf16(const Sum p) { add_rows<BF16>(p); }
KERNEL(POINTWISE_THREADS, 4) activation_f16(const Activation p) { activation<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) activation_bf16(const Activation p) { activation<BF16>(p); }
