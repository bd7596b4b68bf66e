// finite: the largest magnitude of a tensor and the number of its values that are not finite, in one pass, for a
// stage's last tensor.
//
// Idea: bits of |x| compare as integers; a maximum in registers, then in warps, then one atomic for each warp.
// Shapes: x [count] f16, bf16 or f32 → two words (launch.h: Finite).
// Memory traffic: the tensor once.
// Replaces: a copy to the host to look for NaN.
// Proof: emulation/norms_test.cpp, bit for bit.
#include "rows.cuh"

template <class T> DEVICE void finite(const Finite &p) {
  const T *const x = static_cast<const T *>(p.x);
  const int64_t step = int64_t(gridDim.x) * FINITE_THREADS, vectors = p.count / VECTOR;
  const int64_t first = int64_t(blockIdx.x) * FINITE_THREADS + threadIdx.x;
  Watch watch;
  for (int64_t i = first; i < vectors; i += step) {
    const Eight v = load_eight(x + i * VECTOR);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) watch.see(v.v[e]);
  }
  // The last values, fewer than eight.
  if (within(int(first), int(p.count % VECTOR))) watch.see(to_float(x[SEEDED(PLACE, vectors * VECTOR, 0) + first]));
  watch.report(p.sentinel);
}

KERNEL(FINITE_THREADS, 4) finite_f16(const Finite p) { finite<F16>(p); }
KERNEL(FINITE_THREADS, 4) finite_bf16(const Finite p) { finite<BF16>(p); }
KERNEL(FINITE_THREADS, 4) finite_f32(const Finite p) { finite<float>(p); }
