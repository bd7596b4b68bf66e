// What the products share (int8_gemm, w8a16_gemm, int8_conv2d, w8a16_conv2d, conv2d; cross_attention's queries): tiles,
// their way into shared memory, the loop over k on tensor cores, and the epilogue. Parameters: launch.h.
//
// A block computes a tile of ROWS × COLUMNS of the output, a warp MI·16 × NI·8 of it. Over k it goes in steps of 64 bytes
// of a's rows. TILE_STAGES steps lie in shared memory: while one is multiplied, the next two are on their way
// (cp.async), with one barrier a step. Rows are cut into chunks of 16 bytes, stored in an order (swizzle) in
// which no two of the lanes that load together meet in a bank.
#pragma once

#include "prims.cuh"

constexpr int CHUNK_BYTES = 16;

// A block's tile and its warps over it; TILE is its edge where it is square.
template <int TILE> struct Warps;
template <> struct Warps<TILE_LARGE> {
  static constexpr int ROWS = TILE_LARGE, COLUMNS = TILE_LARGE, THREADS = TILE_LARGE_THREADS, ACROSS = 4, MI = 4, NI = 4;
};
template <> struct Warps<TILE_SMALL> {
  static constexpr int ROWS = TILE_SMALL, COLUMNS = TILE_SMALL, THREADS = TILE_SMALL_THREADS, ACROSS = 2, MI = 2, NI = 4;
};

// First row and column of this warp in its block's tile.
template <int TILE> DEVICE int warp_row() { return int(threadIdx.x) / 32 / Warps<TILE>::ACROSS * Warps<TILE>::MI * 16; }
template <int TILE> DEVICE int warp_col() { return int(threadIdx.x) / 32 % Warps<TILE>::ACROSS * Warps<TILE>::NI * 8; }

// ---- where chunks come from --------------------------------------------------------------------------------
// A source knows its thread's rows of the tile. copy(i, k, to) brings the chunk at element k of the thread's i-th
// row to shared memory, zeros where there is nothing.

// Up to a chunk's elements, one by one, where rows are not whole chunks.
template <class E> DEVICE void gather(void *to, E (&elements)[CHUNK_BYTES / sizeof(E)]) {
  *static_cast<Words4 *>(to) = *reinterpret_cast<const Words4 *>(elements);
}

// Rows of a matrix [rows, k]. GEGLU: w's tile takes 8 value rows and 8 gate rows in turn, so that a thread gets
// both sums of an output.
template <class E, int COUNT, bool GEGLU = false, bool WHOLE_CHUNKS = true> struct MatrixRows {
  static constexpr int CHUNK = CHUNK_BYTES / sizeof(E);
  const E *matrix;
  const E *row[COUNT];  // null: no such row
  int k_count;

  // `first`: this thread's first row in the tile; `step`: to its next. `tile` starts at row tile_first (of outputs).
  DEVICE MatrixRows(const void *matrix, int rows, int k, int tile_first, int first, int step)
      : matrix(static_cast<const E *>(matrix)), k_count(k) {
    for (int i = 0; i < COUNT; i++) {
      const int in_tile = first + i * step;
      int r = tile_first + in_tile;
      if (GEGLU) r = tile_first / 2 + in_tile / 16 * 8 + in_tile % 8;
      const bool valid = within(r, rows);
      if (GEGLU && in_tile / 8 % 2) r += rows;
      row[i] = valid ? this->matrix + size_t(r) * k : nullptr;
    }
  }

  DEVICE void copy(int i, int k, void *to) const {
    if (WHOLE_CHUNKS) {
      const bool there = row[i] && within(k, k_count);
      copy_async(to, there ? row[i] + k : matrix, there);
    } else {
      alignas(16) E elements[CHUNK] = {};
      for (int e = 0; e < CHUNK; e++)
        if (row[i] && within(k + e, k_count)) elements[e] = row[i][k + e];
      gather(to, elements);
    }
  }
};

// Patches of an image: row r is output pixel r's, element k is (dy, dx, channel). Of an image that is read as doubled
// (`upsample`) a pixel is stored once for all that show it.
template <class E, int COUNT, bool WHOLE_CHUNKS> struct PatchRows {
  static constexpr int CHUNK = CHUNK_BYTES / sizeof(E);
  const Conv2d &p;
  const E *image[COUNT];  // null: no such pixel
  int top[COUNT], left[COUNT];

  DEVICE PatchRows(const Conv2d &p, int tile_first, int first, int step) : p(p) {
    const int pixels = p.out_height * p.out_width;
    for (int i = 0; i < COUNT; i++) {
      const int r = tile_first + first + i * step;
      const int b = r / pixels, y = r % pixels / SEEDED(PLACE, p.out_width, p.out_height), x = r % p.out_width;
      image[i] = within(r, p.out.m) ? static_cast<const E *>(p.x) + size_t(b) * stored(p.height) * stored(p.width) * p.channels : nullptr;
      top[i] = y * p.stride - p.pad_top;
      left[i] = x * p.stride - SEEDED(PLACE, p.pad_left, p.pad_top);
    }
  }

  // Rows or columns that are stored for so many.
  DEVICE int stored(int edge) const { return (edge + p.upsample) >> p.upsample; }

  // Element k's place in its image, or null where that is padding.
  DEVICE const E *find(int i, int k) const {
    const int tap = k / p.channels, y = top[i] + SEEDED(PLACE, tap / p.kernel, tap % p.kernel), x = left[i] + tap % p.kernel;
    const bool inside = image[i] && within(tap, p.kernel * p.kernel) && y >= 0 && within(y, p.height) && x >= 0 && within(x, p.width);
    if (!inside) return nullptr;
    return image[i] + (size_t(y >> p.upsample) * stored(p.width) + (x >> p.upsample)) * p.channels + (k - tap * p.channels);
  }

  DEVICE void copy(int i, int k, void *to) const {
    if (WHOLE_CHUNKS) {
      const E *from = find(i, k);
      copy_async(to, from ? from : p.x, from != nullptr);
    } else {
      alignas(16) E elements[CHUNK] = {};
      for (int e = 0; e < CHUNK; e++)
        if (const E *from = find(i, k + e)) elements[e] = *from;
      gather(to, elements);
    }
  }
};

// ---- shared memory -----------------------------------------------------------------------------------------

// Where a chunk lies in a tile, in bytes. Rows of 64 bytes as ldmatrix reads them: eight rows, one chunk.
DEVICE int chunk_for_matrices(int row, int chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); }
// Rows of 64 bytes read 8 bytes a lane: four rows, two neighbouring chunks.
DEVICE int chunk_for_pairs(int row, int chunk) { return row * 64 + ((chunk ^ (row & 2)) << 4); }
// Rows of 32 bytes read 4 bytes a lane: eight rows, one chunk.
DEVICE int chunk_for_words(int row, int chunk) { return row * 32 + ((chunk ^ (row >> 2 & 1)) << 4); }

// Chunks of a tile of ROWS rows that each thread brings, at most; its first row, and how far apart its rows are.
template <int ROWS, int THREADS, int ROW_BYTES>
constexpr int CHUNKS_EACH = (ROWS * (ROW_BYTES / CHUNK_BYTES) + THREADS - 1) / THREADS;
template <int ROW_BYTES> DEVICE int source_row() { return int(threadIdx.x) / (ROW_BYTES / CHUNK_BYTES); }
template <int THREADS, int ROW_BYTES> constexpr int SOURCE_STEP = THREADS / (ROW_BYTES / CHUNK_BYTES);

// Starts the copies of one step's tile; k: the step's first element.
template <int ROWS, int THREADS, int ROW_BYTES, class E, class Source, class Place>
DEVICE void fill(unsigned char *tile, const Source &source, int k, Place place) {
  constexpr int CHUNKS = ROW_BYTES / CHUNK_BYTES;
  const int chunk = int(threadIdx.x) % CHUNKS;
#pragma unroll
  for (int i = 0; i < CHUNKS_EACH<ROWS, THREADS, ROW_BYTES>; i++) {
    const int row = source_row<ROW_BYTES>() + i * SOURCE_STEP<THREADS, ROW_BYTES>;
    if constexpr (ROWS % SOURCE_STEP<THREADS, ROW_BYTES> != 0)
      if (!within(row, ROWS)) continue;
    source.copy(i, k + chunk * int(CHUNK_BYTES / sizeof(E)), tile + SEEDED(PLACE, place(row, chunk), row * ROW_BYTES + chunk * CHUNK_BYTES));
  }
}

// Goes over k: fill(step, stage) starts a step's copies into a stage, multiply(stage) uses it.
template <class Fill, class Multiply> DEVICE void pipeline(int steps, Fill fill, Multiply multiply) {
  for (int s = 0; s < TILE_STAGES - 1; s++) {
    if (s < steps) fill(s, s);
    copy_commit();
  }
  for (int step = 0; step < steps; step++) {
    copy_wait<TILE_STAGES - 2>();
    // The step's copies are seen by all, and all have done with the stage that is filled next.
    __syncthreads();
    const int next = step + TILE_STAGES - 1;
    if (next < steps) fill(next, next % TILE_STAGES);
    copy_commit();
    multiply(step % TILE_STAGES);
  }
}

// ---- sums --------------------------------------------------------------------------------------------------

template <class Sum, int TILE> using Sums = Sum[Warps<TILE>::MI][Warps<TILE>::NI][4];

// int8 × int8 → int32, exact: 127² · k < 2³¹ for k < 133,000.
template <int TILE, class A, class W> DEVICE void int8_sums(Sums<int, TILE> &sums, const A &a, const W &w, int k) {
  constexpr int ROWS = Warps<TILE>::ROWS, COLUMNS = Warps<TILE>::COLUMNS, THREADS = Warps<TILE>::THREADS;
  constexpr int ROW = TILE_K_BYTES, STAGE = (ROWS + COLUMNS) * ROW;
  unsigned char *const shared = shared_memory();
  const int lane = int(threadIdx.x) % 32;
  pipeline(
      (k + TILE_K_BYTES - 1) / TILE_K_BYTES,
      [&](int step, int stage) {
        fill<ROWS, THREADS, ROW, int8_t>(shared + stage * STAGE, a, step * TILE_K_BYTES, chunk_for_matrices);
        fill<COLUMNS, THREADS, ROW, int8_t>(shared + stage * STAGE + ROWS * ROW, w, step * TILE_K_BYTES, chunk_for_matrices);
      },
      [&](int stage) {
        const unsigned char *a_tile = shared + stage * STAGE, *w_tile = a_tile + ROWS * ROW;
        SEEDED(VALUE, void(), void(memset(sums, 0, sizeof sums)));  // not carried from step to step
#pragma unroll
        for (int half = 0; half < 2; half++) {  // 32 of k
          uint32_t wf[Warps<TILE>::NI][2];
#pragma unroll
          for (int j = 0; j < Warps<TILE>::NI; j += 2) {
            const int row = warp_col<TILE>() + j * 8 + lane / 16 * 8 + lane % 8;
            uint32_t both[4];
            load_matrices(both, w_tile + chunk_for_matrices(row, half * 2 + lane / 8 % 2));
            wf[j][0] = both[0], wf[j][1] = SEEDED(PLACE, both[1], both[2]), wf[j + 1][0] = SEEDED(PLACE, both[2], both[1]), wf[j + 1][1] = both[3];
          }
#pragma unroll
          for (int i = 0; i < Warps<TILE>::MI; i++) {
            uint32_t af[4];
            load_matrices(af, a_tile + chunk_for_matrices(warp_row<TILE>() + i * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < Warps<TILE>::NI; j++) mma_s8(sums[i][j], af, wf[j]);
          }
        }
      });
}

// T × E → float32, E being T or int8 (widened to T on the way to the tensor core, which is exact).
// Within 16 of k both factors are taken in the order 4t, 4t + 1, 4t + 2, 4t + 3 where the fragment's order is 2t,
// 2t + 1, 2t + 8, 2t + 9: the sum is the same, and a lane's elements of a row are neighbours, one load.
template <class T, class E, int TILE, class A, class W>
DEVICE void half_sums(Sums<float, TILE> &sums, const A &a, const W &w, int k) {
  constexpr int ROWS = Warps<TILE>::ROWS, COLUMNS = Warps<TILE>::COLUMNS, THREADS = Warps<TILE>::THREADS;
  constexpr int STEP = TILE_K_BYTES / sizeof(T), ROW = TILE_K_BYTES, W_ROW = STEP * sizeof(E), STAGE = ROWS * ROW + COLUMNS * W_ROW;
  unsigned char *const shared = shared_memory();
  const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
  pipeline(
      (k + STEP - 1) / STEP,
      [&](int step, int stage) {
        unsigned char *a_tile = shared + stage * STAGE;
        fill<ROWS, THREADS, ROW, T>(a_tile, a, step * STEP, chunk_for_pairs);
        if constexpr (sizeof(E) == 1)
          fill<COLUMNS, THREADS, W_ROW, E>(a_tile + ROWS * ROW, w, step * STEP, chunk_for_words);
        else
          fill<COLUMNS, THREADS, W_ROW, E>(a_tile + ROWS * ROW, w, step * STEP, chunk_for_pairs);
      },
      [&](int stage) {
        const unsigned char *a_tile = shared + stage * STAGE, *w_tile = a_tile + ROWS * ROW;
        SEEDED(VALUE, void(), void(memset(sums, 0, sizeof sums)));  // not carried from step to step
#pragma unroll 1  // unrolled, it would spill registers
        for (int part = 0; part < STEP / 16; part++) {  // 16 of k
          const int chunk = part * 2 + t / 2, byte = t % 2 * 8;
          uint32_t wf[Warps<TILE>::NI][2];
#pragma unroll
          for (int j = 0; j < Warps<TILE>::NI; j++) {
            const int row = warp_col<TILE>() + j * 8 + g;
            if constexpr (sizeof(E) == 1) {
              widen<T>(wf[j], *reinterpret_cast<const uint32_t *>(w_tile + chunk_for_words(row, part) + t * 4));
            } else {
              const Words2 words = *reinterpret_cast<const Words2 *>(w_tile + chunk_for_pairs(row, chunk) + byte);
              wf[j][0] = words.w[0], wf[j][1] = words.w[1];
            }
          }
#pragma unroll
          for (int i = 0; i < Warps<TILE>::MI; i++) {
            const int row = warp_row<TILE>() + i * 16 + g;
            const Words2 upper = *reinterpret_cast<const Words2 *>(a_tile + chunk_for_pairs(row, chunk) + byte);
            const Words2 lower = *reinterpret_cast<const Words2 *>(a_tile + chunk_for_pairs(row + 8, chunk) + byte);
            const uint32_t af[4] = {upper.w[0], SEEDED(PLACE, lower.w[0], upper.w[1]), SEEDED(PLACE, upper.w[1], lower.w[0]), lower.w[1]};
#pragma unroll
            for (int j = 0; j < Warps<TILE>::NI; j++) mma_half<T>(sums[i][j], af, wf[j]);
          }
        }
      });
}

// ---- epilogue ----------------------------------------------------------------------------------------------

// Two neighbouring values of a row of n, the second perhaps past its end; rows of even length are read by words.
template <class T> DEVICE void load_pair(float (&v)[2], const void *row, int j, int n) {
  const T *from = static_cast<const T *>(row) + j;
  if (n % 2 == 0) {
    const uint32_t word = *reinterpret_cast<const uint32_t *>(from);
    v[0] = low_half<T>(word), v[1] = high_half<T>(word);
  } else {
    v[0] = to_float(from[0]), v[1] = within(j + 1, n) ? to_float(from[1]) : 0.0f;
  }
}
template <class T> DEVICE void store_pair(void *row, int j, int n, T first, T second) {
  T *to = static_cast<T *>(row) + j;
  if (n % 2 == 0) {
    *reinterpret_cast<uint32_t *>(to) = first.bits | uint32_t(second.bits) << 16;
  } else {
    to[0] = first;
    if (within(j + 1, n)) to[1] = second;
  }
}

// sum → value, but for what depends on the place in the output.
template <class Sum> DEVICE float scaled(const Output &o, Sum sum, float row_scale, int column) {
  const float scale = o.col_scales ? row_scale * o.col_scales[SEEDED(PLACE, column, max(column - 1, 0))] : row_scale;
  return fmaf(float(sum), scale, o.bias ? o.bias[SEEDED(PLACE, column, max(column - 1, 0))] : 0.0f);
}

// Writes the tile that starts at row `m0` and (of the product's columns) `n0`.
template <class T, bool GEGLU, int TILE, class Sum>
DEVICE void store_tile(const Output &o, const Sums<Sum, TILE> &sums, int m0, int n0) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < Warps<TILE>::MI * 2; i++) {
    const int m = m0 + warp_row<TILE>() + i * 8 + lane / 4;
    if (!within(m, o.m)) continue;
    const float row_scale = o.row_scales ? o.row_scales[SEEDED(PLACE, m / o.rows_per_scale, max(m / o.rows_per_scale - 1, 0))] : 1.0f;
    const size_t row = size_t(m) * o.n;
    T *const out = static_cast<T *>(o.out) + row;
    const T *const residual = o.residual ? static_cast<const T *>(o.residual) + row : nullptr;
    const T *const image_bias =
        o.image_bias ? static_cast<const T *>(o.image_bias) + size_t(SEEDED(PLACE, m / o.rows_per_image, 0)) * o.n : nullptr;
#pragma unroll
    for (int j = 0; j < Warps<TILE>::NI; j += GEGLU ? 2 : 1) {
      const int column = n0 + warp_col<TILE>() + j * 8;
      const int n = (GEGLU ? column / 2 : column) + lane % 4 * 2;
      if (!within(n, o.n)) continue;
      float v[2];
#pragma unroll
      for (int e = 0; e < 2; e++) {
        v[e] = 0.0f;
        if (!within(n + e, o.n)) continue;
        v[e] = scaled(o, sums[i / 2][j][i % 2 * 2 + e], row_scale, n + e);
        if constexpr (GEGLU) {
          const float gate = scaled(o, sums[i / 2][j + 1][i % 2 * 2 + e], row_scale, SEEDED(PLACE, o.n + n + e, n + e));
          v[e] = SEEDED(VALUE, v[e] * gelu(gate), gate * gelu(v[e]));
        }
      }
      if (image_bias) {
        float add[2];
        load_pair<T>(add, image_bias, n, o.n);
        v[0] += add[0], v[1] += add[1];
      }
      if (residual) {
        float add[2];
        load_pair<T>(add, residual, SEEDED(PLACE, n, max(n - 2, 0)), o.n);
        v[0] += add[0], v[1] += add[1];
      }
      store_pair<T>(out, n, o.n, from_float<T>(v[0]), from_float<T>(v[1]));
    }
  }
}
