// layer_norm: layer normalisation of rows, to f16/bf16 or to int8 with a scale for each row.
//
// Idea: a warp for each row, eight channels a lane at a time, in two passes for exact statistics (the mean from
// differences to the row's first value, then the variance around the mean) and one to write. The row comes from
// memory once; later passes find it in the first-level cache. For int8 one more pass finds the largest magnitude.
// Shapes: x [rows, C] → [rows, C] (and [rows] scales); C % 8 = 0.
// Memory traffic: the row in, and 2 (T) or 1 (int8) bytes a value out: an int8 layer that follows reads half.
// Replaces: layer norm + quantisation over a copy in T.
// Proof: emulation/norms_test.cpp.
#include "rows.cuh"

template <class T> struct NormedRow {
  const T *x;
  const float *weight, *bias;
  float mean, scale;

  DEVICE NormedRow(const LayerNorm &p, int row)
      : x(static_cast<const T *>(p.x) + size_t(row) * p.channels), weight(p.weight), bias(p.bias) {
    const int lane = int(threadIdx.x) % 32;
    const float start = to_float(x[0]), count = float(p.channels);
    float sum = 0.0f;
    for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR) {
      const Eight v = load_eight(x + c);
#pragma unroll
      for (int i = 0; i < VECTOR; i++) sum += v.v[i] - start;
    }
    mean = start + warp_sum(sum) / count;
    float squares = 0.0f;
    for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR) {
      const Eight v = load_eight(x + c);
#pragma unroll
      for (int i = 0; i < VECTOR; i++) squares += (v.v[i] - SEEDED(VALUE, mean, 0.0f)) * (v.v[i] - SEEDED(VALUE, mean, 0.0f));
    }
    scale = 1.0f / sqrtf(warp_sum(squares) / count + SEEDED(VALUE, p.eps, 0.0f));
  }

  DEVICE Eight at(int c) const {
    Eight v = load_eight(x + c);
    const Eight w = load_eight(weight + c), b = load_eight(bias + c);
#pragma unroll
    for (int i = 0; i < VECTOR; i++) v.v[i] = fmaf((v.v[i] - mean) * scale, w.v[i], b.v[i]);
    return v;
  }
};

template <class T, bool QUANTISED> DEVICE void layer_norm(const LayerNorm &p) {
  const int row = int(blockIdx.x) * (ROW_THREADS / 32) + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (!within(row, p.rows)) return;
  const NormedRow<T> normed(p, row);
  const size_t at = size_t(row) * p.channels;
  if constexpr (QUANTISED) {
    uint32_t largest = 0;
    for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR) largest = max(largest, magnitude_bits(normed.at(c)));
    const Quantiser quantiser(warp_max(largest));
    for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR)
      quantiser.store(static_cast<int8_t *>(p.out) + at + c, normed.at(c));
    if (lane == 0) p.out_scales[row] = quantiser.scale;
  } else {
    for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR)
      store_eight(static_cast<T *>(p.out) + at + c, normed.at(c));
  }
}

KERNEL(ROW_THREADS, 8) layer_norm_f16(const LayerNorm p) { layer_norm<F16, false>(p); }
KERNEL(ROW_THREADS, 8) layer_norm_bf16(const LayerNorm p) { layer_norm<BF16, false>(p); }
KERNEL(ROW_THREADS, 8) layer_norm_int8_f16(const LayerNorm p) { layer_norm<F16, true>(p); }
KERNEL(ROW_THREADS, 8) layer_norm_int8_bf16(const LayerNorm p) { layer_norm<BF16, true>(p); }
