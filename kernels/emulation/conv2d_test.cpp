// conv2d against f64, beside the plain path.
#include "../conv2d.cu"
#include "convolutions.h"

using namespace test;

static const Entries<Conv2d> ENTRIES = {
    {"conv2d_f16_128", conv2d_f16_128},   {"conv2d_f16_64", conv2d_f16_64},   {"conv2d_gather_f16_64", conv2d_gather_f16_64},
    {"conv2d_bf16_128", conv2d_bf16_128}, {"conv2d_bf16_64", conv2d_bf16_64}, {"conv2d_gather_bf16_64", conv2d_gather_bf16_64},
};

// `amplitude` 1 keeps outputs near 1; a large one overflows float16 at some places.
template <class T> void convolution(const ConvShape &s, double amplitude) {
  run(text("conv2d %s %s amplitude %g", NAME<T>, s.text().c_str(), amplitude), [&](Complaints &complain) {
    Random random(s.rows() * 1009 + s.channels + s.outputs);
    const int k = s.kernel * s.kernel * s.channels, pixels = s.out_height() * s.out_width();
    const auto x = random_normal<T>(random, s.values(), amplitude);
    const auto w = random_normal<T>(random, size_t(s.outputs) * k, 1 / sqrt(double(k)));
    Epilogue<T> e = random_epilogue<T>(random, s.rows(), s.outputs, s.which, false, 1);
    e.col_scales.clear();
    if (!e.image_bias.empty()) {
      e.rows_per_image = pixels;
      e.image_bias = random_normal<T>(random, size_t(s.batch) * s.outputs);
    }
    auto out = unwritten<T>(size_t(e.m) * e.n);
    const Conv2d p = s.parameters(x.data(), w.data(), e.output(out));
    launch(ENTRIES, launch_conv2d(&p, DTYPE<T>, s.processors), p, s.which * 7919, complain);

    const auto overflowed = std::count_if(out.begin(), out.end(), [](T v) { return std::isinf(wide(v)); });
    if ((amplitude > 1000) != (overflowed > 0)) complain("%d values are infinite", int(overflowed));
    if (amplitude > 1000) return;
    check_product(e, out, [&](int i, int j) {
      return convolve<double>(s, i, j, [&](size_t a, size_t b) { return wide(x[a]) * wide(w[b]); });
    }, complain);
  });
}

int main() {
  auto both = [](const ConvShape &s) {
    convolution<F16>(s, 1);
    convolution<BF16>(s, 1);
  };
  both({1, 1, 1, 8, 1, 1, 1, 0, 0, 0, 1, MANY_PROCESSORS});
  both({2, 5, 7, 8, 9, 3, 1, 1, 1, 0, 7, MANY_PROCESSORS});
  both({1, 5, 8, 4, 10, 3, 1, 1, 1, 0, 5, MANY_PROCESSORS, 1});
  both({2, 6, 5, 3, 5, 3, 2, 0, 1, 0, 7, MANY_PROCESSORS});
  both({2, 6, 5, 8, 6, 3, 1, 1, 1, 1, 4, MANY_PROCESSORS});
  convolution<F16>({1, 4, 5, 8, 7, 3, 1, 1, 1, 0, 0, MANY_PROCESSORS}, 40000);
  both({1, 4, 6, 8, 3, 3, 1, 1, 1, 0, 0, MANY_PROCESSORS, 1});
  both({2, 8, 10, 8, 67, 3, 1, 1, 1, 0, 7, FEW_PROCESSORS, 1});
  both({2, 13, 11, 8, 6, 3, 2, 1, 1, 1, 4, FEW_PROCESSORS});
  if (!small_only) {
    both({1, 9, 13, 32, 130, 3, 1, 1, 1, 0, 7, FEW_PROCESSORS});
    both({1, 12, 12, 128, 3, 3, 1, 1, 1, 0, 1, FEW_PROCESSORS});
    both({1, 5, 5, 512, 40, 3, 1, 1, 1, 0, 5, MANY_PROCESSORS});
    both({2, 6, 6, 64, 33, 1, 1, 0, 0, 0, 3, FEW_PROCESSORS});
    both({1, 9, 7, 24, 18, 3, 2, 0, 1, 0, 0, MANY_PROCESSORS});
    both({1, 13, 10, 16, 70, 3, 1, 1, 1, 1, 2, FEW_PROCESSORS});
    Random random(82);
    for (int i = 0; i < 5; i++) {
      const int kernel = random.integer(0, 2) ? 3 : 1;
      both({random.integer(1, 2), random.integer(2, 10), random.integer(2, 10), random.integer(1, 40), random.integer(1, 70), kernel, random.integer(1, 2), kernel / 2, kernel / 2, random.integer(0, 1), random.integer(0, 7), random.integer(0, 1) ? FEW_PROCESSORS : MANY_PROCESSORS});
    }
  }
  return finish();
}
