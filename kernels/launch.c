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

/* Products of int8 that a sum of 32 bits holds: 128² · k < 2³¹. */
#define INT8_K_MAX 131071

#define REQUIRE(condition, message) \
  do {                              \
    if (!(condition)) return failed(message); \
  } while (0)

/* A product of m × n sums over k elements. Bytes of a row of the a tile and of the w tile in one stage differ:
 * int8 against T. `columns_per_output` is 2 for GEGLU. */
static Launch launch_product(const char *name, const Output *out, Dtype dtype, int processors, int columns_per_output,
                             uint32_t w_row_bytes, int large_allowed) {
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
  const int tile = large_allowed && large_blocks >= processors ? TILE_LARGE : TILE_SMALL;
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
  REQUIRE(p->k <= INT8_K_MAX, "a product's inner dimension is too large for 32-bit sums");
  REQUIRE(p->a && p->w && aligned(p->a) && aligned(p->w), "a factor is missing or not aligned to 16 bytes");
  REQUIRE(p->out.col_scales, "int8 weights without scales");
  return launch_product(name, &p->out, dtype, processors, columns_per_output, w_row_bytes, 1);
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

static Launch launch_convolution(const char *name, const Conv2d *p, Dtype dtype, int processors, uint32_t w_row_bytes,
                                 int large_allowed) {
  REQUIRE(p->batch > 0 && p->height > 0 && p->width > 0 && p->channels > 0, "a convolution of an empty image");
  REQUIRE(p->kernel > 0 && p->stride > 0 && p->pad_top >= 0 && p->pad_left >= 0, "a convolution's kernel, stride or padding is out of range");
  REQUIRE(p->upsample == 0 || p->upsample == 1, "an image is doubled once or not at all");
  REQUIRE((int64_t)p->batch * p->out_height * p->out_width == p->out.m, "a convolution's rows are not its output pixels");
  REQUIRE((int64_t)p->kernel * p->kernel * p->channels <= 1 << 30, "a convolution's patch is too large");
  REQUIRE(p->x && p->w && aligned(p->x) && aligned(p->w), "a factor is missing or not aligned to 16 bytes");
  return launch_product(name, &p->out, dtype, processors, 1, w_row_bytes, large_allowed);
}

Launch launch_int8_conv2d(const Conv2d *p, Dtype dtype, int processors) {
  REQUIRE(p->out_height > 0 && p->out_width > 0, "a convolution's output is empty");
  REQUIRE((int64_t)p->kernel * p->kernel * p->channels <= INT8_K_MAX, "a convolution's patch is too large for 32-bit sums");
  REQUIRE(p->channels % 16 == 0, "an int8 convolution's channels are not a multiple of 16");
  REQUIRE(p->out.row_scales && p->out.rows_per_scale % (p->out_height * p->out_width) == 0, "an int8 convolution needs one scale for whole images");
  REQUIRE(p->out.col_scales, "int8 weights without scales");
  return launch_convolution("int8_conv2d", p, dtype, processors, TILE_K_BYTES, 1);
}

Launch launch_w8a16_conv2d(const Conv2d *p, Dtype dtype, int processors) {
  REQUIRE(!p->out.row_scales, "float activations have no scales");
  REQUIRE(p->out.col_scales, "int8 weights without scales");
  if (p->channels % 16) return launch_convolution("w8a16_conv2d_gather", p, dtype, processors, TILE_K_BYTES / 2, 0);
  return launch_convolution("w8a16_conv2d", p, dtype, processors, TILE_K_BYTES / 2, 1);
}

Launch launch_conv2d(const Conv2d *p, Dtype dtype, int processors) {
  REQUIRE(!p->out.row_scales && !p->out.col_scales, "a convolution of floats has no scales");
  if (p->channels % 8) return launch_convolution("conv2d_gather", p, dtype, processors, TILE_K_BYTES, 0);
  return launch_convolution("conv2d", p, dtype, processors, TILE_K_BYTES, 1);
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
  REQUIRE(p->wq_scales && (!p->x_scales || p->rows_per_scale > 0), "int8 factors without scales");
  REQUIRE(p->channels > 0 && p->channels % 16 == 0, "a product's inner dimension is not a multiple of 16");
  /* First the projection's stages; then, in the same place, queries, and one tile of keys and values. */
  const uint32_t w_row_bytes = p->x_scales ? TILE_K_BYTES : TILE_K_BYTES / 2;
  const uint32_t projection = TILE_STAGES * (QUERY_TILE * TILE_K_BYTES + HEAD_DIM * w_row_bytes);
  const uint32_t text = (QUERY_TILE + 2 * TEXT_TILE) * HEAD_DIM * 2;
  const char *name = p->x_scales ? "cross_attention" : "w8a16_cross_attention";
  return launch_heads(name, dtype, p->batch, p->heads, p->queries, projection > text ? projection : text);
}

static const char *check_rows(const void *x, const void *out, int rows, int channels, Dtype dtype) {
  if (dtype != DTYPE_F16 && dtype != DTYPE_BF16) return "the activations' type is neither f16 nor bf16";
  if (!x || !out || !aligned(x) || !aligned(out)) return "an input or output is missing or not aligned to 16 bytes";
  if (rows <= 0 || channels <= 0) return "a norm or activation of nothing";
  if (channels % VECTOR) return "a norm's or activation's channels are not a multiple of 8";
  return NULL;
}

static Launch launch_rows(const char *name, const char *quantised, const float *out_scales, Dtype dtype, uint32_t blocks, uint32_t threads) {
  Launch launch = launch_of(out_scales ? quantised : name, dtype, 0);
  launch.grid[0] = blocks;
  launch.block = threads;
  return launch;
}

Launch launch_layer_norm(const LayerNorm *p, Dtype dtype) {
  const char *error = check_rows(p->x, p->out, p->rows, p->channels, dtype);
  REQUIRE(!error, error);
  REQUIRE(p->weight && p->bias && aligned(p->weight) && aligned(p->bias), "a norm's weight or bias is missing or not aligned to 16 bytes");
  return launch_rows("layer_norm", "layer_norm_int8", p->out_scales, dtype, tiles(p->rows, ROW_THREADS / 32), ROW_THREADS);
}

Launch launch_quantise_rows(const Rows *p, Dtype dtype) {
  const char *error = check_rows(p->x, p->out, p->rows, p->channels, dtype);
  REQUIRE(!error, error);
  REQUIRE(p->out_scales, "int8 rows without scales");
  return launch_rows("quantise_rows", "quantise_rows", p->out_scales, dtype, tiles(p->rows, ROW_THREADS / 32), ROW_THREADS);
}

Launch launch_geglu(const Rows *p, Dtype dtype) {
  const char *error = check_rows(p->x, p->out, p->rows, p->channels, dtype);
  REQUIRE(!error, error);
  Launch launch = launch_rows("geglu", "geglu_int8", p->out_scales, dtype, (uint32_t)p->rows, GEGLU_THREADS);
  /* A row in float32, and a word for each warp. */
  const uint32_t row = (uint32_t)p->channels * 4 + GEGLU_THREADS / 32 * 4;
  if (p->out_scales) launch.shared_bytes = row;
  REQUIRE(launch.shared_bytes <= 48 * 1024, "a quantised GEGLU has too many channels for one block's memory");
  return launch;
}

static Launch launch_images(const char *name, const Images *p, Dtype dtype) {
  const char *error = check_rows(p->x, p->out, p->batch, p->values, dtype);
  REQUIRE(!error, error);
  REQUIRE(p->batch <= 65535, "too many images for one launch");
  REQUIRE(p->out_scales && p->largest, "int8 images without scales");
  const uint32_t blocks = tiles(p->values / VECTOR, IMAGE_THREADS);
  Launch launch = launch_rows(name, name, p->out_scales, dtype, blocks < IMAGE_MAX_BLOCKS ? blocks : IMAGE_MAX_BLOCKS, IMAGE_THREADS);
  launch.grid[1] = (uint32_t)p->batch;
  return launch;
}

Launch launch_images_largest(const Images *p, Dtype dtype) { return launch_images("images_largest", p, dtype); }

Launch launch_quantise_images(const Images *p, Dtype dtype) { return launch_images("quantise_images", p, dtype); }

static const char *check_group_norm(const GroupNorm *p, Dtype dtype) {
  const char *error = check_rows(p->x, p->out, p->pixels, p->channels, dtype);
  if (error) return error;
  if (p->batch <= 0 || p->batch > 65535) return "a group norm of no images or of too many for one launch";
  if (p->groups <= 0 || p->channels % p->groups) return "a group norm's channels are not a multiple of its groups";
  if (p->channels > GROUP_NORM_MAX_CHANNELS) return "a group norm has too many channels for one block's memory";
  if (!p->weight || !p->bias || !p->workspace || !aligned(p->workspace)) return "a group norm's weight, bias or workspace is missing or not aligned to 16 bytes";
  return NULL;
}

int64_t group_norm_workspace_floats(const GroupNorm *p) {
  /* For each image: (mean, squares) of each chunk and group; (least, greatest) of each chunk and channel; (mean, scale,
   * shift) of each channel; the largest magnitude. */
  const int64_t chunks = tiles(p->pixels, group_norm_chunk(p->pixels));
  return p->batch * (chunks * (2 * p->groups + 2 * p->channels) + 3 * p->channels + 1);
}

int64_t group_norm_chunk_pixels(const GroupNorm *p) { return group_norm_chunk(p->pixels); }

/* Threads are (pixels side by side) × (channels / 8); the grid is (chunks, images). */
static Launch launch_chunks(const char *name, const char *quantised, const GroupNorm *p, Dtype dtype) {
  const char *error = check_group_norm(p, dtype);
  REQUIRE(!error, error);
  const uint32_t vectors = (uint32_t)p->channels / VECTOR, abreast = vectors < GROUP_NORM_THREADS ? GROUP_NORM_THREADS / vectors : 1;
  Launch launch = launch_rows(name, quantised, p->out_scales, dtype, tiles(p->pixels, group_norm_chunk(p->pixels)), vectors * abreast);
  launch.grid[1] = (uint32_t)p->batch;
  return launch;
}

Launch launch_group_norm_stats(const GroupNorm *p, Dtype dtype) {
  Launch launch = launch_chunks("group_norm_stats", "group_norm_stats", p, dtype);
  /* Sum, squares, least, greatest of each thread's channels. */
  launch.shared_bytes = launch.block * VECTOR * 4 * 4;
  return launch;
}

Launch launch_group_norm_table(const GroupNorm *p, Dtype dtype) {
  const char *error = check_group_norm(p, dtype);
  REQUIRE(!error, error);
  REQUIRE(p->groups <= 65535, "a group norm has too many groups for one launch");
  Launch launch = launch_of("group_norm_table", dtype, 0);
  launch.grid[0] = (uint32_t)p->groups;
  launch.grid[1] = (uint32_t)p->batch;
  launch.block = GROUP_NORM_TABLE_THREADS;
  return launch;
}

Launch launch_group_norm_apply(const GroupNorm *p, Dtype dtype) {
  return launch_chunks("group_norm_apply", "group_norm_apply_int8", p, dtype);
}

/* A thread for each of `threads` pieces of work that make `out` from `x`. */
static Launch launch_each(const char *name, const void *x, const void *out, int64_t threads, Dtype dtype) {
  REQUIRE(dtype == DTYPE_F16 || dtype == DTYPE_BF16, "the activations' type is neither f16 nor bf16");
  REQUIRE(x && out && aligned(x) && aligned(out), "an input or output is missing or not aligned to 16 bytes");
  REQUIRE(threads > 0, "nothing to work on");
  REQUIRE(threads <= INT32_MAX - POINTWISE_THREADS, "too many values for one launch");
  Launch launch = launch_of(name, dtype, 0);
  launch.grid[0] = tiles((int)threads, POINTWISE_THREADS);
  launch.block = POINTWISE_THREADS;
  return launch;
}

Launch launch_add_rows(const Sum *p, Dtype dtype) {
  REQUIRE(p->parts > 0 && p->repeats > 0 && p->width > 0, "a sum of nothing");
  REQUIRE(p->width % VECTOR == 0, "a sum's rows are not a multiple of 8");
  REQUIRE(p->b && aligned(p->b), "a sum's rows are missing or not aligned to 16 bytes");
  return launch_each("add_rows", p->a, p->out, (int64_t)p->parts * p->repeats * (p->width / VECTOR), dtype);
}

Launch launch_activation(const Activation *p, Dtype dtype) {
  REQUIRE(p->count % VECTOR == 0, "an activation's values are not a multiple of 8");
  REQUIRE(p->which == SILU || p->which == GELU || p->which == QUICK_GELU, "an activation that there is not");
  return launch_each("activation", p->x, p->out, p->count / VECTOR, dtype);
}

static Launch launch_relayout(const char *name, const Relayout *p, Dtype dtype) {
  REQUIRE(p->batch > 0 && p->channels > 0 && p->pixels > 0, "an empty image");
  REQUIRE((int64_t)p->channels * p->pixels <= INT32_MAX, "an image is too large");
  return launch_each(name, p->x, p->out, (int64_t)p->batch * p->channels * p->pixels, dtype);
}

Launch launch_channels_last(const Relayout *p, Dtype dtype) { return launch_relayout("channels_last", p, dtype); }

Launch launch_channels_first(const Relayout *p, Dtype dtype) { return launch_relayout("channels_first", p, dtype); }

Launch launch_concat(const Concat *p, Dtype dtype) {
  REQUIRE(p->rows > 0 && p->a_channels > 0 && p->b_channels > 0, "a concatenation of nothing");
  REQUIRE(p->a_channels % VECTOR == 0 && p->b_channels % VECTOR == 0, "a concatenation's channels are not multiples of 8");
  REQUIRE(p->b && aligned(p->b), "an input or output is missing or not aligned to 16 bytes");
  return launch_each("concat", p->a, p->out, (int64_t)p->rows * (p->a_channels / VECTOR + p->b_channels / VECTOR), dtype);
}

Launch launch_finite(const Finite *p, Dtype dtype) {
  REQUIRE(dtype == DTYPE_F16 || dtype == DTYPE_BF16, "the activations' type is neither f16 nor bf16");
  REQUIRE(p->x && aligned(p->x) && p->sentinel && p->count > 0, "nothing to look through, or nowhere to say what was found");
  const int64_t blocks = (p->count / VECTOR + FINITE_THREADS) / FINITE_THREADS;
  Launch launch = launch_of("finite", dtype, 0);
  launch.grid[0] = (uint32_t)(blocks < FINITE_MAX_BLOCKS ? blocks : FINITE_MAX_BLOCKS);
  launch.block = FINITE_THREADS;
  return launch;
}

Launch launch_finite_f32(const Finite *p) {
  Launch launch = launch_finite(p, DTYPE_F16);
  if (!launch.error) snprintf(launch.kernel, sizeof launch.kernel, "finite_f32");
  return launch;
}

/* A thread for each of `count` values in float32. */
static Launch launch_latents(const char *name, const float *latents, const float *numbers, int count, int rows) {
  REQUIRE(latents && numbers, "latents or a step's numbers are missing");
  REQUIRE(count > 0 && count <= INT32_MAX - POINTWISE_THREADS, "no latents, or too many for one launch");
  REQUIRE(rows == 1 || rows == 2, "a step has one row of conditioning, or two to guide between");
  Launch launch = failed(NULL);
  snprintf(launch.kernel, sizeof launch.kernel, "%s", name);
  launch.grid[0] = tiles(count, POINTWISE_THREADS);
  launch.grid[1] = launch.grid[2] = 1;
  launch.block = POINTWISE_THREADS;
  return launch;
}

Launch launch_model_input(const ModelInput *p) {
  REQUIRE(p->out, "an output is missing");
  return launch_latents("model_input", p->latents, p->numbers, p->count, p->rows);
}

Launch launch_sampler_step(const SamplerStep *p) {
  REQUIRE(p->output && p->previous_x0 && p->next && p->x0 && p->sentinel, "a step's input or output is missing");
  return launch_latents("sampler_step", p->latents, p->numbers, p->count, p->rows);
}
