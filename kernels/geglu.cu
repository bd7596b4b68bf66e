// geglu: value · gelu(gate), to f16/bf16 or to int8 with a scale for each row (which needs the whole row, which no tile of
// a product has). For products without GEGLU in their epilogue: cuBLAS'.
//
// Idea: a block for each row, eight channels a thread at a time; for int8 the row stays in shared memory in float32
// until its largest magnitude is known, so that the error function is computed once.
// Shapes: x [rows, 2C] → [rows, C] (and [rows] scales); C % 8 = 0; as int8 C ≤ 12,280.
// Memory traffic: 2C values in, C out, once.
// Replaces: two slices + gelu + product + quantisation.
// Proof: emulation/norms_test.cpp.
#include "rows.cuh"

template <class T> DEVICE Eight geglu_at(const T *values, const T *gates, int c) {
  Eight v = load_eight(values + c);
  const Eight g = load_eight(gates + c);
#pragma unroll
  for (int i = 0; i < VECTOR; i++) v.v[i] = SEEDED(VALUE, v.v[i] * gelu(g.v[i]), g.v[i] * gelu(v.v[i]));
  return v;
}

template <class T, bool QUANTISED> DEVICE void geglu(const Rows &p) {
  const size_t row = blockIdx.x;
  const T *const values = static_cast<const T *>(p.x) + row * 2 * p.channels, *const gates = values + p.channels;
  const int first = int(threadIdx.x) * VECTOR, step = GEGLU_THREADS * VECTOR;
  if constexpr (QUANTISED) {
    float *const kept = reinterpret_cast<float *>(shared_memory());
    uint32_t *const warps = reinterpret_cast<uint32_t *>(kept + p.channels);
    uint32_t largest = 0;
    for (int c = first; within(c, p.channels); c += step) {
      const Eight v = geglu_at(values, gates, c);
      largest = max(largest, magnitude_bits(v));
#pragma unroll
      for (int i = 0; i < VECTOR; i++) kept[c + i] = v.v[i];
    }
    largest = warp_max(largest);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int w = 0; w < GEGLU_THREADS / 32; w++) largest = max(largest, warps[w]);
    const Quantiser quantiser(largest);
    for (int c = first; within(c, p.channels); c += step)
      quantiser.store(static_cast<int8_t *>(p.out) + row * p.channels + c, load_eight(kept + c));
    if (threadIdx.x == 0) p.out_scales[row] = quantiser.scale;
  } else {
    for (int c = first; within(c, p.channels); c += step)
      store_eight(static_cast<T *>(p.out) + row * p.channels + c, geglu_at(values, gates, c));
  }
}

KERNEL(GEGLU_THREADS, 4) geglu_f16(const Rows p) { geglu<F16, false>(p); }
KERNEL(GEGLU_THREADS, 4) geglu_bf16(const Rows p) { geglu<BF16, false>(p); }
KERNEL(GEGLU_THREADS, 4) geglu_int8_f16(const Rows p) { geglu<F16, true>(p); }
KERNEL(GEGLU_THREADS, 4) geglu_int8_bf16(const Rows p) { geglu<BF16, true>(p); }
