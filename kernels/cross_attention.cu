// cross_attention: softmax((x·wqᵀ)·kᵀ/8)·v over the text, with the query projection in the same kernel.
//
// Idea: text keys and values do not change over the steps: they are projected once for each image and kept. A block
// takes 128 pixels and one head. It projects their queries (int8 × int8 → int32 on tensor cores, three cp.async
// stages), keeps them, scaled, in shared memory, and meets the text there, 80 positions at a time: a prompt's 77 in
// one step, n × 77 in n, with softmax online.
// Shapes: x [B, N, C] int8 with row scales, wq [heads·64, C] int8 with row scales, k and v [K, M, heads·64] with
//   K | B → [B, N, heads·64], f16 or bf16.
// Memory traffic: x once for each head (from the second-level cache), wq once for each 128 pixels, the output once.
//   Neither queries nor scores reach memory: 2·B·N·heads·64 values of T less than with a projection apart, and
//   2·B·heads·N·M less than without fusion of the attention.
// Replaces: linear (query) + matmul + softmax + matmul.
// Proof: emulation/cross_attention_test.cpp, against f64 and against the plain half-precision path.
#include "attention.cuh"

template <class T> DEVICE void cross_attention(const CrossAttention &p) {
  const int head = int(blockIdx.y), b = int(blockIdx.z), kv_b = b / (p.batch / p.kv_batch);
  const int block_query = int(blockIdx.x) * QUERY_TILE, warp_query = int(threadIdx.x) / 32 * 16;
  const int lane = int(threadIdx.x) % 32;

  // The warp's 16 queries: sums over the channels.
  constexpr int ROW = TILE_K_BYTES, STAGE = (QUERY_TILE + HEAD_DIM) * ROW, THREADS = ATTENTION_THREADS;
  const MatrixRows<int8_t, CHUNKS_EACH<QUERY_TILE, THREADS, ROW>> x(
      p.x + size_t(b) * p.queries * p.channels, p.queries, p.channels, block_query, source_row<ROW>(), SOURCE_STEP<THREADS, ROW>);
  const MatrixRows<int8_t, CHUNKS_EACH<HEAD_DIM, THREADS, ROW>> wq(p.wq, p.heads * HEAD_DIM, p.channels, head * HEAD_DIM,
                                                                 source_row<ROW>(), SOURCE_STEP<THREADS, ROW>);
  unsigned char *const shared = shared_memory();
  int sums[HEAD_DIM / 8][4] = {};
  pipeline(
      (p.channels + ROW - 1) / ROW,
      [&](int step, int stage) {
        fill<QUERY_TILE, THREADS, ROW, int8_t>(shared + stage * STAGE, x, step * ROW, chunk_for_matrices);
        fill<HEAD_DIM, THREADS, ROW, int8_t>(shared + stage * STAGE + QUERY_TILE * ROW, wq, step * ROW, chunk_for_matrices);
      },
      [&](int stage) {
        const unsigned char *x_tile = shared + stage * STAGE, *w_tile = x_tile + QUERY_TILE * ROW;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          uint32_t xf[4];
          load_matrices(xf, x_tile + chunk_for_matrices(warp_query + lane % 16, half * 2 + lane / 16));
#pragma unroll
          for (int j = 0; j < HEAD_DIM / 8; j += 2) {
            uint32_t both[4];
            load_matrices(both, w_tile + chunk_for_matrices(j * 8 + lane / 16 * 8 + lane % 8, half * 2 + lane / 8 % 2));
            const uint32_t left[2] = {both[0], both[1]}, right[2] = {both[2], both[3]};
            mma_s8(sums[j], xf, left);
            mma_s8(sums[j + 1], xf, right);
          }
        }
      });
  __syncthreads();  // the stages make room for the queries and the text

  const size_t kv = size_t(kv_b) * p.keys * p.kv_stride + head * HEAD_DIM;
  unsigned char *const q_tile = shared;
  const KeyTiles<T, TEXT_TILE, 1> text = {shared + QUERY_TILE * HEAD_ROW_BYTES, static_cast<const T *>(p.k) + kv,
                                          static_cast<const T *>(p.v) + kv, p.keys, p.kv_stride};
  text.fill(0);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = warp_query + lane / 4 + i * 8, query = block_query + row;
    const float row_scale = within(query, p.queries) ? p.x_scales[(b * p.queries + query) / p.rows_per_scale] : 0.0f;
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++) {
      const float *const scales = p.wq_scales + head * HEAD_DIM + j * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t *>(q_tile + chunk_of_head(row, j) + lane % 4 * 4) =
          pack<T>(float(sums[j][i * 2]) * (row_scale * scales[0]), float(sums[j][i * 2 + 1]) * (row_scale * scales[1]));
    }
  }
  Attended<T> a = {q_tile};
  a.over_keys(text, block_query + warp_query, false);
  const int width = p.heads * HEAD_DIM;
  a.store(static_cast<T *>(p.out) + size_t(b) * p.queries * width + head * HEAD_DIM, block_query + warp_query, p.queries, width);
}

KERNEL(ATTENTION_THREADS, 2) cross_attention_f16(const CrossAttention p) { cross_attention<F16>(p); }
KERNEL(ATTENTION_THREADS, 2) cross_attention_bf16(const CrossAttention p) { cross_attention<BF16>(p); }
