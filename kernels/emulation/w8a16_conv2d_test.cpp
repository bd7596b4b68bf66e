// w8a16_conv2d against f64, beside a plain path that rounds after each operation.
#include "../w8a16_conv2d.cu"
#include "convolutions.h"

using namespace test;

static const Entries<Conv2d> ENTRIES = {
    {"w8a16_conv2d_f16_128", w8a16_conv2d_f16_128},
    {"w8a16_conv2d_f16_64", w8a16_conv2d_f16_64},
    {"w8a16_conv2d_gather_f16_64", w8a16_conv2d_gather_f16_64},
    {"w8a16_conv2d_bf16_128", w8a16_conv2d_bf16_128},
    {"w8a16_conv2d_bf16_64", w8a16_conv2d_bf16_64},
    {"w8a16_conv2d_gather_bf16_64", w8a16_conv2d_gather_bf16_64},
};

template <class T> void convolution(const ConvShape &s) {
  run(text("w8a16_conv2d %s %s", NAME<T>, s.text().c_str()), [&](Complaints &complain) {
    Random random(s.rows() * 1009 + s.channels + s.outputs);
    const int k = s.kernel * s.kernel * s.channels;
    const auto x = random_normal<T>(random, s.values());
    const auto w = random_int8(random, size_t(s.outputs) * k);
    Epilogue<T> e = random_epilogue<T>(random, s.rows(), s.outputs, s.which, false, 74 * sqrt(double(k)));
    if (!e.image_bias.empty()) {
      e.rows_per_image = s.out_height() * s.out_width();
      e.image_bias = random_normal<T>(random, size_t(s.batch) * s.outputs);
    }
    auto out = unwritten<T>(size_t(e.m) * e.n);
    const Conv2d p = s.parameters(x.data(), w.data(), e.output(out));
    launch(ENTRIES, launch_w8a16_conv2d(&p, DTYPE<T>, s.processors), p, s.which * 7919, complain);
    check_product(e, out, [&](int i, int j) {
      return convolve<double>(s, i, j, [&](size_t a, size_t b) { return wide(x[a]) * w[b]; });
    }, complain);
  });
}

int main() {
  auto both = [](const ConvShape &s) {
    convolution<F16>(s);
    convolution<BF16>(s);
  };
  both({1, 1, 1, 16, 1, 1, 1, 0, 0, 0, 1, MANY_PROCESSORS});
  both({2, 5, 7, 16, 9, 3, 1, 1, 1, 0, 7, MANY_PROCESSORS});
  both({1, 9, 8, 32, 66, 3, 2, 0, 1, 0, 4, MANY_PROCESSORS});
  both({1, 5, 8, 4, 10, 3, 1, 1, 1, 0, 5, MANY_PROCESSORS, 1});
  both({2, 6, 5, 24, 5, 3, 2, 1, 1, 0, 7, MANY_PROCESSORS});
  both({2, 3, 4, 16, 6, 3, 1, 1, 1, 1, 4, MANY_PROCESSORS});
  both({1, 4, 6, 16, 3, 3, 1, 1, 1, 0, 0, MANY_PROCESSORS, 1});
  both({2, 8, 10, 16, 67, 3, 1, 1, 1, 0, 7, FEW_PROCESSORS, 1});
  both({2, 13, 11, 16, 6, 3, 2, 1, 1, 1, 4, FEW_PROCESSORS});
  if (!small_only) {
    both({1, 9, 13, 48, 130, 3, 1, 1, 1, 0, 7, FEW_PROCESSORS});
    both({1, 12, 12, 128, 3, 3, 1, 1, 1, 0, 1, FEW_PROCESSORS});
    both({1, 4, 4, 1280, 20, 3, 1, 1, 1, 0, 5, MANY_PROCESSORS});
    both({2, 6, 6, 2560, 33, 1, 1, 0, 0, 0, 3, FEW_PROCESSORS});
    both({2, 9, 7, 80, 18, 1, 2, 0, 0, 0, 6, MANY_PROCESSORS});
    both({1, 7, 5, 16, 70, 3, 1, 1, 1, 1, 2, FEW_PROCESSORS});
    Random random(83);
    for (int i = 0; i < 6; i++) {
      const int kernel = random.integer(0, 2) ? 3 : 1, channels = random.integer(0, 2) ? 16 * random.integer(1, 6) : random.integer(1, 40);
      both({random.integer(1, 2), random.integer(2, 10), random.integer(2, 10), channels, random.integer(1, 140), kernel, random.integer(1, 2), kernel / 2, kernel / 2, random.integer(0, 1), random.integer(0, 7), random.integer(0, 1) ? FEW_PROCESSORS : MANY_PROCESSORS});
    }
  }
  return finish();
}
