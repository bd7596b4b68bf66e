// References for attention, shared by the tests of attention_d64 and cross_attention.
#pragma once

#include "harness.h"

namespace test {

// One query against `keys` keys of a head, the first `visible` of them seen. In f64 (round = identity) or as the plain
// path has it: scores, softmax weights and output rounded to T.
template <class T, class Round>
void attend(const double *q, const T *k, const T *v, int visible, int stride, Round round, std::vector<double> &out) {
  std::vector<double> weights;
  double largest = -INFINITY, sum = 0;
  for (int key = 0; key < visible; key++) {
    double s = 0;
    for (int d = 0; d < HEAD_DIM; d++) s += q[d] * wide(k[size_t(key) * stride + d]);
    weights.push_back(round(round(s) * 0.125));
    largest = std::max(largest, weights.back());
  }
  for (double &w : weights) w = exp(w - largest), sum += w;
  for (double &w : weights) w = round(w / sum);
  for (int d = 0; d < HEAD_DIM; d++) {
    double s = 0;
    for (int key = 0; key < visible; key++) s += weights[key] * wide(v[size_t(key) * stride + d]);
    out.push_back(round(s));
  }
}

inline double exactly(double x) { return x; }

}  // namespace test
