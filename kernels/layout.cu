// channels_last, channels_first, concat: values put elsewhere, or in another type.
//
// Idea: a thread for eight neighbouring values of the result (of a relayout, for one); no arithmetic but a cast.
// Shapes: channels_last: float32 [batch, channels, pixels] → T [batch, pixels, channels]; channels_first: back.
//   concat: [rows, A], [rows, B] → [rows, A + B]. A, B, C % 8 = 0.
// Memory traffic: the result once, and what it is made from.
// Replaces: copies whose strides the host uploads for each launch, and the casts before or behind them.
// Proof: emulation/layout_test.cpp, bit for bit.
#include "rows.cuh"

template <class T> DEVICE void channels_last(const Relayout &p) {
  const int i = piece();
  if (!within(i, p.batch * p.channels * p.pixels)) return;
  const int channel = i % p.channels, pixel = i / p.channels % p.pixels, image = i / p.channels / p.pixels;
  static_cast<T *>(p.out)[i] = from_float<T>(
      static_cast<const float *>(p.x)[SEEDED(PLACE, (size_t(image) * p.channels + channel) * p.pixels + pixel, i)]);
}

template <class T> DEVICE void channels_first(const Relayout &p) {
  const int i = piece();
  if (!within(i, p.batch * p.channels * p.pixels)) return;
  const int pixel = i % p.pixels, channel = i / p.pixels % p.channels, image = i / p.pixels / p.channels;
  static_cast<float *>(p.out)[i] =
      to_float(static_cast<const T *>(p.x)[SEEDED(PLACE, (size_t(image) * p.pixels + pixel) * p.channels + channel, i)]);
}

// Eight values as they are.
DEVICE void copy_eight(void *out, size_t to, const void *x, size_t from) {
  static_cast<Words4 *>(out)[to] = static_cast<const Words4 *>(x)[from];
}

DEVICE void concat(const Concat &p) {
  const int a = p.a_channels / VECTOR, b = p.b_channels / VECTOR, i = piece();  // in vectors
  if (!within(i, p.rows * (a + b))) return;
  const int row = i / (a + b), column = i % (a + b);
  if (within(column, a))
    copy_eight(p.out, i, p.a, size_t(row) * a + column);
  else
    copy_eight(p.out, i, p.b, size_t(SEEDED(PLACE, row, 0)) * b + column - a);
}

KERNEL(POINTWISE_THREADS, 4) channels_last_f16(const Relayout p) { channels_last<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) channels_last_bf16(const Relayout p) { channels_last<BF16>(p); }
KERNEL(POINTWISE_THREADS, 4) channels_first_f16(const Relayout p) { channels_first<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) channels_first_bf16(const Relayout p) { channels_first<BF16>(p); }
KERNEL(POINTWISE_THREADS, 4) concat_f16(const Concat p) { concat(p); }
KERNEL(POINTWISE_THREADS, 4) concat_bf16(const Concat p) { concat(p); }
