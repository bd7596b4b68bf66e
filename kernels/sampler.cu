// model_input, sampler_step: what a denoising step does besides the network, on latents in float32.
//
// Idea: a sampler's step is a sum of five tensors with coefficients (src/scheduler/mod.rs); with guidance before it and the
//   look for NaN behind it, it is one pass. The coefficients lie in memory, not in the parameters, so that a captured
//   step serves every timestep.
// Shapes: model_input: latents [count] → [rows, count], each row latents · scale. sampler_step: latents, previous x0, noise
//   [count], output [rows, count] (two rows: negative, positive) → next latents, x0 [count], two words (launch.h).
// Memory traffic: each tensor once: 24 bytes a value with guidance and no noise.
// Replaces: a product and two copies; about a dozen products and sums; four kernels and a copy to the host for NaN.
// Proof: emulation/sampler_test.cpp, bit for bit with the sums in float32 one after another. Each product is rounded with its
//   sum only.
#include "rows.cuh"

KERNEL(POINTWISE_THREADS, 4) model_input(const ModelInput p) {
  const int i = piece();
  if (!within(i, p.count)) return;
  const float value = SEEDED(VALUE, p.latents[i] * p.numbers[INPUT_SCALE], p.latents[i] / p.numbers[INPUT_SCALE]);
  for (int row = 0; row < p.rows; row++) p.out[size_t(row) * p.count + i] = value;
}

// sum + coefficient · value, or coefficient · x[i], where there is such a term.
DEVICE float plus(float sum, float coefficient, float value) {
  const float more = fmaf(coefficient, value, sum);
  return coefficient != 0.0f ? more : sum;
}
DEVICE float plus(float sum, float coefficient, const float *x, int i) {
  return coefficient != 0.0f ? fmaf(coefficient, x[i], sum) : sum;
}

KERNEL(POINTWISE_THREADS, 4) sampler_step(const SamplerStep p) {
  const float *const n = p.numbers;
  const int i = piece();
  Watch watch;
  if (within(i, p.count)) {
    float output = p.output[i];
    if (p.rows == 2) output = fmaf(p.output[size_t(p.count) + i] - output, SEEDED(VALUE, n[GUIDANCE], n[GUIDANCE] - 1.0f), output);
    float x0 = plus(0.0f, n[X0_LATENTS], p.latents, i);
    x0 = fmaf(n[X0_OUTPUT], output, x0);
    // Comparisons, so that a NaN stays one.
    x0 = x0 > n[X0_LIMIT] ? n[X0_LIMIT] : x0 < -n[X0_LIMIT] ? -n[X0_LIMIT] : x0;
    float next = plus(0.0f, n[SEEDED(PLACE, NEXT_LATENTS, X0_LATENTS)], p.latents, i);
    next = plus(next, n[NEXT_OUTPUT], output);
    next = plus(next, n[NEXT_X0], SEEDED(VALUE, x0, output));
    next = plus(next, n[NEXT_PREVIOUS_X0], p.previous_x0, i);
    next = plus(next, n[NEXT_NOISE], p.noise, i);
    p.x0[i] = x0;
    p.next[i] = next;
    watch.see(next);
  }
  watch.report(p.sentinel);
}
