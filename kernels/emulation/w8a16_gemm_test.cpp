// w8a16_gemm against f64, beside a plain path that dequantises the weights to T and rounds after each operation.
#include "../w8a16_gemm.cu"
#include "products.h"

using namespace test;

static const Entries<Gemm> ENTRIES = {
    {"w8a16_gemm_f16_128", w8a16_gemm_f16_128},
    {"w8a16_gemm_f16_64", w8a16_gemm_f16_64},
    {"w8a16_gemm_bf16_128", w8a16_gemm_bf16_128},
    {"w8a16_gemm_bf16_64", w8a16_gemm_bf16_64},
    {"w8a16_gemm_geglu_f16_128", w8a16_gemm_geglu_f16_128},
    {"w8a16_gemm_geglu_f16_64", w8a16_gemm_geglu_f16_64},
    {"w8a16_gemm_geglu_bf16_128", w8a16_gemm_geglu_bf16_128},
    {"w8a16_gemm_geglu_bf16_64", w8a16_gemm_geglu_bf16_64},
};

template <class T> void gemm(int m, int n, int k, int which, bool geglu, int processors) {
  run(text("w8a16_gemm%s %s m %d n %d k %d tile %d operands %d", geglu ? "_geglu" : "", NAME<T>, m, n, k, processors == 1 ? 128 : 64, which),
      [&](Complaints &complain) {
        Random random(m * 1000003 + n * 1009 + k + which);
        const auto a = random_normal<T>(random, size_t(m) * k);
        const auto w = random_int8(random, size_t(geglu ? 2 * n : n) * k);
        const Epilogue<T> e = random_epilogue<T>(random, m, n, which, geglu, 74 * sqrt(double(k)));
        auto out = unwritten<T>(size_t(m) * n);
        const Gemm p = {a.data(), w.data(), k, e.output(out)};
        const Launch geometry = geglu ? launch_w8a16_gemm_geglu(&p, DTYPE<T>, processors) : launch_w8a16_gemm(&p, DTYPE<T>, processors);
        launch(ENTRIES, geometry, p, which * 7919, complain);
        check_product(e, out, [&](int i, int j) {
          double s = 0;
          for (int x = 0; x < k; x++) s += wide(a[size_t(i) * k + x]) * w[size_t(j) * k + x];
          return s;
        }, complain);
      });
}

int main() {
  auto both = [](int m, int n, int k, int which, bool geglu, int processors) {
    gemm<F16>(m, n, k, which, geglu, processors);
    gemm<BF16>(m, n, k, which, geglu, processors);
  };
  both(1, 1, 16, 1, false, MANY_PROCESSORS);
  both(3, 5, 48, 7, false, MANY_PROCESSORS);
  both(65, 66, 112, 5, false, MANY_PROCESSORS);
  both(66, 35, 80, 7, true, MANY_PROCESSORS);
  both(130, 67, 112, 7, false, FEW_PROCESSORS);
  both(66, 124, 48, 4, false, FEW_PROCESSORS);
  both(70, 67, 112, 7, true, FEW_PROCESSORS);
  for (int processors : {MANY_PROCESSORS, FEW_PROCESSORS}) both(2, 6, 48, 4, true, processors);
  if (!small_only) {
    both(129, 131, 176, 7, false, FEW_PROCESSORS);
    both(131, 66, 144, 5, true, FEW_PROCESSORS);
    both(2, 2560, 32, 4, false, MANY_PROCESSORS);
    both(5, 33, 5120, 1, false, MANY_PROCESSORS);
    both(9, 40, 1280, 5, true, MANY_PROCESSORS);
    Random random(78);
    for (int i = 0; i < 8; i++)
      both(random.integer(1, 140), random.integer(1, 140), 16 * random.integer(1, 20), random.integer(0, 7), random.integer(0, 3) == 0,
           random.integer(0, 1) ? FEW_PROCESSORS : MANY_PROCESSORS);
  }
  return finish();
}
