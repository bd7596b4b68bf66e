// attention_d64 against f64, beside the plain path.
#include "../attention_d64.cu"
#include "attentions.h"

using namespace test;

static const Entries<Attention> ENTRIES = {{"attention_d64_f16", attention_d64_f16}, {"attention_d64_bf16", attention_d64_bf16}};

struct Shape {
  int batch, kv_batch, heads, queries, keys;
  bool causal, side_by_side;  // q, k and v as parts of one product's rows
  double deviation;           // of q and k: large ones give near one-hot weights
};

template <class T> void attention(const Shape &s) {
  run(text("attention_d64 %s batch %d/%d heads %d queries %d keys %d%s deviation %g", NAME<T>, s.batch, s.kv_batch, s.heads, s.queries, s.keys, s.causal ? " causal" : "", s.deviation),
      [&](Complaints &complain) {
        Random random(s.queries * 1009 + s.keys);
        const int width = s.heads * HEAD_DIM, stride = s.side_by_side ? 3 * width + 8 : width, q_stride = s.side_by_side ? stride : width + 16;
        const auto q = random_normal<T>(random, size_t(s.batch) * s.queries * q_stride, s.deviation);
        const auto kv = random_normal<T>(random, size_t(s.kv_batch) * s.keys * stride * (s.side_by_side ? 1 : 2), s.deviation);
        const T *k = kv.data(), *v = s.side_by_side ? k + width : k + kv.size() / 2;
        auto out = unwritten<T>(size_t(s.batch) * s.queries * width);
        const Attention p = {q.data(), k, v, out.data(), s.batch, s.kv_batch, s.heads, s.queries, s.keys, q_stride, stride, s.causal};
        launch(ENTRIES, launch_attention_d64(&p, DTYPE<T>), p, s.queries, complain);

        std::vector<double> plain, exact;
        for (int b = 0; b < s.batch; b++)
          for (int i = 0; i < s.queries; i++)
            for (int h = 0; h < s.heads; h++) {
              double query[HEAD_DIM];
              for (int d = 0; d < HEAD_DIM; d++) query[d] = wide(q[(size_t(b) * s.queries + i) * q_stride + h * HEAD_DIM + d]);
              const size_t at = size_t(b / (s.batch / s.kv_batch)) * s.keys * stride + h * HEAD_DIM;
              const int visible = s.causal ? i + 1 : s.keys;
              attend(query, k + at, v + at, visible, stride, round_to<T>, plain);
              attend(query, k + at, v + at, visible, stride, exactly, exact);
            }
        close_enough("output", out, plain, exact, complain);
      });
}

int main() {
  std::vector<Shape> shapes = {
      {1, 1, 1, 1, 1, false, false, 1},
      {1, 1, 1, 17, 70, false, true, 1},
      {1, 1, 1, 130, 130, true, false, 1},
      {4, 2, 2, 3, 5, false, false, 1},
  };
  const std::vector<Shape> large = {
      {1, 1, 2, 77, 77, true, true, 1},      {2, 1, 3, 100, 65, false, false, 1}, {4, 2, 1, 5, 129, false, true, 4},
      {1, 1, 1, 257, 321, false, false, 1},  {1, 1, 20, 9, 64, false, false, 1},  {1, 1, 1, 64, 1024, false, false, 1},
      {1, 1, 1, 140, 63, false, false, 16},  {1, 1, 1, 300, 300, true, false, 3}, {2, 2, 1, 128, 128, false, true, 0.1},
  };
  if (!small_only) shapes.insert(shapes.end(), large.begin(), large.end());
  for (const Shape &s : shapes) {
    attention<F16>(s);
    attention<BF16>(s);
  }
  Random random(79);
  for (int i = 0; i < (small_only ? 0 : 6); i++) {
    const int queries = random.integer(1, 200), keys = random.integer(1, 200), heads = random.integer(1, 3);
    attention<F16>({2, random.integer(1, 2), heads, queries, keys, false, random.integer(0, 1) == 1, 1});
    attention<BF16>({1, 1, heads, queries, queries, true, random.integer(0, 1) == 1, 2});
  }
  return finish();
}
