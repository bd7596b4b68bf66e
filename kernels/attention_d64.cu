// attention_d64: softmax(q·kᵀ/8)·v, heads of 64, all of SDXL's self-attention and both text encoders (causal).
//
// Idea: FlashAttention-2 (Dao 2023): a block takes 128 queries of a head, 16 a warp; keys and values come by in tiles of 64, double buffered with cp.async; both products on mma.sync
// m16n8k16, softmax online in float32 (attention.cuh).
// Shapes: q [B, N, heads·64], k and v [K, M, heads·64] with K | B, in rows of any stride → [B, N, heads·64]; f16, bf16.
// Memory traffic: q and the output once; k and v once for each 128 queries (from the second-level cache). Per tile
//   of 64 keys: 16 KiB in, 2 · 128 · 64 · 64 multiply-adds. No score reaches memory.
// Replaces: matmul + softmax + matmul over a score matrix of [B, heads, N, M].
// Proof: emulation/attention_d64_test.cpp, against f64 and against the plain half-precision path.
#include "attention.cuh"

template <class T> DEVICE void attention_d64(const Attention &p) {
  const int head = int(blockIdx.y), b = int(blockIdx.z), kv_b = SEEDED(PLACE, b / (p.batch / p.kv_batch), b % p.kv_batch);
  const int block_query = int(blockIdx.x) * QUERY_TILE, first_query = block_query + int(threadIdx.x) / 32 * 16;
  const T *q = static_cast<const T *>(p.q) + size_t(b) * p.queries * p.q_stride + head * HEAD_DIM;
  const size_t kv = size_t(kv_b) * p.keys * p.kv_stride + head * HEAD_DIM;
  unsigned char *const q_tile = shared_memory();
  const KeyTiles<T, KEY_TILE, 2> tiles = {q_tile + QUERY_TILE * HEAD_ROW_BYTES, static_cast<const T *>(p.k) + kv,
                                       static_cast<const T *>(p.v) + kv, p.keys, p.kv_stride};
  // In one group with the first keys.
  fill_heads<T, QUERY_TILE>(q_tile, {q}, block_query, p.queries, SEEDED(PLACE, p.q_stride, p.kv_stride));
  tiles.fill(0);
  Attended<T> a = {q_tile};
  a.over_keys(tiles, first_query, p.causal);
  const int width = p.heads * HEAD_DIM;
  a.store(static_cast<T *>(p.out) + size_t(b) * p.queries * width + head * HEAD_DIM, first_query, p.queries, width);
}

KERNEL(ATTENTION_THREADS, 2) attention_d64_f16(const Attention p) { attention_d64<F16>(p); }
KERNEL(ATTENTION_THREADS, 2) attention_d64_bf16(const Attention p) { attention_d64<BF16>(p); }
