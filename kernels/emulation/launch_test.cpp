// launch.h refuses parameters that a kernel cannot work with, by name, and keeps its geometry within every GPU's limits.
#include "harness.h"

using namespace test;

alignas(16) static char somewhere[64];
static float *const floats = reinterpret_cast<float *>(somewhere);

static Output output(int m, int n) { return {floats, floats, nullptr, nullptr, nullptr, somewhere, m, n, 1, 1}; }
static Gemm gemm(int m, int n, int k) { return {somewhere, somewhere, k, output(m, n)}; }
static Conv2d conv(int channels) {
  Output out = output(64, 8);
  out.rows_per_scale = 64;
  return {somewhere, somewhere, 1, 8, 8, channels, 3, 1, 1, 1, 8, 8, 0, out};
}
static Attention attention() { return {somewhere, somewhere, somewhere, somewhere, 2, 1, 10, 100, 77, 640, 640, 0}; }
static CrossAttention cross() { return {somewhere, floats, reinterpret_cast<int8_t *>(somewhere), floats, somewhere, somewhere, somewhere, 2, 1, 10, 100, 77, 640, 640, 1}; }
static GroupNorm group_norm() { return {somewhere, floats, floats, somewhere, nullptr, floats, 2, 4096, 320, 32, 1e-5f, 1}; }
static LayerNorm layer_norm() { return {somewhere, floats, floats, somewhere, nullptr, 100, 640, 1e-5f}; }

// Changes good parameters and expects `message`; an empty one: no complaint.
template <class P> static void expect(const char *what, P p, Launch (*launch)(const P &), void (*change)(P &), const char *message) {
  run(what, [&](Complaints &complain) {
    change(p);
    const Launch l = launch(p);
    const std::string said = l.error ? l.error : "";
    if (*message ? said.find(message) == std::string::npos : !said.empty()) return complain("said: '%s'", said.c_str());
    if (*message) return;
    if (l.block == 0 || l.block > 1024 || l.grid[0] == 0 || l.grid[1] == 0 || l.grid[1] > 65535 || l.grid[2] == 0 || l.grid[2] > 65535) complain("geometry of %s", l.kernel);
    if (l.shared_bytes > emu::MAX_SHARED_BYTES) complain("%s asks for %u bytes of shared memory", l.kernel, l.shared_bytes);
  });
}

int main() {
  auto int8_gemm = [](const Gemm &p) { return launch_int8_gemm(&p, DTYPE_F16, 108); };
  expect<Gemm>("a good product", gemm(4096, 640, 640), int8_gemm, [](Gemm &) {}, "");
  expect<Gemm>("as many rows as an int has", gemm(INT32_MAX, 10240, 1280), int8_gemm, [](Gemm &) {}, "");
  expect<Gemm>("k not in chunks", gemm(1, 1, 24), int8_gemm, [](Gemm &) {}, "not a multiple of 16");
  expect<Gemm>("k past 32-bit sums", gemm(1, 1, 131072), int8_gemm, [](Gemm &) {}, "too large for 32-bit sums");
  expect<Gemm>("no rows", gemm(0, 1, 16), int8_gemm, [](Gemm &) {}, "no rows or no columns");
  expect<Gemm>("columns past a grid's edge", gemm(1, INT32_MAX, 16), int8_gemm, [](Gemm &) {}, "too many columns");
  expect<Gemm>("a misaligned factor", gemm(1, 1, 16), int8_gemm, [](Gemm &p) { p.a = somewhere + 8; }, "not aligned to 16 bytes");
  expect<Gemm>("a misaligned residual", gemm(1, 1, 16), int8_gemm, [](Gemm &p) { p.out.residual = somewhere + 2; }, "not aligned to 16 bytes");
  expect<Gemm>("no output", gemm(1, 1, 16), int8_gemm, [](Gemm &p) { p.out.out = nullptr; }, "output is missing");
  expect<Gemm>("no row scales", gemm(1, 1, 16), int8_gemm, [](Gemm &p) { p.out.row_scales = nullptr; }, "int8 activations without scales");
  expect<Gemm>("no column scales", gemm(1, 1, 16), int8_gemm, [](Gemm &p) { p.out.col_scales = nullptr; }, "int8 weights without scales");
  expect<Gemm>("scales for no rows", gemm(1, 1, 16), int8_gemm, [](Gemm &p) { p.out.rows_per_scale = 0; }, "without rows_per_scale");
  expect<Gemm>("another type", gemm(1, 1, 16), [](const Gemm &p) { return launch_int8_gemm(&p, Dtype(7), 108); }, [](Gemm &) {}, "neither f16 nor bf16");

  auto int8_conv = [](const Conv2d &p) { return launch_int8_conv2d(&p, DTYPE_BF16, 108); };
  auto w8a16_conv = [](const Conv2d &p) { return launch_w8a16_conv2d(&p, DTYPE_BF16, 108); };
  auto half_conv = [](const Conv2d &p) { return launch_conv2d(&p, DTYPE_BF16, 108); };
  expect<Conv2d>("a good convolution", conv(320), int8_conv, [](Conv2d &) {}, "");
  expect<Conv2d>("channels not in chunks", conv(24), int8_conv, [](Conv2d &) {}, "not a multiple of 16");
  expect<Conv2d>("a scale for each pixel", conv(32), int8_conv, [](Conv2d &p) { p.out.rows_per_scale = 1; }, "one scale for whole images");
  expect<Conv2d>("rows that are not pixels", conv(32), int8_conv, [](Conv2d &p) { p.out.m = 63; }, "not its output pixels");
  expect<Conv2d>("an empty output", conv(32), int8_conv, [](Conv2d &p) { p.out_height = 0; }, "output is empty");
  expect<Conv2d>("any channels with int8 weights", conv(3), w8a16_conv, [](Conv2d &p) { p.out.row_scales = nullptr; }, "");
  expect<Conv2d>("scales of float activations", conv(32), w8a16_conv, [](Conv2d &) {}, "have no scales");
  expect<Conv2d>("int8 weights without scales", conv(32), w8a16_conv, [](Conv2d &p) { p.out.row_scales = p.out.col_scales = nullptr; }, "without scales");
  expect<Conv2d>("scales of floats", conv(3), half_conv, [](Conv2d &) {}, "has no scales");
  expect<Conv2d>("any channels in half precision", conv(3), half_conv, [](Conv2d &p) { p.out.row_scales = p.out.col_scales = nullptr; }, "");

  auto attend = [](const Attention &p) { return launch_attention_d64(&p, DTYPE_F16); };
  expect<Attention>("good attention", attention(), attend, [](Attention &) {}, "");
  expect<Attention>("an odd batch of keys", attention(), attend, [](Attention &p) { p.kv_batch = 3; }, "multiple of its keys' batch");
  expect<Attention>("rows too close", attention(), attend, [](Attention &p) { p.kv_stride = 639; }, "closer than their heads");
  expect<Attention>("rows not in chunks", attention(), attend, [](Attention &p) { p.q_stride = 644; }, "not a multiple of 8");
  expect<Attention>("causal over another length", attention(), attend, [](Attention &p) { p.causal = 1; }, "causal attention of unequal");
  expect<Attention>("no keys", attention(), attend, [](Attention &p) { p.keys = 0; }, "attention over nothing");
  auto cross_attend = [](const CrossAttention &p) { return launch_cross_attention(&p, DTYPE_F16); };
  expect<CrossAttention>("good cross-attention", cross(), cross_attend, [](CrossAttention &) {}, "");
  expect<CrossAttention>("queries of floats", cross(), cross_attend, [](CrossAttention &p) { p.x_scales = nullptr; }, "");
  expect<CrossAttention>("a query weight without scales", cross(), cross_attend, [](CrossAttention &p) { p.wq_scales = nullptr; }, "without scales");
  expect<CrossAttention>("scales for no queries", cross(), cross_attend, [](CrossAttention &p) { p.rows_per_scale = 0; }, "without scales");
  expect<CrossAttention>("channels not in chunks of 16", cross(), cross_attend, [](CrossAttention &p) { p.channels = 8; }, "not a multiple of 16");

  auto stats = [](const GroupNorm &p) { return launch_group_norm_stats(&p, DTYPE_F16); };
  expect<GroupNorm>("a good group norm", group_norm(), stats, [](GroupNorm &) {}, "");
  expect<GroupNorm>("a group norm's table", group_norm(), [](const GroupNorm &p) { return launch_group_norm_table(&p, DTYPE_F16); }, [](GroupNorm &) {}, "");
  expect<GroupNorm>("groups of unequal size", group_norm(), stats, [](GroupNorm &p) { p.groups = 3; }, "not a multiple of its groups");
  expect<GroupNorm>("too many channels", group_norm(), stats, [](GroupNorm &p) { p.channels = 4096; }, "too many channels");
  expect<GroupNorm>("no workspace", group_norm(), stats, [](GroupNorm &p) { p.workspace = nullptr; }, "workspace is missing");
  auto layer = [](const LayerNorm &p) { return launch_layer_norm(&p, DTYPE_F16); };
  expect<LayerNorm>("a good layer norm", layer_norm(), layer, [](LayerNorm &) {}, "");
  expect<LayerNorm>("channels not in eights", layer_norm(), layer, [](LayerNorm &p) { p.channels = 12; }, "not a multiple of 8");
  expect<LayerNorm>("no rows to norm", layer_norm(), layer, [](LayerNorm &p) { p.rows = 0; }, "of nothing");
  expect<LayerNorm>("no weight", layer_norm(), layer, [](LayerNorm &p) { p.weight = nullptr; }, "weight or bias is missing");
  auto geglu = [](const Rows &p) { return launch_geglu(&p, DTYPE_F16); };
  expect<Rows>("the widest quantised GEGLU", {somewhere, somewhere, floats, 5, 12280}, geglu, [](Rows &) {}, "");
  expect<Rows>("a quantised GEGLU too wide", {somewhere, somewhere, floats, 5, 12288}, geglu, [](Rows &) {}, "too many channels");
  expect<Rows>("int8 rows without scales", {somewhere, somewhere, nullptr, 5, 64}, [](const Rows &p) { return launch_quantise_rows(&p, DTYPE_F16); }, [](Rows &) {}, "without scales");
  expect<Finite>("nothing to look through", {somewhere, 0, reinterpret_cast<uint32_t *>(somewhere)}, [](const Finite &p) { return launch_finite(&p, DTYPE_F16); }, [](Finite &) {}, "nothing to look through");
  auto add_rows = [](const Sum &p) { return launch_add_rows(&p, DTYPE_F16); };
  expect<Sum>("a good sum", {somewhere, somewhere, somewhere, 2, 4096, 320}, add_rows, [](Sum &) {}, "");
  expect<Sum>("a sum's rows not in eights", {somewhere, somewhere, somewhere, 2, 4096, 4}, add_rows, [](Sum &) {}, "not a multiple of 8");
  expect<Sum>("a sum with nothing", {somewhere, nullptr, somewhere, 2, 4096, 320}, add_rows, [](Sum &) {}, "rows are missing");
  expect<Sum>("a sum past an int", {somewhere, somewhere, somewhere, 65536, 65536, 8}, add_rows, [](Sum &) {}, "too many values");
  auto activate = [](const Activation &p) { return launch_activation(&p, DTYPE_F16); };
  expect<Activation>("an unknown activation", {somewhere, somewhere, 64, 3}, activate, [](Activation &) {}, "that there is not");
  expect<Activation>("an activation not in eights", {somewhere, somewhere, 63, 0}, activate, [](Activation &) {}, "not a multiple of 8");
  expect<Relayout>("an image of no channels", {somewhere, somewhere, 1, 0, 64}, [](const Relayout &p) { return launch_channels_last(&p, DTYPE_F16); }, [](Relayout &) {}, "empty image");
  expect<Concat>("a concatenation not in eights", {somewhere, somewhere, somewhere, 1, 8, 7}, [](const Concat &p) { return launch_concat(&p, DTYPE_F16); }, [](Concat &) {}, "not multiples of 8");
  return finish();
}
