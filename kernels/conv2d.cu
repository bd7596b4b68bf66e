// conv2d: a convolution of a channels-last image in f16 or bf16 with float32 sums, for the VAE and the UNet's ends.
//
// Idea: int8_conv2d's implicit GEMM with mma.sync m16n8k16. Sums are float32 to the end, rounded once.
// Shapes: x [B, H, W, C], w [N, kernel, kernel, C] → [B, H', W', N]. Any C and N: where a pixel's channels are not
//   whole chunks of 8 (4 latents, 3 colours), conv2d_gather brings its elements one by one.
// Memory traffic: as int8_conv2d with two bytes an element.
// Replaces: patch matrix + matmul + bias + residual (+ nearest upsampling).
// Proof: emulation/conv2d_test.cpp, against f64 and against the plain half-precision path.
#include "product.cuh"

template <class T, int TILE, bool WHOLE_CHUNKS> DEVICE void conv2d(const Conv2d &p) {
  const int m0 = int(blockIdx.x) * TILE, n0 = int(blockIdx.y) * TILE, k = p.kernel * p.kernel * p.channels;
  constexpr int THREADS = Warps<TILE>::THREADS;
  constexpr int EACH = CHUNKS_EACH<TILE, THREADS, TILE_K_BYTES>, STEP = SOURCE_STEP<THREADS, TILE_K_BYTES>;
  const PatchRows<T, EACH, WHOLE_CHUNKS> x(p, m0, source_row<TILE_K_BYTES>(), STEP);
  const MatrixRows<T, EACH, false, WHOLE_CHUNKS> w(p.w, p.out.n, k, n0, source_row<TILE_K_BYTES>(), STEP);
  Sums<float, TILE> sums = {};
  half_sums<T, T, TILE>(sums, x, w, k);
  store_tile<T, false, TILE>(p.out, sums, m0, n0);
}

KERNEL(TILE_LARGE_THREADS, 2) conv2d_f16_128(const Conv2d p) { conv2d<F16, 128, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) conv2d_f16_64(const Conv2d p) { conv2d<F16, 64, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) conv2d_gather_f16_64(const Conv2d p) { conv2d<F16, 64, false>(p); }
KERNEL(TILE_LARGE_THREADS, 2) conv2d_bf16_128(const Conv2d p) { conv2d<BF16, 128, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) conv2d_bf16_64(const Conv2d p) { conv2d<BF16, 64, true>(p); }
KERNEL(TILE_SMALL_THREADS, 4) conv2d_gather_bf16_64(const Conv2d p) { conv2d<BF16, 64, false>(p); }
