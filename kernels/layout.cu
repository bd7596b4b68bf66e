// channels_last, channels_first, concat, widen: values put elsewhere, or in another type.
//
// Idea: a thread for eight neighbouring values of the result (of a relayout, for one); no arithmetic but a cast, and of
//   `widen` a scale.
// Shapes: channels_last: float32 [batch, channels, pixels] → T [batch, pixels, channels]; channels_first: back.
//   concat: [rows, A], [rows, B] → [rows, A + B]. widen: int8 [rows, C], scales [rows] → T [rows, C]. A, B, C % 8 = 0.
// Memory traffic: the result once, and what it is made from.
// Replaces: copies whose strides the host uploads for each launch, and the casts before or behind them; of `widen`, seven
//   passes over a weight.
// Proof: emulation/layout_test.cpp, bit for bit.
#include "rows.cuh"

template <class T> DEVICE void channels_last(const Relayout &p) {
  const int i = piece();
  if (!within(i, p.batch * p.channels * p.pixels)) return;
  const int channel = i % p.channels, pixel = i / p.channels % p.pixels, image = i / p.channels / p.pixels;
  static_cast<T *>(p.out)[i] = from_float<T>(static_cast<const float *>(p.x)[(size_t(image) * p.channels + channel) * p.pixels + pixel]);
}

template <class T> DEVICE void channels_first(const Relayout &p) {
  const int i = piece();
  if (!within(i, p.batch * p.channels * p.pixels)) return;
  const int pixel = i % p.pixels, channel = i / p.pixels % p.channels, image = i / p.pixels / p.channels;
  static_cast<float *>(p.out)[i] = to_float(static_cast<const T *>(p.x)[(size_t(image) * p.pixels + pixel) * p.channels + channel]);
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
    copy_eight(p.out, i, p.b, size_t(row) * b + column - a);
}

template <class T> DEVICE void widen(const Widen &p) {
  const int channels = p.channels / VECTOR, i = piece();  // in vectors
  if (!within(i, p.rows * channels)) return;
  const Words2 bytes = static_cast<const Words2 *>(p.x)[i];
  const float scale = p.scales[i / channels];
  Eight x;
#pragma unroll
  for (int e = 0; e < VECTOR; e++) x.v[e] = float(int8_t(bytes.w[e / 4] >> 8 * (e % 4))) * scale;
  store_eight(static_cast<T *>(p.out) + size_t(i) * VECTOR, x);
}

KERNEL(POINTWISE_THREADS, 4) channels_last_f16(const Relayout p) { channels_last<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) channels_last_bf16(const Relayout p) { channels_last<BF16>(p); }
KERNEL(POINTWISE_THREADS, 4) channels_first_f16(const Relayout p) { channels_first<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) channels_first_bf16(const Relayout p) { channels_first<BF16>(p); }
KERNEL(POINTWISE_THREADS, 4) concat_f16(const Concat p) { concat(p); }
KERNEL(POINTWISE_THREADS, 4) concat_bf16(const Concat p) { concat(p); }
KERNEL(POINTWISE_THREADS, 4) widen_f16(const Widen p) { widen<F16>(p); }
KERNEL(POINTWISE_THREADS, 4) widen_bf16(const Widen p) { widen<BF16>(p); }
