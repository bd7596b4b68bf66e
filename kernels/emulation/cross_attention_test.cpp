// cross_attention against f64, beside a plain path that writes queries, scores and weights in T.
#include "../cross_attention.cu"
#include "attentions.h"

using namespace test;

static const Entries<CrossAttention> ENTRIES = {
    {"cross_attention_f16", cross_attention_f16},
    {"cross_attention_bf16", cross_attention_bf16},
    {"w8a16_cross_attention_f16", w8a16_cross_attention_f16},
    {"w8a16_cross_attention_bf16", w8a16_cross_attention_bf16},
};

struct Shape {
  int batch, kv_batch, heads, queries, keys, channels, rows_per_scale;
};

// Activations, and their deviation.
template <class X> std::vector<X> activations(Random &random, size_t count) { return random_normal<X>(random, count); }
template <> std::vector<int8_t> activations<int8_t>(Random &random, size_t count) { return random_int8(random, count, -127, 127); }
template <class X> constexpr double DEVIATION = std::is_same_v<X, int8_t> ? 73 : 1;

double value(int8_t x) { return x; }
template <class T> double value(T x) { return wide(x); }

// X: the activations' type, int8 or T.
template <class T, class X> void cross(const Shape &s) {
  constexpr bool int8 = std::is_same_v<X, int8_t>;
  run(text("%scross_attention %s batch %d/%d heads %d queries %d keys %d channels %d", int8 ? "" : "w8a16_", NAME<T>, s.batch, s.kv_batch, s.heads, s.queries, s.keys, s.channels),
      [&](Complaints &complain) {
        Random random(s.queries * 1009 + s.keys + s.channels);
        const int width = s.heads * HEAD_DIM, stride = 2 * width;  // keys and values from one product
        const size_t rows = size_t(s.batch) * s.queries;
        const auto x = activations<X>(random, rows * s.channels);
        const auto wq = random_int8(random, size_t(width) * s.channels, -127, 127);
        const double deviation = DEVIATION<X> * 73 * sqrt(double(s.channels));  // of the sums
        const auto x_scales = random_floats(random, int8 ? (rows + s.rows_per_scale - 1) / s.rows_per_scale : 0, 0.5, 2);
        const auto wq_scales = random_floats(random, width, 0.5 / deviation, 2 / deviation);
        const auto kv = random_normal<T>(random, size_t(s.kv_batch) * s.keys * stride);
        auto out = unwritten<T>(rows * width);
        const CrossAttention p = {x.data(), int8 ? x_scales.data() : nullptr, wq.data(), wq_scales.data(), kv.data(), kv.data() + width, out.data(), s.batch, s.kv_batch, s.heads, s.queries, s.keys, s.channels, stride, s.rows_per_scale};
        launch(ENTRIES, launch_cross_attention(&p, DTYPE<T>), p, s.queries, complain);

        std::vector<double> plain, exact;
        for (size_t row = 0; row < rows; row++)
          for (int h = 0; h < s.heads; h++) {
            double query[HEAD_DIM], rounded[HEAD_DIM];
            for (int d = 0; d < HEAD_DIM; d++) {
              double sum = 0;
              for (int c = 0; c < s.channels; c++) sum += value(x[row * s.channels + c]) * wq[(size_t(h) * HEAD_DIM + d) * s.channels + c];
              query[d] = sum * (int8 ? x_scales[row / s.rows_per_scale] : 1) * wq_scales[h * HEAD_DIM + d];
              rounded[d] = round_to<T>(query[d]);
            }
            const int b = int(row) / s.queries;
            const T *k = kv.data() + size_t(b / (s.batch / s.kv_batch)) * s.keys * stride + h * HEAD_DIM;
            attend(rounded, k, k + width, s.keys, stride, round_to<T>, plain);
            attend(query, k, k + width, s.keys, stride, exactly, exact);
          }
        close_enough("output", out, plain, exact, complain);
      });
}

int main() {
  std::vector<Shape> shapes = {{1, 1, 1, 1, 1, 16, 1}, {1, 1, 1, 35, 77, 144, 1}, {1, 1, 1, 17, 154, 64, 17}, {4, 2, 2, 9, 20, 48, 3}};
  const std::vector<Shape> large = {
      {2, 1, 2, 130, 77, 320, 1}, {2, 2, 10, 9, 77, 640, 1}, {1, 1, 20, 3, 77, 1280, 1}, {4, 2, 1, 129, 231, 80, 3}, {1, 1, 3, 128, 80, 192, 1}, {1, 1, 1, 65, 81, 176, 1},
  };
  if (!small_only) shapes.insert(shapes.end(), large.begin(), large.end());
  for (const Shape &s : shapes) {
    cross<F16, int8_t>(s);
    cross<BF16, int8_t>(s);
    cross<F16, F16>(s);
    cross<BF16, BF16>(s);
  }
  Random random(80);
  for (int i = 0; i < (small_only ? 0 : 4); i++) {
    const Shape s = {2, random.integer(1, 2), random.integer(1, 3), random.integer(1, 200), random.integer(1, 240), 16 * random.integer(1, 20), 1};
    cross<F16, int8_t>(s);
    cross<F16, F16>(s);
  }
  return finish();
}
