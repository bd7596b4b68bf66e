/* What a caller of the kernels needs: each kernel's parameters, and a function that checks them and says what to
 * launch. Plain C, so that the kernels (CUDA C++), their tests (C++) and the launcher (Rust, over the C ABI) share
 * this one definition.
 *
 * Every kernel takes one parameter, its struct, by value. Pointers are device pointers, aligned to 16 bytes.
 * Letters: m rows, n columns, k inner dimension; "T" is the activations' type, f16 or bf16. Scales are float32:
 * value = scale × int8. Images are channels-last, [B, H, W, C].
 */
#ifndef DARKROOM_LAUNCH_H
#define DARKROOM_LAUNCH_H

#include <stdint.h>

#ifdef __CUDACC__
#define BOTH_SIDES static __host__ __device__ inline
#else
#define BOTH_SIDES static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Type of the activations. */
typedef enum { DTYPE_F16 = 0, DTYPE_BF16 = 1 } Dtype;

/* What to launch. `error` is NULL, or says what is wrong with the parameters; then nothing may be launched.
 * Above 48 KiB of shared memory the kernel's limit has to be raised before
 * (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES). */
typedef struct {
  char kernel[48];
  uint32_t grid[3];
  uint32_t block;
  uint32_t shared_bytes;
  const char *error;
} Launch;

/* ---- products: where the sums go ---------------------------------------------------------------------------- */

/* out[i][j] = sum · row_scales[i / rows_per_scale] · col_scales[j] + bias[j] + image_bias[i / rows_per_image][j]
 *             + residual[i][j], in this order, in float32, rounded once. Any pointer but `out` may be NULL. */
typedef struct {
  const float *row_scales;  /* of the int8 activations; [m / rows_per_scale] */
  const float *col_scales;  /* of the int8 weights; [n] */
  const float *bias;        /* [n] */
  const void *image_bias;   /* T [m / rows_per_image, n]: a residual block's time embedding */
  const void *residual;     /* T [m, n] */
  void *out;                /* T [m, n] */
  int m, n;
  int rows_per_scale;
  int rows_per_image;
} Output;

/* out[i][j] = epilogue(Σ a[i][·] · w[j][·]). w is as a checkpoint has it, [n, k]; k % 16 = 0. */
typedef struct {
  const void *a; /* int8 or T [m, k] */
  const void *w; /* int8 [n, k]; for GEGLU [2n, k]: values, then gates */
  int k;
  Output out;
} Gemm;

/* A convolution as a product: m = batch·out_height·out_width, n output channels, k = kernel²·channels. */
typedef struct {
  const void *x; /* int8 or T [batch, height, width, channels]; of `upsample` [batch, ⌈height/2⌉, ⌈width/2⌉, channels] */
  const void *w; /* int8 or T [n, kernel, kernel, channels] */
  int batch, height, width, channels;
  int kernel, stride, pad_top, pad_left; /* below and to the right: what out_height and out_width ask for */
  int out_height, out_width;
  int upsample; /* 1: x is read as if each pixel were doubled both ways (nearest), the last to show once where a size is odd */
  Output out;
} Conv2d;

/* int8 activations, int8 weights. `processors`: multiprocessors of the device, to choose the tile by. */
Launch launch_int8_gemm(const Gemm *p, Dtype dtype, int processors);
/* The same with GEGLU: out = value · gelu(gate), both with scales and bias ([2n] each). */
Launch launch_int8_gemm_geglu(const Gemm *p, Dtype dtype, int processors);
/* T activations, int8 weights. */
Launch launch_w8a16_gemm(const Gemm *p, Dtype dtype, int processors);
Launch launch_w8a16_gemm_geglu(const Gemm *p, Dtype dtype, int processors);
/* int8 image (one scale for each image: rows_per_scale = out_height·out_width), int8 weights. */
Launch launch_int8_conv2d(const Conv2d *p, Dtype dtype, int processors);
/* T image, int8 weights, any number of channels. */
Launch launch_w8a16_conv2d(const Conv2d *p, Dtype dtype, int processors);
/* T image and T weights, any number of channels. */
Launch launch_conv2d(const Conv2d *p, Dtype dtype, int processors);

/* ---- attention ------------------------------------------------------------------------------------------------ */

/* softmax(q·kᵀ/8)·v for each head of 64. batch / kv_batch rows of q in succession share one row of k and v. */
typedef struct {
  const void *q; /* T [batch, queries, heads·64], rows q_stride elements apart */
  const void *k; /* T [kv_batch, keys, heads·64], rows kv_stride apart */
  const void *v; /* as k */
  void *out;     /* T [batch, queries, heads·64] */
  int batch, kv_batch, heads, queries, keys;
  int q_stride, kv_stride; /* in elements, multiples of 8: q, k and v may lie side by side in one product */
  int causal;              /* 1: query i sees keys 0…i; queries = keys */
} Attention;

/* The same with the queries projected on the way: q = x · wqᵀ, with scales; k and v made once for each image. */
typedef struct {
  const void *x;          /* int8 or T [batch, queries, channels] */
  const float *x_scales;  /* of int8: [batch · queries / rows_per_scale]; of T: NULL */
  const int8_t *wq;       /* [heads·64, channels] */
  const float *wq_scales; /* [heads·64] */
  const void *k;          /* T [kv_batch, keys, heads·64], rows kv_stride apart */
  const void *v;          /* as k */
  void *out;              /* T [batch, queries, heads·64] */
  int batch, kv_batch, heads, queries, keys, channels; /* channels % 16 = 0 */
  int kv_stride;
  int rows_per_scale;
} CrossAttention;

Launch launch_attention_d64(const Attention *p, Dtype dtype);
Launch launch_cross_attention(const CrossAttention *p, Dtype dtype);

/* ---- norms and activations ------------------------------------------------------------------------------------ */

/* out_scales: NULL, then `out` is T; or [rows] (of a group norm: [batch]) to be written, then `out` is int8, the
 * largest magnitude of a row (an image) being 127. A row with a value that is not finite gets a scale that is not.
 * channels % 8 = 0. */

/* (x − mean)/√(variance + eps)·weight + bias of each row. */
typedef struct {
  const void *x;       /* T [rows, channels] */
  const float *weight; /* [channels] */
  const float *bias;   /* [channels] */
  void *out;           /* T or int8 [rows, channels] */
  float *out_scales;
  int rows, channels;
  float eps;
} LayerNorm;

/* Of each row, what `out` needs of `x`. */
typedef struct {
  const void *x; /* T [rows, channels]; of GEGLU [rows, 2·channels]: values, then gates */
  void *out;     /* T or int8 [rows, channels] */
  float *out_scales;
  int rows, channels;
} Rows;

/* Whole images as int8: two kernels in succession. */
typedef struct {
  const void *x;     /* T [batch, values], values % 8 = 0 */
  void *out;         /* int8 [batch, values] */
  float *out_scales; /* [batch] */
  uint32_t *largest; /* [batch], zeroed before */
  int batch, values;
} Images;

/* Group normalisation of channels-last images, with or without SiLU: three kernels in succession. */
typedef struct {
  const void *x;       /* T [batch, pixels, channels] */
  const float *weight; /* [channels] */
  const float *bias;   /* [channels] */
  void *out;           /* T or int8 [batch, pixels, channels] */
  float *out_scales;
  float *workspace; /* group_norm_workspace_floats(p) */
  int batch, pixels, channels, groups;
  float eps;
  int silu; /* 1: silu(norm) */
} GroupNorm;

Launch launch_layer_norm(const LayerNorm *p, Dtype dtype);
/* value · gelu(gate) */
Launch launch_geglu(const Rows *p, Dtype dtype);
/* int8 rows with scales; out_scales is not NULL */
Launch launch_quantise_rows(const Rows *p, Dtype dtype);
Launch launch_images_largest(const Images *p, Dtype dtype);
Launch launch_quantise_images(const Images *p, Dtype dtype);
Launch launch_group_norm_stats(const GroupNorm *p, Dtype dtype);
Launch launch_group_norm_table(const GroupNorm *p, Dtype dtype);
Launch launch_group_norm_apply(const GroupNorm *p, Dtype dtype);
int64_t group_norm_workspace_floats(const GroupNorm *p);
int64_t group_norm_chunk_pixels(const GroupNorm *p); /* of those whose moments, [chunks, groups, 2], begin an image's workspace */

/* ---- value by value, and values put elsewhere ----------------------------------------------------------------- */

/* a + b, a row of b for `repeats` rows of a in succession. width % 8 = 0. */
typedef struct {
  const void *a; /* T [parts, repeats, width] */
  const void *b; /* T [parts, width] */
  void *out;     /* as a, or a itself */
  int parts, repeats, width;
} Sum;

typedef enum { SILU = 0, GELU = 1, QUICK_GELU = 2 } NonLinearity;

typedef struct {
  const void *x; /* T [count], count % 8 = 0 */
  void *out;     /* as x */
  int64_t count;
  int which; /* NonLinearity */
} Activation;

/* An image's channels, first or last, and its type: float32 outside of a network, T inside. */
typedef struct {
  const void *x; /* of channels_last: float32 [batch, channels, pixels]; of channels_first: T [batch, pixels, channels] */
  void *out;     /* the other */
  int batch, channels, pixels;
} Relayout;

typedef struct {
  const void *a; /* T [rows, a_channels] */
  const void *b; /* T [rows, b_channels]; both channels % 8 = 0 */
  void *out;     /* T [rows, a_channels + b_channels] */
  int rows, a_channels, b_channels;
} Concat;

Launch launch_add_rows(const Sum *p, Dtype dtype);
Launch launch_activation(const Activation *p, Dtype dtype);
Launch launch_channels_last(const Relayout *p, Dtype dtype);
Launch launch_channels_first(const Relayout *p, Dtype dtype);
Launch launch_concat(const Concat *p, Dtype dtype);

typedef struct {
  const void *x; /* T or float [count], count % 8 = 0 or not */
  int64_t count;
  uint32_t *sentinel; /* zeroed before: the largest finite magnitude as float32 bits, how many values are not finite */
} Finite;

Launch launch_finite(const Finite *p, Dtype dtype);
Launch launch_finite_f32(const Finite *p);

/* ---- the sampler ------------------------------------------------------------------------------------------------ */

/* What a step is given besides its tensors: src/scheduler/mod.rs says what each coefficient is. X0_LIMIT: x0 is clamped to
 * ± this, infinity where it is not. */
typedef enum {
  INPUT_SCALE,
  GUIDANCE,
  X0_LATENTS,
  X0_OUTPUT,
  X0_LIMIT,
  NEXT_LATENTS,
  NEXT_OUTPUT,
  NEXT_X0,
  NEXT_PREVIOUS_X0,
  NEXT_NOISE,
  STEP_NUMBERS
} StepNumber;

/* The latents, scaled, for each row of conditioning. */
typedef struct {
  const float *latents; /* [count] */
  const float *numbers; /* [STEP_NUMBERS] */
  float *out;           /* [rows, count] */
  int count, rows;
} ModelInput;

/* Guidance where there are two rows; then the sampler. */
typedef struct {
  const float *latents;     /* [count] */
  const float *output;      /* the network's, [rows, count]; of two: negative, positive */
  const float *previous_x0; /* [count]; not read where its coefficient is 0 */
  const float *noise;       /* likewise; may be NULL if it always is */
  const float *numbers;     /* [STEP_NUMBERS] */
  float *next;              /* [count] */
  float *x0;                /* [count] */
  uint32_t *sentinel;       /* of `next`, as Finite's */
  int count, rows;
} SamplerStep;

Launch launch_model_input(const ModelInput *p);
Launch launch_sampler_step(const SamplerStep *p);

/* Tiles of the products: rows × columns of a block, and bytes of k that one stage holds. */
enum {
  TILE_LARGE = 128,
  TILE_SMALL = 64,
  TILE_K_BYTES = 64,
  TILE_STAGES = 3,
  TILE_LARGE_THREADS = 256,
  TILE_SMALL_THREADS = 128
};

/* Attention: queries of a block (16 for each warp), and keys that it meets at a time. 80 holds a prompt's 77. */
enum {
  HEAD_DIM = 64,
  QUERY_TILE = 128,
  KEY_TILE = 64,
  TEXT_TILE = 80,
  ATTENTION_THREADS = 256
};

/* Norms: threads of a block, each of which takes 8 channels at a time. */
enum {
  VECTOR = 8,
  ROW_THREADS = 128, /* a warp for each row */
  GEGLU_THREADS = 256, /* a block for each row */
  GROUP_NORM_THREADS = 256, /* of stats and apply, at most, unless one pixel's channels are more */
  GROUP_NORM_TABLE_THREADS = 128,
  GROUP_NORM_MAX_CHANNELS = 3072,
  GROUP_NORM_MAX_CHUNKS = 128, /* parts of an image's pixels, each with statistics of its own */
  GROUP_NORM_MIN_PIXELS = 32, /* of a chunk */
  POINTWISE_THREADS = 256, /* each of 8 values; of a relayout, of one */
  IMAGE_THREADS = 256,
  IMAGE_MAX_BLOCKS = 256, /* of one image */
  FINITE_THREADS = 256,
  FINITE_MAX_BLOCKS = 1024
};

/* Pixels of a group norm's chunk. */
BOTH_SIDES int group_norm_chunk(int pixels) {
  const int most = (pixels + GROUP_NORM_MAX_CHUNKS - 1) / GROUP_NORM_MAX_CHUNKS;
  return most < GROUP_NORM_MIN_PIXELS ? GROUP_NORM_MIN_PIXELS : most;
}

#ifdef __cplusplus
}
#endif
#endif
