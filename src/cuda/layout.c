/* Where launch.h's structs have their fields: the test in launch.rs compares these tables with the mirrored structs. */
#include "launch.h"

#include <stddef.h>

#define AT(field) offsetof(OF, field)

#define OF Output
const size_t darkroom_layout_output[] = {sizeof(OF),   AT(row_scales), AT(col_scales), AT(bias), AT(image_bias), AT(residual),
                                         AT(out),      AT(m),          AT(n),          AT(rows_per_scale), AT(rows_per_image)};
#undef OF
#define OF Gemm
const size_t darkroom_layout_gemm[] = {sizeof(OF), AT(a), AT(w), AT(k), AT(out)};
#undef OF
#define OF Conv2d
const size_t darkroom_layout_conv2d[] = {sizeof(OF),  AT(x),       AT(w),        AT(batch),      AT(height),    AT(width),    AT(channels),
                                         AT(kernel),  AT(stride),  AT(pad_top),  AT(pad_left),   AT(out_height), AT(out_width),
                                         AT(upsample), AT(out)};
#undef OF
#define OF Attention
const size_t darkroom_layout_attention[] = {sizeof(OF), AT(q),       AT(k),    AT(v),        AT(out),       AT(batch), AT(kv_batch),
                                            AT(heads),  AT(queries), AT(keys), AT(q_stride), AT(kv_stride), AT(causal)};
#undef OF
#define OF CrossAttention
const size_t darkroom_layout_cross_attention[] = {sizeof(OF),  AT(x),        AT(x_scales), AT(wq),      AT(wq_scales), AT(k),
                                                  AT(v),       AT(out),      AT(batch),    AT(kv_batch), AT(heads),    AT(queries),
                                                  AT(keys),    AT(channels), AT(kv_stride), AT(rows_per_scale)};
#undef OF
#define OF LayerNorm
const size_t darkroom_layout_layer_norm[] = {sizeof(OF), AT(x), AT(weight), AT(bias), AT(out), AT(out_scales), AT(rows), AT(channels), AT(eps)};
#undef OF
#define OF Rows
const size_t darkroom_layout_rows[] = {sizeof(OF), AT(x), AT(out), AT(out_scales), AT(rows), AT(channels)};
#undef OF
#define OF Images
const size_t darkroom_layout_images[] = {sizeof(OF), AT(x), AT(out), AT(out_scales), AT(largest), AT(batch), AT(values)};
#undef OF
#define OF GroupNorm
const size_t darkroom_layout_group_norm[] = {sizeof(OF),     AT(x),     AT(weight), AT(bias),     AT(out),    AT(out_scales),
                                             AT(workspace),  AT(batch), AT(pixels), AT(channels), AT(groups), AT(eps),
                                             AT(silu)};
#undef OF
#define OF Finite
const size_t darkroom_layout_finite[] = {sizeof(OF), AT(x), AT(count), AT(sentinel)};
#undef OF
#define OF Sum
const size_t darkroom_layout_sum[] = {sizeof(OF), AT(a), AT(b), AT(out), AT(parts), AT(repeats), AT(width)};
#undef OF
#define OF Activation
const size_t darkroom_layout_activation[] = {sizeof(OF), AT(x), AT(out), AT(count), AT(which)};
#undef OF
#define OF Relayout
const size_t darkroom_layout_relayout[] = {sizeof(OF), AT(x), AT(out), AT(batch), AT(channels), AT(pixels)};
#undef OF
#define OF Concat
const size_t darkroom_layout_concat[] = {sizeof(OF), AT(a), AT(b), AT(out), AT(rows), AT(a_channels), AT(b_channels)};
#undef OF
#define OF ModelInput
const size_t darkroom_layout_model_input[] = {sizeof(OF), AT(latents), AT(numbers), AT(out), AT(count), AT(rows)};
#undef OF
#define OF SamplerStep
const size_t darkroom_layout_sampler_step[] = {sizeof(OF),   AT(latents), AT(output), AT(previous_x0), AT(noise), AT(numbers),
                                               AT(next),     AT(x0),      AT(sentinel), AT(count),     AT(rows)};
const size_t darkroom_step_numbers = STEP_NUMBERS;
const size_t darkroom_limits[] = {HEAD_DIM, VECTOR, GROUP_NORM_MAX_CHANNELS, GROUP_NORM_MAX_CHUNKS, GROUP_NORM_MIN_PIXELS};
#undef OF
#define OF Launch
const size_t darkroom_layout_launch[] = {sizeof(OF), AT(kernel), AT(grid), AT(block), AT(shared_bytes), AT(error)};
