// add_rows and activation: against f64 beside the plain path.
#include "../pointwise.cu"
#include "harness.h"

using namespace test;

static const Entries<Sum> SUMS = {{"add_rows_f16", add_rows_f16}, {"add_rows_bf16", add_rows_bf16}};
static const Entries<Activation> ACTIVATIONS = {{"activation_f16", activation_f16}, {"activation_bf16", activation_bf16}};

// One rounding: the plain path's own, so the bits are the same. In place too.
template <class T> void sum_case(int parts, int repeats, int width) {
  run(text("add_rows %s parts %d repeats %d width %d", NAME<T>, parts, repeats, width), [&](Complaints &complain) {
    Random random(parts * 1031 + width);
    auto a = random_normal<T>(random, size_t(parts) * repeats * width, 2);
    const auto b = random_normal<T>(random, size_t(parts) * width, 2);
    std::vector<T> want;
    for (size_t i = 0; i < a.size(); i++)
      want.push_back(rounded<T>(wide(a[i]) + wide(b[i / width / repeats * width + i % width])));
    auto out = unwritten<T>(a.size());
    Sum p = {a.data(), b.data(), out.data(), parts, repeats, width};
    launch(SUMS, launch_add_rows(&p, DTYPE<T>), p, 1, complain);
    same_bits("sum", out, want, complain);
    p.out = a.data();
    launch(SUMS, launch_add_rows(&p, DTYPE<T>), p, 2, complain);
    same_bits("sum in place", a, want, complain);
  });
}

template <class T> void activation_case(int count, NonLinearity which) {
  run(text("activation %s count %d which %d", NAME<T>, count, which), [&](Complaints &complain) {
    Random random(count);
    auto x = random_normal<T>(random, count, 4);
    x[0] = rounded<T>(-60000), x[1] = rounded<T>(60000);
    std::vector<double> exact, plain;
    for (T v : x) {
      const double d = wide(v), gate = which == GELU ? 0.5 * (1 + erf(d / sqrt(2.0))) : 1 / (1 + exp(which == QUICK_GELU ? -1.702 * d : -d));
      exact.push_back(d * gate);
      plain.push_back(round_to<T>(d * round_to<T>(gate)));
    }
    auto out = unwritten<T>(x.size());
    const Activation p = {x.data(), out.data(), count, which};
    launch(ACTIVATIONS, launch_activation(&p, DTYPE<T>), p, 3, complain);
    // The two extremes would hide all else in a sum of squares.
    if (wide(out[0]) != 0 || wide(out[1]) != exact[1]) complain("extremes: %g %g", wide(out[0]), wide(out[1]));
    auto rest = [](auto v) { return v.erase(v.begin(), v.begin() + 2), v; };
    close_enough("output", rest(out), rest(plain), rest(exact), complain);
    rounded_once("output", rest(out), rest(exact), 2e-6, complain);
  });
}

template <class T> void all() {
  sum_case<T>(1, 1, 8);
  sum_case<T>(2, 3, 24);
  sum_case<T>(3, 5, 264);
  for (NonLinearity which : {SILU, GELU, QUICK_GELU}) activation_case<T>(8, which), activation_case<T>(2600, which);
  if (small_only) return;
  sum_case<T>(2, 300, 320);
  sum_case<T>(1, 77, 1280);
  sum_case<T>(1, 1, 60000);
  activation_case<T>(50000, SILU);
}

int main() {
  all<F16>();
  all<BF16>();
  return finish();
}
