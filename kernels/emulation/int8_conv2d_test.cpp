// int8_conv2d against exact integer sums, bit for bit.
#include "../int8_conv2d.cu"
#include "convolutions.h"

using namespace test;

static const Entries<Conv2d> ENTRIES = {
    {"int8_conv2d_f16_128", int8_conv2d_f16_128},
    {"int8_conv2d_f16_64", int8_conv2d_f16_64},
    {"int8_conv2d_bf16_128", int8_conv2d_bf16_128},
    {"int8_conv2d_bf16_64", int8_conv2d_bf16_64},
};

template <class T> void convolution(const ConvShape &s) {
  run(text("int8_conv2d %s %s", NAME<T>, s.text().c_str()), [&](Complaints &complain) {
    Random random(s.rows() * 1009 + s.channels + s.outputs);
    const int k = s.kernel * s.kernel * s.channels, pixels = s.out_height() * s.out_width();
    const auto x = random_int8(random, s.values());
    const auto w = random_int8(random, size_t(s.outputs) * k);
    Epilogue<T> e = random_epilogue<T>(random, s.rows(), s.outputs, s.which, false, 5500 * sqrt(double(k)));
    e.rows_per_scale = pixels;
    e.row_scales = random_floats(random, s.batch, 0.5, 2);
    if (!e.image_bias.empty()) {
      e.rows_per_image = pixels;
      e.image_bias = random_normal<T>(random, size_t(s.batch) * s.outputs);
    }
    auto out = unwritten<T>(size_t(e.m) * e.n);
    const Conv2d p = s.parameters(x.data(), w.data(), e.output(out));
    launch(ENTRIES, launch_int8_conv2d(&p, DTYPE<T>, s.processors), p, s.which * 7919, complain);
    std::vector<T> want;
    for (int i = 0; i < e.m; i++)
      for (int j = 0; j < e.n; j++)
        want.push_back(e.bits(convolve<int64_t>(s, i, j, [&](size_t a, size_t b) { return x[a] * w[b]; }), i, j));
    same_bits("output", out, want, complain);
  });
}

int main() {
  auto both = [](const ConvShape &s) {
    convolution<F16>(s);
    convolution<BF16>(s);
  };
  both({1, 1, 1, 16, 1, 1, 1, 0, 0, 0, 1, MANY_PROCESSORS});
  both({2, 5, 7, 16, 9, 3, 1, 1, 1, 0, 7, MANY_PROCESSORS});
  both({1, 6, 5, 48, 10, 3, 2, 0, 1, 0, 5, MANY_PROCESSORS});
  both({2, 5, 8, 16, 6, 3, 1, 1, 1, 1, 4, MANY_PROCESSORS});
  both({1, 4, 6, 16, 3, 3, 1, 1, 1, 0, 0, MANY_PROCESSORS, 1});
  both({2, 8, 10, 16, 67, 3, 1, 1, 1, 0, 7, FEW_PROCESSORS, 1});
  both({2, 13, 11, 16, 6, 3, 2, 1, 1, 1, 4, FEW_PROCESSORS});
  if (!small_only) {
    both({2, 9, 9, 32, 130, 3, 1, 1, 1, 0, 7, FEW_PROCESSORS});
    both({1, 13, 11, 64, 64, 3, 2, 1, 1, 0, 1, FEW_PROCESSORS});
    both({1, 7, 9, 80, 33, 1, 2, 0, 0, 0, 3, MANY_PROCESSORS});
    both({3, 4, 4, 320, 24, 1, 1, 0, 0, 0, 5, FEW_PROCESSORS});
    both({1, 3, 3, 2560, 8, 3, 1, 1, 1, 0, 1, MANY_PROCESSORS});
    both({1, 16, 15, 16, 66, 3, 1, 1, 1, 1, 6, FEW_PROCESSORS});
    Random random(81);
    for (int i = 0; i < 6; i++) {
      const int kernel = random.integer(0, 2) ? 3 : 1;
      convolution<F16>({random.integer(1, 3), random.integer(2, 12), random.integer(2, 12), 16 * random.integer(1, 6), random.integer(1, 70), kernel, random.integer(1, 2), kernel / 2, kernel / 2, random.integer(0, 1), random.integer(0, 7), random.integer(0, 1) ? FEW_PROCESSORS : MANY_PROCESSORS});
    }
  }
  return finish();
}
