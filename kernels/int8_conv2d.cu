// int8_conv2d: a convolution of a channels-last image, int8 × int8 → int32 on tensor cores, with its epilogue.
//
// Idea: implicit GEMM. Output pixels are the rows of a product whose k runs over (dy, dx, channel); a row's chunk of
// 16 channels lies in one tap, so cp.async brings it straight from the image, or zeros where the patch hangs over the
// edge: no patch matrix exists. The rest is int8_gemm (product.cuh). Read as doubled (`upsample`), the image of an
// upsampler's convolution never exists either.
// Shapes: x [B, H, W, C] int8 with one scale an image, w [N, kernel, kernel, C] int8 with a scale for each output →
//   [B, H', W', N] f16 or bf16; kernel 1 or 3, any stride and padding; C % 16 = 0. Sums over pixels of unlike scales
//   would not be integers: hence one scale an image (group_norm_silu makes it).
// Epilogue: scales, bias, an image's own bias (the time embedding), residual.
// Memory traffic: x about kernel² times per ⌈N / tile⌉, nearly all from the caches (neighbouring pixels share taps);
//   w once for each tile of rows; the output once.
// Replaces: convolution in half precision + bias + time embedding + residual (+ nearest upsampling).
// Proof: emulation/int8_conv2d_test.cpp; the output is equal bit for bit to the same formula on exact integer sums.
#include "product.cuh"

template <class T, int TILE> DEVICE void int8_conv2d(const Conv2d &p) {
  const int m0 = int(blockIdx.x) * TILE, n0 = int(blockIdx.y) * TILE, k = p.kernel * p.kernel * p.channels;
  constexpr int THREADS = Warps<TILE>::THREADS;
  constexpr int EACH = CHUNKS_EACH<TILE, THREADS, TILE_K_BYTES>, STEP = SOURCE_STEP<THREADS, TILE_K_BYTES>;
  const PatchRows<int8_t, EACH, true> x(p, m0, source_row<TILE_K_BYTES>(), STEP);
  const MatrixRows<int8_t, EACH> w(p.w, p.out.n, k, n0, source_row<TILE_K_BYTES>(), STEP);
  Sums<int, TILE> sums = {};
  int8_sums<TILE>(sums, x, w, k);
  store_tile<T, false, TILE>(p.out, sums, m0, n0);
}

KERNEL(TILE_LARGE_THREADS, 2) int8_conv2d_f16_128(const Conv2d p) { int8_conv2d<F16, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) int8_conv2d_f16_64(const Conv2d p) { int8_conv2d<F16, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) int8_conv2d_bf16_128(const Conv2d p) { int8_conv2d<BF16, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) int8_conv2d_bf16_64(const Conv2d p) { int8_conv2d<BF16, 64>(p); }
