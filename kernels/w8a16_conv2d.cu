// w8a16_conv2d: a convolution with int8 weights and half-precision activations.
//
// Idea: conv2d's implicit GEMM with w8a16_gemm's weights: int8 in memory and in shared memory, widened to the activations'
// type in registers, on their way to mma.sync m16n8k16, and multiplied by their scales after the sum.
// Shapes: x [B, H, W, C] f16 or bf16, w [N, kernel, kernel, C] int8 with a scale for each output → [B, H', W', N]; any
//   kernel, stride and padding. Where C % 16 ≠ 0, w8a16_conv2d_gather brings elements one by one.
// Epilogue: scales, bias, an image's own bias (the time embedding), residual.
// Memory traffic: as conv2d, with weights of one byte each.
// Replaces: dequantisation of the weights to memory + conv2d.
// Proof: emulation/w8a16_conv2d_test.cpp, against f64 and against the plain half-precision path.
#include "product.cuh"

template <class T, int TILE, bool WHOLE_CHUNKS> DEVICE void w8a16_conv2d(const Conv2d &p) {
  const int m0 = int(blockIdx.x) * TILE, n0 = int(blockIdx.y) * TILE, k = p.kernel * p.kernel * p.channels;
  constexpr int X_ROW = TILE_K_BYTES, W_ROW = TILE_K_BYTES / 2, THREADS = Warps<TILE>::THREADS;
  const PatchRows<T, CHUNKS_EACH<TILE, THREADS, X_ROW>, WHOLE_CHUNKS> x(p, m0, source_row<X_ROW>(), SOURCE_STEP<THREADS, X_ROW>);
  const MatrixRows<int8_t, CHUNKS_EACH<TILE, THREADS, W_ROW>, false, WHOLE_CHUNKS> w(p.w, p.out.n, k, n0, source_row<W_ROW>(),
                                                                                    SOURCE_STEP<THREADS, W_ROW>);
  Sums<float, TILE> sums = {};
  half_sums<T, int8_t, TILE>(sums, x, w, k);
  store_tile<T, false, TILE>(p.out, sums, m0, n0);
}

KERNEL(TILE_LARGE_THREADS, 2) w8a16_conv2d_f16_128(const Conv2d p) { w8a16_conv2d<F16, 128, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_conv2d_f16_64(const Conv2d p) { w8a16_conv2d<F16, 64, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_conv2d_gather_f16_64(const Conv2d p) { w8a16_conv2d<F16, 64, false>(p); }
KERNEL(TILE_LARGE_THREADS, 2) w8a16_conv2d_bf16_128(const Conv2d p) { w8a16_conv2d<BF16, 128, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_conv2d_bf16_64(const Conv2d p) { w8a16_conv2d<BF16, 64, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_conv2d_gather_bf16_64(const Conv2d p) { w8a16_conv2d<BF16, 64, false>(p); }
