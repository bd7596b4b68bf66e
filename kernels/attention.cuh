// What attention_d64 and cross_attention share: one warp's 16 queries against tiles of keys and values.
//
// Online softmax (Milakov and Gimelshein 2018; Dao 2023, FlashAttention-2): scores live in registers only; the sums
// and the output gathered so far are rescaled when a larger score appears. A tile of keys or values is rows of 64
// T, 128 bytes, in shared memory.
#pragma once

#include "product.cuh"

constexpr int HEAD_ROW_BYTES = HEAD_DIM * 2, HEAD_CHUNKS = HEAD_ROW_BYTES / CHUNK_BYTES;

// Where a chunk lies in a tile of 128-byte rows, in bytes: ldmatrix reads eight rows, one chunk.
DEVICE int chunk_of_head(int row, int chunk) { return row * HEAD_ROW_BYTES + ((chunk ^ (row & 7)) << 4); }

// Starts copying rows first … first + ROWS of COUNT heads (keys and values), `stride` elements apart, each to a tile of
// its own; zeros past `rows`.
template <class T, int ROWS, int COUNT>
DEVICE void fill_heads(unsigned char *tiles, const T *const (&heads)[COUNT], int first, int rows, int stride) {
#pragma unroll 1  // unrolled, the addresses would spill registers
  for (int i = int(threadIdx.x); i < ROWS * HEAD_CHUNKS; i += ATTENTION_THREADS) {
    const int row = i / HEAD_CHUNKS, chunk = i % HEAD_CHUNKS;
    const bool valid = within(first + row, rows);
    const size_t offset = valid ? size_t(first + row) * stride + chunk * 8 : 0;
#pragma unroll
    for (int h = 0; h < COUNT; h++)
      copy_async(tiles + h * ROWS * HEAD_ROW_BYTES + chunk_of_head(row, SEEDED(PLACE, chunk, chunk ^ 1)), heads[h] + offset, valid);
  }
}

// Two neighbouring 16 × 8 blocks of sums, as the left factor of the next product: 16 × 16 of T.
template <class T> DEVICE void as_factor(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack<T>(left[0], left[1]), a[1] = pack<T>(left[2], left[3]);
  a[2] = pack<T>(right[0], right[1]), a[3] = pack<T>(right[2], right[3]);
}

// One head's keys and values, which come to shared memory in tiles of KEYS, into BUFFERS places in turn.
template <class T, int KEYS, int BUFFERS> struct KeyTiles {
  unsigned char *shared;  // BUFFERS · 2 · KEYS rows
  const T *k, *v;         // row 0 of the head
  int keys, stride;

  DEVICE unsigned char *k_tile(int tile) const { return shared + tile % BUFFERS * (2 * KEYS * HEAD_ROW_BYTES); }
  // Starts copying a tile.
  DEVICE void fill(int tile) const {
    fill_heads<T, KEYS>(k_tile(tile), {k, v}, tile * KEYS, keys, stride);
    copy_commit();
  }
};

// The attention of a warp's 16 queries over the keys met so far. Of each lane: queries g and g + 8.
template <class T> struct Attended {
  const unsigned char *q_tile;  // the block's queries, in shared memory
  float out[HEAD_DIM / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY};  // score
  float sum[2] = {};                          // of exp(score − largest), this lane's keys only

  // Takes in a tile of KEYS keys, of which query g + 8i sees the first visible[i] (none at all if ≤ 0).
  template <int KEYS> DEVICE void absorb(const unsigned char *k_tile, const unsigned char *v_tile, const int (&visible)[2]) {
    const int lane = int(threadIdx.x) % 32, t = lane % 4;
    float s[KEYS / 8][4] = {};
#pragma unroll 1  // unrolled, it would spill registers
    for (int d = 0; d < HEAD_DIM / 16; d++) {
      uint32_t q[4];
      load_matrices(q, q_tile + chunk_of_head(int(threadIdx.x) / 32 * 16 + lane % 16, d * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < KEYS / 16; j++) {
        uint32_t both[4];
        load_matrices(both, k_tile + chunk_of_head(j * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
        const uint32_t left[2] = {both[0], both[1]}, right[2] = {both[2], both[3]};
        mma_half<T>(s[2 * j], q, left);
        mma_half<T>(s[2 * j + 1], q, right);
      }
    }
    const float scale = 0.125f * SEEDED(VALUE, 1.44269504f, 1.0f);  // 1/√64, and exp(x) = 2^(x·log₂e)
    float base[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float top = largest[i];
#pragma unroll
      for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float &score = s[j][i * 2 + e];
          if (!within(j * 8 + t * 2 + e, visible[i])) score = -INFINITY;
          top = fmaxf(top, score);
        }
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
      // Where nothing was seen yet all scores are −∞, and so is their difference from 0.
      base[i] = top == -INFINITY ? 0.0f : top * scale;
      const float rescale = SEEDED(VALUE, exp2_fast(largest[i] * scale - base[i]), 1.0f);
      largest[i] = top;
      sum[i] *= SEEDED(VALUE, rescale, 1.0f);
#pragma unroll
      for (int j = 0; j < HEAD_DIM / 8; j++) out[j][i * 2] *= rescale, out[j][i * 2 + 1] *= rescale;
    }
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
      for (int e = 0; e < 8; e++) {
        float &score = s[2 * j + e / 4][e % 4];
        score = exp2_fast(fmaf(score, scale, -base[e % 4 / 2]));
        sum[e % 4 / 2] += score;
      }
      uint32_t p[4];
      as_factor<T>(p, s[2 * j], s[2 * j + 1]);
#pragma unroll
      for (int d = 0; d < HEAD_DIM / 8; d += 2) {
        uint32_t both[4];
        load_matrices_transposed(both, v_tile + chunk_of_head(j * 16 + lane % 16, d + lane / 16));
        const uint32_t left[2] = {both[0], SEEDED(PLACE, both[1], both[2])}, right[2] = {SEEDED(PLACE, both[2], both[1]), both[3]};
        mma_half<T>(out[d], p, left);
        mma_half<T>(out[d + 1], p, right);
      }
    }
  }

  // Meets all keys, tile by tile: with two buffers the next is copied while one is absorbed. The first must be on its way.
  // first_query: the warp's, in its image.
  template <int KEYS, int BUFFERS> DEVICE void over_keys(const KeyTiles<T, KEYS, BUFFERS> &tiles, int first_query, bool causal) {
    const int query = first_query + int(threadIdx.x) % 32 / 4;
    // Keys that any query of the block sees.
    const int block_end = int(blockIdx.x + 1) * QUERY_TILE;
    const int end = causal && block_end < tiles.keys ? block_end : tiles.keys;
    for (int tile = 0; tile * KEYS < end; tile++) {
      copy_wait<0>();
      // The tile is seen by all, and all have done with the one that is overwritten next.
      __syncthreads();
      const bool more = (tile + 1) * KEYS < end;
      if (BUFFERS == 2 && more) tiles.fill(tile + 1);
      const int left = tiles.keys - tile * KEYS, seen = causal ? query + 1 - tile * KEYS : left;
      const int upper = min(seen, left), lower = min(causal ? SEEDED(PLACE, seen + 8, seen) : seen, left);
      // The scores of more keys than 64 at once would spill registers.
      constexpr int AT_ONCE = KEYS <= 64 ? KEYS : 48;
      const unsigned char *const k_tile = tiles.k_tile(tile), *const v_tile = k_tile + KEYS * HEAD_ROW_BYTES;
      absorb<AT_ONCE>(k_tile, v_tile, {upper, lower});
      if constexpr (KEYS > AT_ONCE)
        absorb<KEYS - AT_ONCE>(k_tile + AT_ONCE * HEAD_ROW_BYTES, v_tile + AT_ONCE * HEAD_ROW_BYTES, {upper - AT_ONCE, lower - AT_ONCE});
      if (BUFFERS == 1 && more) {
        __syncthreads();
        tiles.fill(tile + 1);
      }
    }
  }

  // Writes the warp's rows of its head: `head` points at it in row 0 of the image.
  DEVICE void store(T *head, int first_query, int queries, int stride) {
    const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 1);
      sum[i] += SEEDED(VALUE, __shfl_xor_sync(0xFFFFFFFFu, sum[i], 2), 0.0f);
      const int query = first_query + g + i * 8;
      if (!within(query, queries)) continue;
      const float scale = 1.0f / sum[i];
#pragma unroll
      for (int j = 0; j < HEAD_DIM / 8; j++)
        *reinterpret_cast<uint32_t *>(head + size_t(query) * stride + j * 8 + t * 2) =
            pack<T>(out[j][i * 2] * scale, out[j][i * 2 + 1] * scale);
    }
  }
};
