// layer_norm, group_norm_silu, geglu, quantise_rows, quantise_images and finite: against f64 beside the plain path; int8 outputs value
// for value.
#include "../finite.cu"
#include "../geglu.cu"
#include "../group_norm_silu.cu"
#include "../layer_norm.cu"
#include "../quantise_images.cu"
#include "../quantise_rows.cu"
#include "harness.h"

using namespace test;

static const Entries<LayerNorm> LAYER_NORMS = {
    {"layer_norm_f16", layer_norm_f16}, {"layer_norm_bf16", layer_norm_bf16}, {"layer_norm_int8_f16", layer_norm_int8_f16}, {"layer_norm_int8_bf16", layer_norm_int8_bf16}};
static const Entries<Rows> ROWS = {
    {"geglu_f16", geglu_f16}, {"geglu_bf16", geglu_bf16}, {"geglu_int8_f16", geglu_int8_f16}, {"geglu_int8_bf16", geglu_int8_bf16}, {"quantise_rows_f16", quantise_rows_f16}, {"quantise_rows_bf16", quantise_rows_bf16}};
static const Entries<Images> IMAGES = {
    {"images_largest_f16", images_largest_f16}, {"images_largest_bf16", images_largest_bf16}, {"quantise_images_f16", quantise_images_f16}, {"quantise_images_bf16", quantise_images_bf16}};
static const Entries<GroupNorm> GROUP_NORMS = {
    {"group_norm_stats_f16", group_norm_stats_f16}, {"group_norm_stats_bf16", group_norm_stats_bf16}, {"group_norm_table_f16", group_norm_table_f16}, {"group_norm_table_bf16", group_norm_table_bf16},
    {"group_norm_apply_f16", group_norm_apply_f16}, {"group_norm_apply_bf16", group_norm_apply_bf16}, {"group_norm_apply_int8_f16", group_norm_apply_int8_f16}, {"group_norm_apply_int8_bf16", group_norm_apply_int8_bf16}};
static const Entries<Finite> FINITES = {{"finite_f16", finite_f16}, {"finite_bf16", finite_bf16}, {"finite_f32", finite_f32}};

// int8 values of exact numbers under the kernel's own scale: equal, but where float32 may fall on the other side of a
// half.
static void check_int8(const int8_t *got, float scale, const double *exact, int count, Complaints &complain) {
  for (int i = 0; i < count; i++) {
    const double v = scale > 0 ? exact[i] / scale : 0, near_half = fabs(v - floor(v) - 0.5);
    if (fabs(got[i] - v) > 0.5 + 2e-3 || (near_half > 2e-3 && got[i] != lrint(v))) complain("%d where %.4f is right", got[i], v);
  }
}
static double largest_of(const double *v, int count) {
  double largest = 0;
  for (int i = 0; i < count; i++) largest = std::max(largest, fabs(v[i]));
  return largest;
}
static void check_scale(float got, double want, Complaints &complain) {
  if (!(fabs(got - want) <= 1e-4 * want)) complain("scale %g, not %g", double(got), want);
}

// ---- layer norm ------------------------------------------------------------------------------------------

template <class T> void layer_norm_case(int rows, int channels, double mean, double deviation) {
  Random random(rows * 1009 + channels);
  auto x = random_normal<T>(random, size_t(rows) * channels, deviation, mean);
  const auto weight = random_floats(random, channels, -2, 2), bias = random_floats(random, channels, -1, 1);
  const float eps = 1e-5f;
  std::vector<double> plain, exact;
  for (int r = 0; r < rows; r++) {
    const T *row = x.data() + size_t(r) * channels;
    double sum = 0, squares = 0;
    for (int c = 0; c < channels; c++) sum += wide(row[c]);
    const double m = sum / channels;
    for (int c = 0; c < channels; c++) squares += (wide(row[c]) - m) * (wide(row[c]) - m);
    const double inverse = 1 / sqrt(squares / channels + eps);
    for (int c = 0; c < channels; c++) {
      exact.push_back((wide(row[c]) - m) * inverse * weight[c] + bias[c]);
      plain.push_back(round_to<T>(round_to<T>(round_to<T>(round_to<T>(wide(row[c]) - m) * inverse) * weight[c]) + bias[c]));
    }
  }
  const std::string shape = text("%s rows %d channels %d mean %g deviation %g", NAME<T>, rows, channels, mean, deviation);
  run("layer_norm " + shape, [&](Complaints &complain) {
    auto out = unwritten<T>(x.size());
    const LayerNorm p = {x.data(), weight.data(), bias.data(), out.data(), nullptr, rows, channels, eps};
    launch(LAYER_NORMS, launch_layer_norm(&p, DTYPE<T>), p, 1, complain);
    close_enough("output", out, plain, exact, complain);
  });
  run("layer_norm_int8 " + shape, [&](Complaints &complain) {
    std::vector<int8_t> out(x.size(), 99);
    auto scales = std::vector<float>(rows, -1);
    const LayerNorm p = {x.data(), weight.data(), bias.data(), out.data(), scales.data(), rows, channels, eps};
    launch(LAYER_NORMS, launch_layer_norm(&p, DTYPE<T>), p, 2, complain);
    for (int r = 0; r < rows; r++) {
      const double *row = exact.data() + size_t(r) * channels;
      check_scale(scales[r], largest_of(row, channels) / 127, complain);
      check_int8(out.data() + size_t(r) * channels, scales[r], row, channels, complain);
    }
  });
}

// ---- GEGLU -----------------------------------------------------------------------------------------------

template <class T> void geglu_case(int rows, int channels) {
  Random random(rows * 1013 + channels);
  const auto x = random_normal<T>(random, size_t(rows) * 2 * channels, 2);
  std::vector<double> plain, exact;
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < channels; c++) {
      const double v = wide(x[size_t(r) * 2 * channels + c]), g = wide(x[(size_t(r) * 2 + 1) * channels + c]);
      const double gelu = 0.5 * g * (1 + erf(g / sqrt(2.0)));
      exact.push_back(v * gelu);
      plain.push_back(round_to<T>(v * round_to<T>(gelu)));
    }
  const std::string shape = text("%s rows %d channels %d", NAME<T>, rows, channels);
  run("geglu " + shape, [&](Complaints &complain) {
    auto out = unwritten<T>(exact.size());
    const Rows p = {x.data(), out.data(), nullptr, rows, channels};
    launch(ROWS, launch_geglu(&p, DTYPE<T>), p, 3, complain);
    close_enough("output", out, plain, exact, complain);
    rounded_once("output", out, exact, 2e-5, complain);
  });
  run("geglu_int8 " + shape, [&](Complaints &complain) {
    std::vector<int8_t> out(exact.size(), 99);
    auto scales = std::vector<float>(rows, -1);
    const Rows p = {x.data(), out.data(), scales.data(), rows, channels};
    launch(ROWS, launch_geglu(&p, DTYPE<T>), p, 4, complain);
    for (int r = 0; r < rows; r++) {
      const double *row = exact.data() + size_t(r) * channels;
      check_scale(scales[r], largest_of(row, channels) / 127, complain);
      check_int8(out.data() + size_t(r) * channels, scales[r], row, channels, complain);
    }
  });
}

// ---- rows to int8 ----------------------------------------------------------------------------------------

enum Hostile { NONE, ZEROS, WITH_NAN, WITH_INFINITY, TINY, TIES };

// Rows, or whole images, which differ in the kernels only.
template <class T> void quantise_case(int rows, int channels, Hostile hostile, bool images = false) {
  run(text("quantise_%s %s rows %d channels %d hostile %d", images ? "images" : "rows", NAME<T>, rows, channels, hostile), [&](Complaints &complain) {
    Random random(rows * 1019 + channels);
    auto x = random_normal<T>(random, size_t(rows) * channels, 3);
    T *row = x.data();  // the hostile one
    for (int c = 0; c < channels; c++) {
      if (hostile == ZEROS) row[c] = T{0};
      if (hostile == TINY) row[c] = T{uint16_t(c % 3)};  // subnormal
      if (hostile == TIES) row[c] = rounded<T>(c == 0 ? 127 : float(c % 254) - 126.5f);  // the scale is 1
    }
    if (hostile == WITH_NAN) row[channels / 2] = rounded<T>(NAN);
    if (hostile == WITH_INFINITY) row[channels - 1] = rounded<T>(-INFINITY);
    std::vector<int8_t> out(x.size(), 99);
    auto scales = std::vector<float>(rows, -1);
    if (images) {
      std::vector<uint32_t> largest(rows, 0);
      const Images p = {x.data(), out.data(), scales.data(), largest.data(), rows, channels};
      launch(IMAGES, launch_images_largest(&p, DTYPE<T>), p, 5, complain);
      launch(IMAGES, launch_quantise_images(&p, DTYPE<T>), p, 6, complain);
    } else {
      const Rows p = {x.data(), out.data(), scales.data(), rows, channels};
      launch(ROWS, launch_quantise_rows(&p, DTYPE<T>), p, 5, complain);
    }
    for (int r = 0; r < rows; r++) {
      float largest = 0;
      bool finite = true;
      for (int c = 0; c < channels; c++) {
        const float v = wide(x[size_t(r) * channels + c]);
        finite &= std::isfinite(v);
        largest = std::max(largest, fabsf(v));
      }
      if (std::isfinite(scales[r]) != finite) complain("row %d: scale %g", r, double(scales[r]));
      if (finite && scales[r] != largest / 127) complain("row %d: scale %g, not %g", r, double(scales[r]), double(largest / 127));
      const float inverse = finite && largest > 0 && std::isfinite(127 / largest) ? 127 / largest : 0;
      for (int c = 0; c < channels; c++) {
        const int want = inverse > 0 ? int(rintf(float(wide(x[size_t(r) * channels + c])) * inverse)) : 0;
        if (out[size_t(r) * channels + c] != want) complain("row %d: %d, not %d", r, out[size_t(r) * channels + c], want);
      }
    }
  });
}

// ---- group norm ------------------------------------------------------------------------------------------

// `trough`: values lie around SiLU's minimum, which is then their largest magnitude, though no channel's end.
template <class T>
void group_norm_case(int batch, int pixels, int channels, int groups, bool with_silu, double mean, double deviation = 1, bool trough = false) {
  Random random(pixels * 1021 + channels);
  auto x = random_normal<T>(random, size_t(batch) * pixels * channels, deviation);
  for (size_t i = 0; i < x.size(); i++) x[i] = rounded<T>(float(wide(x[i]) + mean * (1 + int(i % channels) % 3)));
  const auto weight = trough ? std::vector<float>(channels, 0.5f) : random_floats(random, channels, -2, 2);
  const auto bias = trough ? std::vector<float>(channels, -1.28f) : random_floats(random, channels, -1, 1);
  const float eps = 1e-5f;
  const int width = channels / groups;
  std::vector<double> plain(x.size()), exact(x.size());
  for (int b = 0; b < batch; b++)
    for (int g = 0; g < groups; g++) {
      auto at = [&](int pixel, int i) { return (size_t(b) * pixels + pixel) * channels + g * width + i; };
      double sum = 0, squares = 0;
      for (int pixel = 0; pixel < pixels; pixel++)
        for (int i = 0; i < width; i++) sum += wide(x[at(pixel, i)]);
      const double m = sum / (double(pixels) * width);
      for (int pixel = 0; pixel < pixels; pixel++)
        for (int i = 0; i < width; i++) squares += (wide(x[at(pixel, i)]) - m) * (wide(x[at(pixel, i)]) - m);
      const double inverse = 1 / sqrt(squares / (double(pixels) * width) + eps);
      for (int pixel = 0; pixel < pixels; pixel++)
        for (int i = 0; i < width; i++) {
          const int c = g * width + i;
          auto activated = [&](double y) { return with_silu ? y / (1 + exp(-y)) : y; };
          const double v = wide(x[at(pixel, i)]);
          exact[at(pixel, i)] = activated((v - m) * inverse * weight[c] + bias[c]);
          plain[at(pixel, i)] = round_to<T>(activated(round_to<T>(round_to<T>(round_to<T>(round_to<T>(v - m) * inverse) * weight[c]) + bias[c])));
        }
    }
  const std::string shape = text("%s batch %d pixels %d channels %d groups %d%s mean %g deviation %g%s", NAME<T>, batch, pixels, channels, groups, with_silu ? " silu" : "", mean, deviation, trough ? " trough" : "");
  auto norm = [&](void *out, float *scales, Complaints &complain) {
    GroupNorm p = {x.data(), weight.data(), bias.data(), out, scales, nullptr, batch, pixels, channels, groups, eps, with_silu};
    std::vector<float> workspace(size_t(group_norm_workspace_floats(&p)), NAN);
    p.workspace = workspace.data();
    launch(GROUP_NORMS, launch_group_norm_stats(&p, DTYPE<T>), p, 6, complain);
    launch(GROUP_NORMS, launch_group_norm_table(&p, DTYPE<T>), p, 7, complain);
    launch(GROUP_NORMS, launch_group_norm_apply(&p, DTYPE<T>), p, 8, complain);
  };
  run("group_norm " + shape, [&](Complaints &complain) {
    auto out = unwritten<T>(x.size());
    norm(out.data(), nullptr, complain);
    close_enough("output", out, plain, exact, complain);
  });
  run("group_norm_int8 " + shape, [&](Complaints &complain) {
    std::vector<int8_t> out(x.size(), 99);
    std::vector<float> scales(batch, -1);
    norm(out.data(), scales.data(), complain);
    const int image = pixels * channels;
    for (int b = 0; b < batch; b++) {
      const double *values = exact.data() + size_t(b) * image;
      // SiLU's least value counts as soon as it may occur.
      const double largest = largest_of(values, image), most = with_silu ? std::max(largest, 0.27846454) : largest;
      if (!(scales[b] * 127 >= largest * (1 - 1e-4) && scales[b] * 127 <= most * (1 + 1e-4))) complain("scale %g for a largest value of %g", double(scales[b]), largest);
      check_int8(out.data() + size_t(b) * image, scales[b], values, image, complain);
    }
  });
}

// A value that is not finite must show in the image's scale, and in no other's.
template <class T> void group_norm_nan() {
  run(text("group_norm_int8 %s with a NaN", NAME<T>), [&](Complaints &complain) {
    Random random(83);
    auto x = random_normal<T>(random, 2 * 40 * 16);
    x[40 * 16 + 5] = rounded<T>(NAN);
    const std::vector<float> weight(16, 1), bias(16, 0);
    std::vector<int8_t> out(x.size());
    std::vector<float> scales(2, -1);
    GroupNorm p = {x.data(), weight.data(), bias.data(), out.data(), scales.data(), nullptr, 2, 40, 16, 4, 1e-5f, 1};
    std::vector<float> workspace(size_t(group_norm_workspace_floats(&p)));
    p.workspace = workspace.data();
    launch(GROUP_NORMS, launch_group_norm_stats(&p, DTYPE<T>), p, 6, complain);
    launch(GROUP_NORMS, launch_group_norm_table(&p, DTYPE<T>), p, 7, complain);
    launch(GROUP_NORMS, launch_group_norm_apply(&p, DTYPE<T>), p, 8, complain);
    if (!(scales[0] > 0) || std::isfinite(scales[1])) complain("scales %g and %g", double(scales[0]), double(scales[1]));
  });
}

// ---- ties ------------------------------------------------------------------------------------------------

// Values that lie in the middle of two int8, and 127, so that the scale is 1: exactly, whatever the kernel does before.
template <class T> void ties() {
  constexpr int CHANNELS = 264;
  std::vector<float> values, zeros(CHANNELS, 0);
  for (int c = 0; c < CHANNELS; c++) values.push_back(c ? float(c % 254) - 126.5f : 127);
  Random random(84);
  const auto x = random_normal<T>(random, CHANNELS);
  std::vector<T> values_and_gates;
  for (float v : values) values_and_gates.push_back(rounded<T>(v / 16));
  values_and_gates.resize(2 * CHANNELS, rounded<T>(16));  // gelu(16) is 16
  auto to_even = [&](const char *name, auto kernel) {
    run(text("%s %s ties", name, NAME<T>), [&](Complaints &complain) {
      std::vector<int8_t> out(CHANNELS, 99), want;
      std::vector<float> scale(1, -1);
      for (float v : values) want.push_back(int8_t(rintf(v)));
      kernel(out.data(), scale.data(), complain);
      same_bits("scale", scale, {1}, complain);
      same_bits("output", out, want, complain);
    });
  };
  to_even("layer_norm_int8", [&](int8_t *out, float *scale, Complaints &complain) {
    const LayerNorm p = {x.data(), zeros.data(), values.data(), out, scale, 1, CHANNELS, 1e-5f};
    launch(LAYER_NORMS, launch_layer_norm(&p, DTYPE<T>), p, 2, complain);
  });
  to_even("geglu_int8", [&](int8_t *out, float *scale, Complaints &complain) {
    const Rows p = {values_and_gates.data(), out, scale, 1, CHANNELS};
    launch(ROWS, launch_geglu(&p, DTYPE<T>), p, 4, complain);
  });
  to_even("group_norm_int8", [&](int8_t *out, float *scale, Complaints &complain) {
    GroupNorm p = {x.data(), zeros.data(), values.data(), out, scale, nullptr, 1, 1, CHANNELS, 33, 1e-5f, 0};
    std::vector<float> workspace(size_t(group_norm_workspace_floats(&p)), NAN);
    p.workspace = workspace.data();
    launch(GROUP_NORMS, launch_group_norm_stats(&p, DTYPE<T>), p, 6, complain);
    launch(GROUP_NORMS, launch_group_norm_table(&p, DTYPE<T>), p, 7, complain);
    launch(GROUP_NORMS, launch_group_norm_apply(&p, DTYPE<T>), p, 8, complain);
  });
}

// ---- sentinel --------------------------------------------------------------------------------------------

template <class T> void finite_case(int count, int bad) {
  run(text("finite %s count %d bad %d", NAME<T>, count, bad), [&](Complaints &complain) {
    Random random(count + bad);
    auto x = random_normal<T>(random, count, 100);
    for (int i = 0; i < bad; i++) x[(count - 1) / (i + 1)] = rounded<T>(i % 2 ? NAN : -INFINITY);
    uint32_t largest = 0, not_finite = 0;
    for (T v : x)
      if (std::isfinite(wide(v)))
        largest = std::max(largest, bits_of(fabsf(float(wide(v)))));
      else
        not_finite++;
    std::vector<uint32_t> sentinel(2, 0);
    const Finite p = {x.data(), count, sentinel.data()};
    if constexpr (std::is_same_v<T, float>)
      launch(FINITES, launch_finite_f32(&p), p, 9, complain);
    else
      launch(FINITES, launch_finite(&p, DTYPE<T>), p, 9, complain);
    if (sentinel[0] != largest || sentinel[1] != not_finite) complain("%08x %u, not %08x %u", sentinel[0], sentinel[1], largest, not_finite);
  });
}

template <class T> void all() {
  layer_norm_case<T>(1, 8, 0, 1);
  layer_norm_case<T>(5, 328, 3, 1);
  layer_norm_case<T>(3, 40, 0, 0.003);  // a variance like eps
  geglu_case<T>(1, 8);
  geglu_case<T>(3, 2056);
  for (Hostile hostile : {NONE, ZEROS, WITH_NAN, WITH_INFINITY, TINY, TIES})
    for (bool images : {false, true}) quantise_case<T>(5, 264, hostile, images);
  group_norm_case<T>(1, 1, 8, 1, true, 0);
  group_norm_case<T>(2, 37, 24, 3, true, 1);
  group_norm_case<T>(1, 70, 264, 33, false, 0);
  group_norm_case<T>(1, 40, 16, 2, false, 0, 0.003);
  group_norm_case<T>(2, 40, 16, 2, true, 0, 1, true);
  group_norm_nan<T>();
  ties<T>();
  finite_case<T>(1, 0);
  finite_case<T>(1003, 3);
  if (small_only) return;
  layer_norm_case<T>(7, 640, 30, 1);
  layer_norm_case<T>(6, 1280, -0.5, 0.01);
  layer_norm_case<T>(2, 5120, 0, 10);
  geglu_case<T>(2, 5120);
  geglu_case<T>(9, 2560);
  quantise_case<T>(9, 1280, NONE);
  quantise_case<T>(2, 600000, NONE, true);
  group_norm_case<T>(2, 65, 320, 32, true, 0);
  group_norm_case<T>(1, 33, 2560, 32, true, 2);
  group_norm_case<T>(1, 33, 3072, 1, false, 0);
  group_norm_case<T>(1, 5000, 32, 32, true, 10);
  group_norm_case<T>(3, 31, 1920, 32, false, -4);
  finite_case<T>(300000, 7);
}

int main() {
  all<F16>();
  all<BF16>();
  finite_case<float>(1, 0);
  finite_case<float>(1003, 3);
  if (!small_only) finite_case<float>(300000, 7);
  return finish();
}
