// References for the products' epilogue, shared by the tests of int8_gemm, w8a16_gemm and the convolutions.
#pragma once

#include "harness.h"

namespace test {

// An epilogue's operands; empty vectors are left out.
template <class T> struct Epilogue {
  int m, n, rows_per_scale = 1, rows_per_image = 1;
  std::vector<float> row_scales, col_scales, bias;
  std::vector<T> image_bias, residual;
  bool geglu = false;

  int columns() const { return geglu ? 2 * n : n; }

  Output output(std::vector<T> &out) const {
    auto floats = [](const std::vector<float> &v) { return static_cast<const float *>(pointer(v)); };
    return {floats(row_scales), floats(col_scales), floats(bias), pointer(image_bias), pointer(residual), out.data(), m, n, rows_per_scale, rows_per_image};
  }

  double row_scale(int i) const { return row_scales.empty() ? 1 : row_scales[i / rows_per_scale]; }
  double col_scale(int j) const { return col_scales.empty() ? 1 : col_scales[j]; }
  double added(int j) const { return bias.empty() ? 0 : bias[j]; }
  double image_added(int i, int j) const { return image_bias.empty() ? 0 : wide(image_bias[size_t(i / rows_per_image) * n + j]); }
  double residue(int i, int j) const { return residual.empty() ? 0 : wide(residual[size_t(i) * n + j]); }

  // The kernels' formula, operation by operation in float32, on an exact sum.
  T bits(int64_t sum, int i, int j) const {
    float v = fmaf(float(int32_t(sum)), float(row_scale(i)) * float(col_scale(j)), float(added(j)));
    if (!image_bias.empty()) v += float(image_added(i, j));
    if (!residual.empty()) v += float(residue(i, j));
    return rounded<T>(v);
  }

  // In f64 (round = identity), or as the plain path has it: rounded to T after each operation.
  template <class Round> double apply(double sum, double gate_sum, int i, int j, Round round) const {
    double v = round(round(sum * row_scale(i) * col_scale(j)) + added(j));
    if (geglu) {
      const double gate = round(round(gate_sum * row_scale(i) * col_scale(n + j)) + added(n + j));
      v = round(v * round(0.5 * gate * (1 + erf(gate / sqrt(2.0)))));
    }
    if (!image_bias.empty()) v = round(v + image_added(i, j));
    if (!residual.empty()) v = round(v + residue(i, j));
    return v;
  }
};

// Compares a product's output with f64; sum(i, j): the exact sum. The plain path's sums are exact, too.
template <class T, class Sum>
void check_product(const Epilogue<T> &e, const std::vector<T> &out, Sum sum, Complaints &complain) {
  std::vector<double> plain, exact;
  for (int i = 0; i < e.m; i++)
    for (int j = 0; j < e.n; j++) {
      const double s = sum(i, j), gate = e.geglu ? sum(i, e.n + j) : 0;
      plain.push_back(e.apply(s, gate, i, j, round_to<T>));
      exact.push_back(e.apply(s, gate, i, j, [](double x) { return x; }));
    }
  close_enough("output", out, plain, exact, complain);
  rounded_once("output", out, exact, 2e-5, complain);
}

// Random operands; `which` has a bit for each of bias, image bias, residual.
template <class T> Epilogue<T> random_epilogue(Random &random, int m, int n, int which, bool geglu, double sum_deviation) {
  Epilogue<T> e;
  e.m = m, e.n = n, e.geglu = geglu;
  e.col_scales = random_floats(random, e.columns(), 0.5 / sum_deviation, 2 / sum_deviation);
  if (which & 1) e.bias = random_floats(random, e.columns(), -1, 1);
  if (which & 2) {
    e.rows_per_image = (m + 2) / 3;
    e.image_bias = random_normal<T>(random, size_t(m + e.rows_per_image - 1) / e.rows_per_image * n);
  }
  if (which & 4) e.residual = random_normal<T>(random, size_t(m) * n);
  return e;
}

// Devices on which launch.h chooses the large and the small tile.
constexpr int FEW_PROCESSORS = 1, MANY_PROCESSORS = 1 << 30;

}  // namespace test
