// cross_attention: softmax((x·wqᵀ)·kᵀ/8)·v over the text, with the query projection in the same kernel.
//
// Idea: text keys and values do not change over the steps: they are projected once for each image and kept. A block
// takes 128 pixels and one head. It projects their queries (the sums of int8_gemm or of w8a16_gemm, product.cuh), keeps
// them, scaled, in shared memory, and meets the text there, 80 positions at a time: a prompt's 77 in one step, n × 77 in
// n, with softmax online.
// Shapes: x [B, N, C] int8 with row scales, or of w8a16_cross_attention f16 or bf16, wq [heads·64, C] int8 with row
//   scales, k and v [K, M, heads·64] with K | B → [B, N, heads·64], f16 or bf16.
// Memory traffic: x once for each head (from the second-level cache), wq once for each 128 pixels, the output once.
//   Neither queries nor scores reach memory: 2·B·N·heads·64 values of T less than with a projection apart, and
//   2·B·heads·N·M less than without fusion of the attention.
// Replaces: linear (query) + matmul + softmax + matmul.
// Proof: emulation/cross_attention_test.cpp, against f64 and against the plain half-precision path.
#include "attention.cuh"

// A block's queries as a product's tile, 16 rows a warp; it is not square, so that no edge names it.
constexpr int TILE_QUERIES = 0;
template <> struct Warps<TILE_QUERIES> {
  static constexpr int ROWS = QUERY_TILE, COLUMNS = HEAD_DIM, THREADS = ATTENTION_THREADS, ACROSS = 1, MI = 1, NI = HEAD_DIM / 8;
};

// X: the activations' type, int8 or T; Sum: of their products with the weight.
template <class T, class X, class Sum> DEVICE void cross_attention(const CrossAttention &p) {
  const int head = int(blockIdx.y), b = int(blockIdx.z), kv_b = SEEDED(PLACE, b / (p.batch / p.kv_batch), b % p.kv_batch);
  const int block_query = int(blockIdx.x) * QUERY_TILE, warp_query = warp_row<TILE_QUERIES>();
  const int lane = int(threadIdx.x) % 32;

  constexpr int X_ROW = TILE_K_BYTES, W_ROW = TILE_K_BYTES / sizeof(X), THREADS = ATTENTION_THREADS;
  const MatrixRows<X, CHUNKS_EACH<QUERY_TILE, THREADS, X_ROW>> x(static_cast<const X *>(p.x) + size_t(b) * p.queries * p.channels,
                                                                p.queries, p.channels, block_query, source_row<X_ROW>(),
                                                                SOURCE_STEP<THREADS, X_ROW>);
  const MatrixRows<int8_t, CHUNKS_EACH<HEAD_DIM, THREADS, W_ROW>> wq(p.wq, p.heads * HEAD_DIM, p.channels, head * HEAD_DIM,
                                                                   source_row<W_ROW>(), SOURCE_STEP<THREADS, W_ROW>);
  Sums<Sum, TILE_QUERIES> sums = {};
  if constexpr (sizeof(X) == 1)
    int8_sums<TILE_QUERIES>(sums, x, wq, p.channels);
  else
    half_sums<T, int8_t, TILE_QUERIES>(sums, x, wq, p.channels);
  __syncthreads();  // the stages make room for the queries and the text

  const size_t kv = size_t(kv_b) * p.keys * p.kv_stride + head * HEAD_DIM;
  unsigned char *const shared = shared_memory(), *const q_tile = shared;
  const KeyTiles<T, TEXT_TILE, 1> text = {shared + QUERY_TILE * HEAD_ROW_BYTES, static_cast<const T *>(p.k) + kv,
                                          static_cast<const T *>(p.v) + kv, p.keys, p.kv_stride};
  text.fill(0);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = warp_query + lane / 4 + i * 8, query = block_query + row;
    float row_scale = 1.0f;
    if (p.x_scales && within(query, p.queries)) row_scale = p.x_scales[(SEEDED(PLACE, b, 0) * p.queries + query) / p.rows_per_scale];
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++) {
      const float *const scales = p.wq_scales + SEEDED(PLACE, head, 0) * HEAD_DIM + j * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t *>(q_tile + SEEDED(PLACE, chunk_of_head(row, j), row * HEAD_ROW_BYTES + j * CHUNK_BYTES) + lane % 4 * 4) =
          pack<T>(float(sums[0][j][i * 2]) * (row_scale * scales[0]), float(sums[0][j][i * 2 + 1]) * (row_scale * scales[1]));
    }
  }
  Attended<T> a = {q_tile};
  a.over_keys(text, block_query + warp_query, false);
  const int width = p.heads * HEAD_DIM;
  a.store(static_cast<T *>(p.out) + size_t(b) * p.queries * width + head * HEAD_DIM, block_query + warp_query, p.queries, width);
}

KERNEL(ATTENTION_THREADS, 2) cross_attention_f16(const CrossAttention p) { cross_attention<F16, int8_t, int>(p); }
KERNEL(ATTENTION_THREADS, 2) cross_attention_bf16(const CrossAttention p) { cross_attention<BF16, int8_t, int>(p); }
KERNEL(ATTENTION_THREADS, 2) w8a16_cross_attention_f16(const CrossAttention p) { cross_attention<F16, F16, float>(p); }
KERNEL(ATTENTION_THREADS, 2) w8a16_cross_attention_bf16(const CrossAttention p) { cross_attention<BF16, BF16, float>(p); }
