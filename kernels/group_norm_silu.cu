// group_norm_silu: group normalisation of channels-last images, with or without SiLU, to f16/bf16 or to int8 with one
// scale for each image.
//
// Idea: three kernels. `stats`: a block for each chunk of pixels; a thread keeps eight channels and goes down the
//   pixels, summing differences to the chunk's first pixel (no cancellation where a channel's mean is large), then the
//   chunk's groups are merged exactly (Chan, Golub and LeVeque 1983). `table`: merges the chunks and writes for each
//   channel mean, scale and shift. `apply`: y = (x − mean)·scale + shift, SiLU, rounding.
//   For int8, stats also keeps each channel's least and greatest value. The norm is affine by channel and SiLU's only
//   minimum is known, so the table has an image's largest magnitude before a value is computed: no pass for the scale.
// Shapes: x [B, pixels, C], any number of groups → [B, pixels, C] (and [B] scales); C % 8 = 0, C ≤ 3,072.
// Memory traffic: x twice (the second time from the second-level cache where an image fits), the output once; chunks'
//   statistics are 2·groups floats (for int8 also 2·C) for each of at most 128 chunks.
// Replaces: group norm + SiLU + quantisation.
// Proof: emulation/norms_test.cpp.
#include "rows.cuh"

// SiLU's minimum, and where it is.
constexpr float SILU_LEAST = -0.27846454f, SILU_LEAST_AT = -1.2784645f;

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

// The parts of an image's workspace, as launch.c counts them.
struct Workspace {
  float *moments;   // [chunks, groups, 2]: mean, sum of squared deviations
  float *extremes;  // [chunks, channels, 2]: least, greatest
  float *table;     // [3, channels]: mean, scale, shift
  uint32_t *largest;

  DEVICE Workspace(const GroupNorm &p, int chunks, int image) {
    const size_t each = size_t(chunks) * (2 * p.groups + 2 * p.channels) + 3 * p.channels + 1;
    moments = p.workspace + image * each;
    extremes = moments + size_t(chunks) * 2 * p.groups;
    table = extremes + size_t(chunks) * 2 * p.channels;
    largest = reinterpret_cast<uint32_t *>(table + 3 * p.channels);
  }
};

// Which pixels and channels a thread of stats and apply takes.
struct Walk {
  int abreast;  // pixels side by side in a block
  int first, last, side, c;
  DEVICE Walk(const GroupNorm &p) {
    const int vectors = p.channels / VECTOR;
    abreast = int(blockDim.x) / vectors;
    first = int(blockIdx.x) * group_norm_chunk(p.pixels);
    last = min(first + group_norm_chunk(p.pixels), p.pixels);
    side = int(threadIdx.x) / vectors;
    c = int(threadIdx.x) % vectors * VECTOR;
  }
};

template <class T> DEVICE void group_norm_stats(const GroupNorm &p) {
  const Walk walk(p);
  const Workspace space(p, int(gridDim.x), int(blockIdx.y));
  const T *const x = static_cast<const T *>(p.x) + size_t(blockIdx.y) * p.pixels * p.channels;
  const Eight start = load_eight(x + size_t(walk.first) * p.channels + walk.c);
  Eight sum = {}, squares = {}, least = start, greatest = start;
  for (int pixel = walk.first + walk.side; within(pixel, walk.last); pixel += walk.abreast) {
    const Eight v = load_eight(x + size_t(pixel) * p.channels + walk.c);
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
      const float away = v.v[i] - start.v[i];
      sum.v[i] += away;
      squares.v[i] = fmaf(away, away, squares.v[i]);
      least.v[i] = fminf(least.v[i], v.v[i]);
      greatest.v[i] = fmaxf(greatest.v[i], v.v[i]);
    }
  }
  // Shared memory: four arrays of [abreast, channels].
  float *const sums = reinterpret_cast<float *>(shared_memory());
  const int size = walk.abreast * p.channels, at = walk.side * p.channels + walk.c;
#pragma unroll
  for (int i = 0; i < VECTOR; i++) {
    sums[at + i] = sum.v[i];
    sums[size + at + i] = squares.v[i];
    sums[2 * size + at + i] = least.v[i];
    sums[3 * size + at + i] = greatest.v[i];
  }
  __syncthreads();
  // Each channel's mean and squared deviations, over sum and squares.
  const float count = float(walk.last - walk.first);
  for (int c = int(threadIdx.x); within(c, p.channels); c += int(blockDim.x)) {
    float s = sums[c], q = sums[size + c], low = sums[2 * size + c], high = sums[3 * size + c];
    for (int side = 1; side < walk.abreast; side++) {
      const int other = side * p.channels + c;
      s += sums[other], q += sums[size + other];
      low = fminf(low, sums[2 * size + other]), high = fmaxf(high, sums[3 * size + other]);
    }
    sums[c] = to_float(x[size_t(walk.first) * p.channels + c]) + s / count;
    sums[size + c] = fmaxf(q - SEEDED(VALUE, s * s / count, 0.0f), 0.0f);
    if (!p.out_scales) continue;
    float *const extremes = space.extremes + (size_t(blockIdx.x) * p.channels + c) * 2;
    extremes[0] = low, extremes[1] = high;
  }
  __syncthreads();
  const int width = p.channels / p.groups;
  for (int g = int(threadIdx.x); within(g, p.groups); g += int(blockDim.x)) {
    const float *const means = sums + g * width, *const within_channel = sums + size + g * width;
    float away = 0.0f;
    for (int i = 1; i < width; i++) away += means[i] - means[0];
    const float mean = means[0] + away / float(width);
    float total = 0.0f;
    for (int i = 0; i < width; i++) total += within_channel[i] + count * (means[i] - mean) * (means[i] - mean);
    float *const moments = space.moments + (size_t(blockIdx.x) * p.groups + g) * 2;
    moments[0] = mean, moments[1] = total;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *space.largest = 0;
}

template <class T> DEVICE void group_norm_table(const GroupNorm &p) {
  const int chunk_size = group_norm_chunk(p.pixels);
  const int chunks = (p.pixels + chunk_size - 1) / chunk_size, g = int(blockIdx.x), width = p.channels / p.groups;
  const Workspace space(p, chunks, int(blockIdx.y));
  const int lane = int(threadIdx.x) % 32;
  // Every warp for itself, to the same result.
  auto moment = [&](int chunk, int which) { return space.moments[(size_t(chunk) * p.groups + g) * 2 + which]; };
  auto count = [&](int chunk) { return float(min(chunk_size, p.pixels - chunk * chunk_size)); };
  const float start = moment(0, 0);
  float away = 0.0f;
  for (int chunk = lane; within(chunk, chunks); chunk += 32) away += count(chunk) * (moment(chunk, 0) - start);
  const float mean = start + warp_sum(away) / float(p.pixels);
  float squares = 0.0f;
  for (int chunk = lane; within(chunk, chunks); chunk += 32) {
    const float d = moment(chunk, 0) - mean;
    squares += moment(chunk, 1) + SEEDED(VALUE, count(chunk) * float(width) * d * d, 0.0f);
  }
  const float variance = warp_sum(squares) / (float(p.pixels) * float(width)), inverse = 1.0f / sqrtf(variance + SEEDED(VALUE, p.eps, 0.0f));
  uint32_t largest = 0;
  for (int i = int(threadIdx.x); within(i, width); i += GROUP_NORM_TABLE_THREADS) {
    const int c = g * width + i;
    const float scale = inverse * p.weight[c], shift = p.bias[SEEDED(PLACE, c, g)];
    space.table[c] = mean, space.table[p.channels + c] = scale, space.table[2 * p.channels + c] = shift;
    if (!p.out_scales) continue;
    float low = space.extremes[2 * c], high = space.extremes[2 * c + 1];
    for (int chunk = 1; chunk < chunks; chunk++) {
      const float *const extremes = space.extremes + (size_t(chunk) * p.channels + c) * 2;
      low = fminf(low, extremes[0]), high = fmaxf(high, extremes[1]);
    }
    float a = fmaf(low - mean, scale, shift), b = fmaf(high - mean, scale, shift);
    if (p.silu) {
      if (fminf(a, b) < SILU_LEAST_AT && fmaxf(a, b) > SILU_LEAST_AT) largest = max(largest, magnitude_bits(SEEDED(VALUE, SILU_LEAST, 0.0f)));
      a = silu(a), b = silu(b);
    }
    largest = max(largest, max(magnitude_bits(a), magnitude_bits(b)));
  }
  if (p.out_scales) {
    largest = warp_max(largest);
    if (lane == 0) atomicMax(space.largest, largest);
  }
}

template <class T, bool QUANTISED> DEVICE void group_norm_apply(const GroupNorm &p) {
  const Walk walk(p);
  const Workspace space(p, int(gridDim.x), int(blockIdx.y));
  const size_t image = size_t(blockIdx.y) * p.pixels * p.channels;
  Eight mean, scale, shift;
#pragma unroll
  for (int i = 0; i < VECTOR; i++) {
    mean.v[i] = space.table[walk.c + i];
    scale.v[i] = space.table[p.channels + walk.c + i];
    shift.v[i] = space.table[2 * p.channels + walk.c + i];
  }
  const Quantiser quantiser = QUANTISED ? Quantiser(*space.largest) : Quantiser();
  for (int pixel = walk.first + walk.side; within(pixel, walk.last); pixel += walk.abreast) {
    const size_t at = image + size_t(pixel) * p.channels + walk.c;
    Eight v = load_eight(static_cast<const T *>(p.x) + at);
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
      v.v[i] = fmaf(v.v[i] - mean.v[i], scale.v[i], shift.v[i]);
      if (p.silu) v.v[i] = silu(v.v[i]);
    }
    if constexpr (QUANTISED)
      quantiser.store(static_cast<int8_t *>(p.out) + at, v);
    else
      store_eight(static_cast<T *>(p.out) + at, v);
  }
  if (QUANTISED && blockIdx.x == 0 && threadIdx.x == 0) p.out_scales[blockIdx.y] = quantiser.scale;
}

KERNEL(GROUP_NORM_MAX_CHANNELS / VECTOR, 2) group_norm_stats_f16(const GroupNorm p) { group_norm_stats<F16>(p); }
KERNEL(GROUP_NORM_MAX_CHANNELS / VECTOR, 2) group_norm_stats_bf16(const GroupNorm p) { group_norm_stats<BF16>(p); }
KERNEL(GROUP_NORM_TABLE_THREADS, 4) group_norm_table_f16(const GroupNorm p) { group_norm_table<F16>(p); }
KERNEL(GROUP_NORM_TABLE_THREADS, 4) group_norm_table_bf16(const GroupNorm p) { group_norm_table<BF16>(p); }
KERNEL(GROUP_NORM_MAX_CHANNELS / VECTOR, 2) group_norm_apply_f16(const GroupNorm p) { group_norm_apply<F16, false>(p); }
KERNEL(GROUP_NORM_MAX_CHANNELS / VECTOR, 2) group_norm_apply_bf16(const GroupNorm p) { group_norm_apply<BF16, false>(p); }
KERNEL(GROUP_NORM_MAX_CHANNELS / VECTOR, 2) group_norm_apply_int8_f16(const GroupNorm p) { group_norm_apply<F16, true>(p); }
KERNEL(GROUP_NORM_MAX_CHANNELS / VECTOR, 2) group_norm_apply_int8_bf16(const GroupNorm p) { group_norm_apply<BF16, true>(p); }
