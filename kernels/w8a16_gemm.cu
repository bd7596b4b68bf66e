// w8a16_gemm: a linear layer with int8 weights and half-precision activations.
//
// Idea: as int8_gemm, but the weights are widened to the activations' type in registers, on their way to mma.sync
// m16n8k16 (an int8 is exact in f16 and in bf16), and multiplied by their scales after the sum. For layers whose
// activations do not bear 8 bits.
// Shapes: a [m, k] f16 or bf16, w [n, k] int8 with a scale for each row → [m, n]. GEGLU: w [2n, k], as int8_gemm. k % 16 = 0.
// Memory traffic: weights are read at one byte each, half of what a half-precision product reads. GEGLU writes 2mn bytes;
//   outside, they are 4mn, read again, and 2mn.
// Replaces: dequantisation of the weights to memory + matmul + bias + residual (+ GEGLU).
// Proof: emulation/w8a16_gemm_test.cpp, against f64 and against the plain half-precision path.
#include "product.cuh"

template <class T, bool GEGLU, int TILE> DEVICE void w8a16_gemm(const Gemm &p) {
  const int m0 = int(blockIdx.x) * TILE, n0 = int(blockIdx.y) * TILE;
  constexpr int A_ROW = TILE_K_BYTES, W_ROW = TILE_K_BYTES / 2, THREADS = Warps<TILE>::THREADS;
  const MatrixRows<T, CHUNKS_EACH<TILE, THREADS, A_ROW>> a(p.a, p.out.m, p.k, m0, source_row<A_ROW>(), SOURCE_STEP<THREADS, A_ROW>);
  const MatrixRows<int8_t, CHUNKS_EACH<TILE, THREADS, W_ROW>, GEGLU> w(p.w, p.out.n, p.k, n0, source_row<W_ROW>(),
                                                                      SOURCE_STEP<THREADS, W_ROW>);
  Sums<float, TILE> sums = {};
  half_sums<T, int8_t, TILE>(sums, a, w, p.k);
  store_tile<T, GEGLU, TILE>(p.out, sums, m0, n0);
}

KERNEL(TILE_LARGE_THREADS, 2) w8a16_gemm_f16_128(const Gemm p) { w8a16_gemm<F16, false, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_gemm_f16_64(const Gemm p) { w8a16_gemm<F16, false, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) w8a16_gemm_bf16_128(const Gemm p) { w8a16_gemm<BF16, false, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_gemm_bf16_64(const Gemm p) { w8a16_gemm<BF16, false, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) w8a16_gemm_geglu_f16_128(const Gemm p) { w8a16_gemm<F16, true, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_gemm_geglu_f16_64(const Gemm p) { w8a16_gemm<F16, true, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) w8a16_gemm_geglu_bf16_128(const Gemm p) { w8a16_gemm<BF16, true, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) w8a16_gemm_geglu_bf16_64(const Gemm p) { w8a16_gemm<BF16, true, 64>(p); }
