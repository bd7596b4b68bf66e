// References for convolutions, shared by the tests of int8_conv2d, w8a16_conv2d and conv2d.
#pragma once

#include "products.h"

namespace test {

struct ConvShape {
  int batch, height, width, channels, outputs, kernel, stride;
  int pad, pad_after;  // above and left; below and right
  int upsample, which, processors;
  int left_less = 0;  // how much less padding is on the left than above

  int out_height() const { return (height + pad + pad_after - kernel) / stride + 1; }
  int out_width() const { return (width + pad - left_less + pad_after - kernel) / stride + 1; }
  // Of what lies in memory: of an image read as doubled, half of what is read.
  int stored_height() const { return upsample ? (height + 1) / 2 : height; }
  int stored_width() const { return upsample ? (width + 1) / 2 : width; }
  size_t values() const { return size_t(batch) * stored_height() * stored_width() * channels; }
  int rows() const { return batch * out_height() * out_width(); }
  std::string text() const {
    return test::text("batch %d %dx%d channels %d to %d kernel %d stride %d pad %d,%d%s%s tile %d operands %d", batch, height, width, channels, outputs, kernel, stride, pad, pad_after, left_less ? " less on the left" : "", upsample ? " doubled" : "", processors == 1 ? 128 : 64, which);
  }
  Conv2d parameters(const void *x, const void *w, const Output &out) const {
    return {x, w, batch, height, width, channels, kernel, stride, pad, pad - left_less, out_height(), out_width(), upsample, out};
  }
};

// The sum at output row i (a pixel), channel j; value(image element, weight element) is one product.
template <class Sum, class Value> Sum convolve(const ConvShape &s, int i, int j, Value value) {
  const int b = i / (s.out_height() * s.out_width()), oy = i / s.out_width() % s.out_height(), ox = i % s.out_width();
  Sum sum = 0;
  for (int dy = 0; dy < s.kernel; dy++)
    for (int dx = 0; dx < s.kernel; dx++) {
      const int y = oy * s.stride + dy - s.pad, x = ox * s.stride + dx - (s.pad - s.left_less);
      if (y < 0 || x < 0 || y >= s.height || x >= s.width) continue;
      const int scale = s.upsample ? 2 : 1;
      const size_t pixel = (size_t(b) * s.stored_height() + y / scale) * s.stored_width() + x / scale;
      const size_t tap = (size_t(j) * s.kernel + dy) * s.kernel + dx;
      for (int c = 0; c < s.channels; c++) sum += value(pixel * s.channels + c, tap * s.channels + c);
    }
  return sum;
}

}  // namespace test
