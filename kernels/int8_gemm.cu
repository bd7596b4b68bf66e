// int8_gemm: a linear layer, int8 × int8 → int32 on tensor cores, with its epilogue.
//
// Idea: mma.sync m16n8k32 over tiles of 128 × 128 (64 × 64 where those would leave multiprocessors idle), three
// stages of cp.async in swizzled shared memory (product.cuh). Scales, bias, residual and GEGLU are applied to the
// sums in registers: no int32 and no unrounded value reaches memory.
// Shapes: a [m, k] int8 with a scale for each row (or each image), w [n, k] int8 with a scale for each row → [m, n]
//   f16 or bf16. GEGLU: w [2n, k], values then gates as a checkpoint has them (a tile takes eight rows of each in turn)
//   → [m, n]. k % 16 = 0; m and n are free.
// Memory traffic: a is read ⌈n / tile⌉ times, w ⌈m / tile⌉ times (mostly from the second-level cache), the output
//   written once, the residual read once. Per 128 × 128 tile and 64 of k: 16 KiB in, 1 M multiply-adds. GEGLU
//   moves 5mn bytes behind the sums (written, read and made int8 by quantise_rows); outside (geglu to int8) it is 9mn.
// Replaces: matmul in half precision + bias + residual (+ GEGLU over an intermediate of [m, 2n]).
// Proof: emulation/int8_gemm_test.cpp; the output is equal bit for bit to the same formula on exact integer sums.
#include "product.cuh"

template <class T, bool GEGLU, int TILE> DEVICE void int8_gemm(const Gemm &p) {
  const int m0 = int(blockIdx.x) * TILE, n0 = int(blockIdx.y) * TILE;
  constexpr int THREADS = Warps<TILE>::THREADS;
  constexpr int EACH = CHUNKS_EACH<TILE, THREADS, TILE_K_BYTES>, STEP = SOURCE_STEP<THREADS, TILE_K_BYTES>;
  const MatrixRows<int8_t, EACH> a(p.a, p.out.m, p.k, m0, source_row<TILE_K_BYTES>(), STEP);
  const MatrixRows<int8_t, EACH, GEGLU> w(p.w, p.out.n, p.k, n0, source_row<TILE_K_BYTES>(), STEP);
  Sums<int, TILE> sums = {};
  int8_sums<TILE>(sums, a, w, p.k);
  store_tile<T, GEGLU, TILE>(p.out, sums, m0, n0);
}

KERNEL(TILE_LARGE_THREADS, 2) int8_gemm_f16_128(const Gemm p) { int8_gemm<F16, false, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) int8_gemm_f16_64(const Gemm p) { int8_gemm<F16, false, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) int8_gemm_bf16_128(const Gemm p) { int8_gemm<BF16, false, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) int8_gemm_bf16_64(const Gemm p) { int8_gemm<BF16, false, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) int8_gemm_geglu_f16_128(const Gemm p) { int8_gemm<F16, true, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) int8_gemm_geglu_f16_64(const Gemm p) { int8_gemm<F16, true, 64>(p); }
KERNEL(TILE_LARGE_THREADS, 2) int8_gemm_geglu_bf16_128(const Gemm p) { int8_gemm<BF16, true, 128>(p); }
KERNEL(TILE_SMALL_THREADS, 4) int8_gemm_geglu_bf16_64(const Gemm p) { int8_gemm<BF16, true, 64>(p); }
