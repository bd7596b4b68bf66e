// int8_gemm against exact integer sums: bit for bit; GEGLU against f64.
#include "../int8_gemm.cu"
#include "products.h"

using namespace test;

static const Entries<Gemm> ENTRIES = {
    {"int8_gemm_f16_128", int8_gemm_f16_128},
    {"int8_gemm_f16_64", int8_gemm_f16_64},
    {"int8_gemm_bf16_128", int8_gemm_bf16_128},
    {"int8_gemm_bf16_64", int8_gemm_bf16_64},
    {"int8_gemm_geglu_f16_128", int8_gemm_geglu_f16_128},
    {"int8_gemm_geglu_f16_64", int8_gemm_geglu_f16_64},
    {"int8_gemm_geglu_bf16_128", int8_gemm_geglu_bf16_128},
    {"int8_gemm_geglu_bf16_64", int8_gemm_geglu_bf16_64},
};

struct Shape {
  int m, n, k, which;
  bool geglu;
  int processors;
  bool extreme;  // every factor −128
};

template <class T> void gemm(const Shape &s) {
  const auto [m, n, k, which, geglu, processors, extreme] = s;
  run(text("int8_gemm%s %s m %d n %d k %d tile %d operands %d%s", geglu ? "_geglu" : "", NAME<T>, m, n, k, processors == 1 ? 128 : 64, which, extreme ? " extreme" : ""),
      [&](Complaints &complain) {
        Random random(m * 1000003 + n * 1009 + k + which);
        const auto a = random_int8(random, size_t(m) * k, -128, extreme ? -128 : 127);
        const auto w = random_int8(random, size_t(geglu ? 2 * n : n) * k, -128, extreme ? -128 : 127);
        Epilogue<T> e = random_epilogue<T>(random, m, n, which, geglu, extreme ? 16384.0 * k : 5500 * sqrt(double(k)));
        e.rows_per_scale = which % 2 ? 1 : 3;
        e.row_scales = random_floats(random, (m + e.rows_per_scale - 1) / e.rows_per_scale, 0.5, 2);
        auto out = unwritten<T>(size_t(m) * n);
        const Gemm p = {a.data(), w.data(), k, e.output(out)};
        const Launch geometry = geglu ? launch_int8_gemm_geglu(&p, DTYPE<T>, processors) : launch_int8_gemm(&p, DTYPE<T>, processors);
        launch(ENTRIES, geometry, p, which * 7919, complain);
        auto sum = [&](int i, int j) {
          int64_t s = 0;
          for (int x = 0; x < k; x++) s += a[size_t(i) * k + x] * w[size_t(j) * k + x];
          return s;
        };
        if (geglu) return check_product(e, out, sum, complain);
        std::vector<T> want;
        for (int i = 0; i < m; i++)
          for (int j = 0; j < n; j++) want.push_back(e.bits(sum(i, j), i, j));
        same_bits("output", out, want, complain);
      });
}

int main() {
  std::vector<Shape> shapes = {
      {1, 1, 16, 1, false, MANY_PROCESSORS, false},   {3, 5, 48, 7, false, MANY_PROCESSORS, false},
      {65, 66, 208, 5, false, MANY_PROCESSORS, false}, {1, 9, 336, 7, true, MANY_PROCESSORS, false},
      {67, 36, 80, 7, true, MANY_PROCESSORS, false},   {130, 67, 208, 7, false, FEW_PROCESSORS, false},
      {66, 124, 80, 4, false, FEW_PROCESSORS, false},  {70, 67, 208, 7, true, FEW_PROCESSORS, false},
      {2, 6, 80, 4, true, FEW_PROCESSORS, false},
  };
  const std::vector<Shape> large = {
      {129, 131, 272, 7, false, FEW_PROCESSORS, false}, {130, 126, 96, 6, false, FEW_PROCESSORS, false},
      {2, 200, 64, 0, false, FEW_PROCESSORS, false},    {131, 66, 144, 5, true, FEW_PROCESSORS, false},
      {5, 10240, 32, 4, false, MANY_PROCESSORS, false}, {33, 70, 5120, 5, false, MANY_PROCESSORS, false},
      {17, 9, 5120, 1, false, MANY_PROCESSORS, true},   {154, 64, 2048, 0, false, FEW_PROCESSORS, false},
      {9, 40, 1280, 5, true, MANY_PROCESSORS, false},
  };
  if (!small_only) shapes.insert(shapes.end(), large.begin(), large.end());
  for (const Shape &s : shapes) {
    gemm<F16>(s);
    gemm<BF16>(s);
  }
  Random random(77);
  for (int i = 0; i < (small_only ? 0 : 12); i++) {
    const bool geglu = random.integer(0, 3) == 0;
    gemm<F16>({random.integer(1, 140), random.integer(1, 140), 16 * random.integer(1, 30), random.integer(0, 7), geglu, random.integer(0, 1) ? FEW_PROCESSORS : MANY_PROCESSORS, false});
  }
  return finish();
}
