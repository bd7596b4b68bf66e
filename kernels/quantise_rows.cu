// quantise_rows: rows of f16/bf16 → int8 with a scale for each row, before an int8 layer whose input no other kernel
// of ours has written in int8 (after attention, and after a product's GEGLU).
//
// Idea: a warp for each row; the largest magnitude as an integer maximum over bits, which loses no NaN.
// Shapes: x [rows, C] → [rows, C] int8 and [rows] scales; C % 8 = 0.
// Memory traffic: the row in once (again from the first-level cache), one byte a value out.
// Replaces: absolute maximum + division + rounding as three passes.
// Proof: emulation/norms_test.cpp, bit for bit.
#include "rows.cuh"

template <class T> DEVICE void quantise_rows(const Rows &p) {
  const int row = int(blockIdx.x) * (ROW_THREADS / 32) + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (!within(row, p.rows)) return;
  const size_t at = size_t(row) * p.channels;
  const T *const x = static_cast<const T *>(p.x) + at;
  uint32_t largest = 0;
  for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR) largest = max(largest, magnitude_bits(load_eight(x + c)));
  const Quantiser quantiser(SEEDED(VALUE, warp_max(largest), largest));
  for (int c = lane * VECTOR; within(c, p.channels); c += 32 * VECTOR)
    quantiser.store(static_cast<int8_t *>(p.out) + at + c, load_eight(x + c));
  if (lane == 0) p.out_scales[row] = quantiser.scale;
}

KERNEL(ROW_THREADS, 8) quantise_rows_f16(const Rows p) { quantise_rows<F16>(p); }
KERNEL(ROW_THREADS, 8) quantise_rows_bf16(const Rows p) { quantise_rows<BF16>(p); }
