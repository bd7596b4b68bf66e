// model_input and sampler_step: bit for bit with the same sums in float32, one after another, each product rounded with its sum.
#include "../sampler.cu"
#include "harness.h"

using namespace test;

static const Entries<ModelInput> INPUTS = {{"model_input", model_input}};
static const Entries<SamplerStep> STEPS = {{"sampler_step", sampler_step}};

static void input_case(int count, int rows) {
  run(text("model_input count %d rows %d", count, rows), [&](Complaints &complain) {
    Random random(count);
    const auto latents = random_floats(random, count, -9, 9);
    std::vector<float> numbers(STEP_NUMBERS, NAN), want(size_t(rows) * count), out(want.size(), NAN);
    numbers[INPUT_SCALE] = 0.37f;
    for (size_t i = 0; i < want.size(); i++) want[i] = latents[i % count] * 0.37f;
    const ModelInput p = {latents.data(), numbers.data(), out.data(), count, rows};
    launch(INPUTS, launch_model_input(&p), p, 1, complain);
    same_bits("input", out, want, complain);
  });
}

// Of `zeros`, a set of StepNumber, the coefficients are 0, and what they would weigh is NaN.
static void step_case(int count, int rows, float limit, unsigned zeros, bool hostile = false) {
  run(text("sampler_step count %d rows %d limit %g zeros %x%s", count, rows, limit, zeros, hostile ? " hostile" : ""), [&](Complaints &complain) {
    Random random(count * 7 + zeros);
    const auto given = [&](StepNumber weight) {
      return zeros >> weight & 1 ? std::vector<float>(count, NAN) : random_floats(random, count, -9, 9);
    };
    auto latents = random_floats(random, count, -9, 9), output = random_floats(random, size_t(rows) * count, -4, 4);
    const auto previous = given(NEXT_PREVIOUS_X0), noise = given(NEXT_NOISE);
    auto numbers = random_floats(random, STEP_NUMBERS, -3, 3);
    numbers[X0_LIMIT] = limit;
    for (int i = 0; i < STEP_NUMBERS; i++)
      if (zeros >> i & 1) numbers[i] = 0;
    if (hostile) {
      output[0] = NAN;
      latents[count - 1] = INFINITY;
    }
    std::vector<float> x0(count), next(count);
    uint32_t bad = 0;
    float largest = 0;
    for (int i = 0; i < count; i++) {
      float o = output[i];
      if (rows == 2) o = fmaf(output[count + i] - o, numbers[GUIDANCE], o);
      float x = numbers[X0_LATENTS] * latents[i];
      x = fmaf(numbers[X0_OUTPUT], o, x);
      if (x > limit) x = limit;
      if (x < -limit) x = -limit;
      float sum = 0;
      const std::pair<int, float> terms[] = {
          {NEXT_LATENTS, latents[i]}, {NEXT_OUTPUT, o}, {NEXT_X0, x}, {NEXT_PREVIOUS_X0, previous[i]}, {NEXT_NOISE, noise[i]}};
      for (auto [weight, value] : terms)
        if (numbers[weight] != 0) sum = fmaf(numbers[weight], value, sum);
      x0[i] = x, next[i] = sum;
      if (std::isfinite(sum)) largest = std::max(largest, fabsf(sum));
      bad += !std::isfinite(sum);
    }
    std::vector<float> got_x0(count, NAN), got_next(count, NAN);
    std::vector<uint32_t> sentinel = {0, 0}, expected = {bits_of(largest), bad};
    const SamplerStep p = {latents.data(), output.data(), previous.data(), zeros >> NEXT_NOISE & 1 ? nullptr : noise.data(), numbers.data(),
                           got_next.data(), got_x0.data(), sentinel.data(), count, rows};
    launch(STEPS, launch_sampler_step(&p), p, 2, complain);
    if (hostile != (bad > 0)) complain("the case does not do what it is for");
    if (hostile) {
      // NaN has many bits.
      for (auto *v : {&x0, &next, &got_x0, &got_next})
        for (float &x : *v)
          if (std::isnan(x)) x = NAN;
    }
    same_bits("x0", got_x0, x0, complain);
    same_bits("next", got_next, next, complain);
    same_bits("sentinel", sentinel, expected, complain);
  });
}

int main() {
  for (int rows : {1, 2})
    for (int count : {1, 255, 1024}) {
      input_case(count, rows);
      step_case(count, rows, INFINITY, 0);
      step_case(count, rows, 2, 1 << NEXT_LATENTS | 1 << NEXT_NOISE);
      step_case(count, rows, INFINITY, 1 << NEXT_OUTPUT | 1 << NEXT_PREVIOUS_X0 | 1 << NEXT_NOISE);
      step_case(count, rows, 2, 0, true);
    }
  if (!small_only) {
    input_case(4 * 128 * 128 + 3, 2);
    step_case(4 * 128 * 128 + 3, 2, INFINITY, 1 << NEXT_X0);
  }
  return finish();
}
