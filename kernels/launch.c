/* Launch geometry and parameter checks of every kernel: see launch.h. */
#include "launch.h"

#include <stdio.h>
#include <string.h>

static const char *const DTYPE_NAMES[] = {"f16", "bf16"};

static uint32_t tiles(int length, int tile) { return (uint32_t)((length + (int64_t)tile - 1) / tile); }

static int aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

static Launch failed(const char *error) {
  Launch launch;
  memset(&launch, 0, sizeof launch);
  launch.error = error;
  return launch;
}

/* `name`_`dtype`, and the tile's edge after it where it is not 0. */
static Launch launch_of(const char *name, Dtype dtype, int tile) {
  Launch launch = failed(NULL);
  if (tile)
    snprintf(launch.kernel, sizeof launch.kernel, "%s_%s_%d", name, DTYPE_NAMES[dtype], tile);
  else
    snprintf(launch.kernel, sizeof launch.kernel, "%s_%s", name, DTYPE_NAMES[dtype]);
  launch.grid[0] = launch.grid[1] = launch.grid[2] = 1;
  return launch;
}

#define REQUIRE(condition, message) \
  do {                              \
    if (!(condition)) return failed(message); \
  } while (0)

/* A product of m × n sums over k elements. Bytes of a row of the a tile and of the w tile in one stage differ:
 * int8 against T. `columns_per_output` is 2 for GEGLU. */
static Launch launch_product(const char *name, const Output *out, Dtype dtype, int processors, int columns_per_output,
                             uint32_t w_row_bytes) {
  REQUIRE(dtype == DTYPE_F16 || dtype == DTYPE_BF16, "the activations' type is neither f16 nor bf16");
  REQUIRE(out->m > 0 && out->n > 0, "a product has no rows or no columns");
  REQUIRE(out->n <= 65535 * TILE_SMALL / columns_per_output, "a product has too many columns for one launch");
  REQUIRE(out->out && aligned(out->out), "a product's output is missing or not aligned to 16 bytes");
  REQUIRE(aligned(out->residual) && aligned(out->image_bias), "a residual or image bias is not aligned to 16 bytes");
  REQUIRE(!out->row_scales || out->rows_per_scale > 0, "row scales without rows_per_scale");
  REQUIRE(!out->image_bias || out->rows_per_image > 0, "an image bias without rows_per_image");
  REQUIRE(processors > 0, "the device has no multiprocessors");
  const int columns = out->n * columns_per_output;
  /* The large tile needs fewer bytes for each sum; but not if it leaves multiprocessors idle. */
  const int64_t large_blocks = (int64_t)tiles(out->m, TILE_LARGE) * tiles(columns, TILE_LARGE);
  const int tile = large_blocks >= processors ? TILE_LARGE : TILE_SMALL;
  Launch launch = launch_of(name, dtype, tile);
  launch.grid[0] = tiles(out->m, tile);
  launch.grid[1] = tiles(columns, tile);
  launch.block = tile == TILE_LARGE ? TILE_LARGE_THREADS : TILE_SMALL_THREADS;
  launch.shared_bytes = TILE_STAGES * (uint32_t)tile * (TILE_K_BYTES + w_row_bytes);
  return launch;
}

static Launch launch_gemm(const char *name, const Gemm *p, Dtype dtype, int processors, int columns_per_output,
                          uint32_t w_row_bytes) {
  REQUIRE(p->k > 0 && p->k % 16 == 0, "a product's inner dimension is not a multiple of 16");
  REQUIRE(p->a && p->w && aligned(p->a) && aligned(p->w), "a factor is missing or not aligned to 16 bytes");
  REQUIRE(!p->out.sentinel, "this kernel has no sentinel");
  REQUIRE(p->out.col_scales, "int8 weights without scales");
  return launch_product(name, &p->out, dtype, processors, columns_per_output, w_row_bytes);
}

Launch launch_int8_gemm(const Gemm *p, Dtype dtype, int processors) {
  REQUIRE(p->out.row_scales, "int8 activations without scales");
  return launch_gemm("int8_gemm", p, dtype, processors, 1, TILE_K_BYTES);
}

Launch launch_int8_gemm_geglu(const Gemm *p, Dtype dtype, int processors) {
  REQUIRE(p->out.row_scales, "int8 activations without scales");
  return launch_gemm("int8_gemm_geglu", p, dtype, processors, 2, TILE_K_BYTES);
}

Launch launch_w8a16_gemm(const Gemm *p, Dtype dtype, int processors) {
  return launch_gemm("w8a16_gemm", p, dtype, processors, 1, TILE_K_BYTES / 2);
}

Launch launch_w8a16_gemm_geglu(const Gemm *p, Dtype dtype, int processors) {
  return launch_gemm("w8a16_gemm_geglu", p, dtype, processors, 2, TILE_K_BYTES / 2);
}

static Launch launch_convolution(const char *name, const Conv2d *p, Dtype dtype, int processors) {
  REQUIRE(p->batch > 0 && p->height > 0 && p->width > 0 && p->channels > 0, "a convolution of an empty image");
  REQUIRE(p->kernel > 0 && p->stride > 0 && p->pad_top >= 0 && p->pad_left >= 0, "a convolution's kernel, stride or padding is out of range");
  REQUIRE(p->upsample == 0 || p->upsample == 1, "an image is doubled once or not at all");
  REQUIRE((int64_t)p->batch * p->out_height * p->out_width == p->out.m, "a convolution's rows are not its output pixels");
  REQUIRE((int64_t)p->kernel * p->kernel * p->channels <= 1 << 30, "a convolution's patch is too large");
  REQUIRE(p->x && p->w && aligned(p->x) && aligned(p->w), "a factor is missing or not aligned to 16 bytes");
  return launch_product(name, &p->out, dtype, processors, 1, TILE_K_BYTES);
}

Launch launch_int8_conv2d(const Conv2d *p, Dtype dtype, int processors) {
  REQUIRE(p->out_height > 0 && p->out_width > 0, "a convolution's output is empty");
  REQUIRE(p->channels % 16 == 0, "an int8 convolution's channels are not a multiple of 16");
  REQUIRE(p->out.row_scales && p->out.rows_per_scale % (p->out_height * p->out_width) == 0, "an int8 convolution needs one scale for whole images");
  REQUIRE(p->out.col_scales, "int8 weights without scales");
  REQUIRE(!p->out.sentinel, "this kernel has no sentinel");
  return launch_convolution("int8_conv2d", p, dtype, processors);
}

Launch launch_conv2d(const Conv2d *p, Dtype dtype, int processors) {
  REQUIRE(!p->out.row_scales && !p->out.col_scales, "a convolution of floats has no scales");
  return launch_convolution("conv2d", p, dtype, processors);
}

static const char *check_heads(int batch, int kv_batch, int heads, int queries, int keys, const void *k, const void *v,
                               const void *out, int kv_stride) {
  if (batch <= 0 || kv_batch <= 0 || heads <= 0 || queries <= 0 || keys <= 0) return "attention over nothing";
  if (batch % kv_batch) return "attention's batch is not a multiple of its keys' batch";
  if (batch > 65535 || heads > 65535) return "attention has too many heads or images for one launch";
  if (!k || !v || !out || !aligned(k) || !aligned(v) || !aligned(out)) return "attention's keys, values or output are missing or not aligned to 16 bytes";
  if (kv_stride < heads * HEAD_DIM || kv_stride % 8) return "attention's rows are closer than their heads, or not a multiple of 8 apart";
  return NULL;
}

static Launch launch_heads(const char *name, Dtype dtype, int batch, int heads, int queries, uint32_t shared_bytes) {
  REQUIRE(dtype == DTYPE_F16 || dtype == DTYPE_BF16, "the activations' type is neither f16 nor bf16");
  Launch launch = launch_of(name, dtype, 0);
  launch.grid[0] = tiles(queries, QUERY_TILE);
  launch.grid[1] = (uint32_t)heads;
  launch.grid[2] = (uint32_t)batch;
  launch.block = ATTENTION_THREADS;
  launch.shared_bytes = shared_bytes;
  return launch;
}

Launch launch_attention_d64(const Attention *p, Dtype dtype) {
  const char *error = check_heads(p->batch, p->kv_batch, p->heads, p->queries, p->keys, p->k, p->v, p->out, p->kv_stride);
  REQUIRE(!error, error);
  REQUIRE(p->q && aligned(p->q), "attention's queries are missing or not aligned to 16 bytes");
  REQUIRE(p->q_stride >= p->heads * HEAD_DIM && p->q_stride % 8 == 0, "attention's rows are closer than their heads, or not a multiple of 8 apart");
  REQUIRE(!p->causal || p->queries == p->keys, "causal attention of unequal numbers of queries and keys");
  /* Queries, and twice keys and values. */
  return launch_heads("attention_d64", dtype, p->batch, p->heads, p->queries, (QUERY_TILE + 4 * KEY_TILE) * HEAD_DIM * 2);
}

Launch launch_cross_attention(const CrossAttention *p, Dtype dtype) {
  const char *error = check_heads(p->batch, p->kv_batch, p->heads, p->queries, p->keys, p->k, p->v, p->out, p->kv_stride);
  REQUIRE(!error, error);
  REQUIRE(p->x && p->wq && aligned(p->x) && aligned(p->wq), "a factor is missing or not aligned to 16 bytes");
  REQUIRE(p->x_scales && p->wq_scales && p->rows_per_scale > 0, "int8 factors without scales");
  REQUIRE(p->channels > 0 && p->channels % 16 == 0, "a product's inner dimension is not a multiple of 16");
  /* First the projection's stages; then, in the same place, queries, and one tile of keys and values. */
  const uint32_t projection = TILE_STAGES * (QUERY_TILE + HEAD_DIM) * TILE_K_BYTES;
  const uint32_t text = (QUERY_TILE + 2 * TEXT_TILE) * HEAD_DIM * 2;
  return launch_heads("cross_attention", dtype, p->batch, p->heads, p->queries, projection > text ? projection : text);
}
