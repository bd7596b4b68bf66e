// channels_last, channels_first and concat: bit for bit.
#include "../layout.cu"
#include "harness.h"

using namespace test;

static const Entries<Relayout> RELAYOUTS = {
    {"channels_last_f16", channels_last_f16}, {"channels_last_bf16", channels_last_bf16}, {"channels_first_f16", channels_first_f16}, {"channels_first_bf16", channels_first_bf16}};
static const Entries<Concat> CONCATS = {{"concat_f16", concat_f16}, {"concat_bf16", concat_bf16}};

template <class T> void relayout_case(int batch, int channels, int pixels) {
  run(text("relayout %s batch %d channels %d pixels %d", NAME<T>, batch, channels, pixels), [&](Complaints &complain) {
    Random random(channels * 1033 + pixels);
    const auto first = random_floats(random, size_t(batch) * channels * pixels, -3, 3);
    std::vector<T> last(first.size());
    std::vector<float> back(first.size());
    for (int b = 0; b < batch; b++)
      for (int c = 0; c < channels; c++)
        for (int p = 0; p < pixels; p++) {
          const size_t from = (size_t(b) * channels + c) * pixels + p, to = (size_t(b) * pixels + p) * channels + c;
          last[to] = rounded<T>(first[from]);
          back[from] = wide(last[to]);
        }
    auto out = unwritten<T>(first.size());
    Relayout p = {first.data(), out.data(), batch, channels, pixels};
    launch(RELAYOUTS, launch_channels_last(&p, DTYPE<T>), p, 1, complain);
    same_bits("channels last", out, last, complain);
    std::vector<float> floats(first.size(), NAN);
    p.x = last.data(), p.out = floats.data();
    launch(RELAYOUTS, launch_channels_first(&p, DTYPE<T>), p, 2, complain);
    same_bits("channels first", floats, back, complain);
  });
}

template <class T> void concat_case(int rows, int a_channels, int b_channels) {
  run(text("concat %s rows %d channels %d and %d", NAME<T>, rows, a_channels, b_channels), [&](Complaints &complain) {
    Random random(rows * 1049 + a_channels);
    const auto a = random_normal<T>(random, size_t(rows) * a_channels), b = random_normal<T>(random, size_t(rows) * b_channels);
    std::vector<T> want;
    for (int r = 0; r < rows; r++) {
      want.insert(want.end(), a.begin() + size_t(r) * a_channels, a.begin() + size_t(r + 1) * a_channels);
      want.insert(want.end(), b.begin() + size_t(r) * b_channels, b.begin() + size_t(r + 1) * b_channels);
    }
    auto out = unwritten<T>(want.size());
    const Concat p = {a.data(), b.data(), out.data(), rows, a_channels, b_channels};
    launch(CONCATS, launch_concat(&p, DTYPE<T>), p, 4, complain);
    same_bits("output", out, want, complain);
  });
}

template <class T> void all() {
  relayout_case<T>(1, 1, 1);
  relayout_case<T>(2, 4, 35);
  relayout_case<T>(3, 9, 64);
  concat_case<T>(1, 8, 8);
  concat_case<T>(7, 40, 24);
  if (small_only) return;
  relayout_case<T>(2, 4, 16384);
  relayout_case<T>(1, 3, 4099);
  concat_case<T>(64, 1280, 640);
}

int main() {
  all<F16>();
  all<BF16>();
  return finish();
}
