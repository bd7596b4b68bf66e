//! kernels/launch.h in Rust: each kernel's parameters, and the functions that check them and say what
//! to launch (kernels/launch.c, compiled by build/cuda.rs). The header says what each field is.

use std::ffi::{CStr, c_char, c_int, c_void};

use cudarc::driver::DeviceRepr;

/// A pointer into the device's memory; null where the header allows NULL.
pub type Pointer = *mut c_void;

/// Type of the activations.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F16 = 0,
    Bf16 = 1,
}

/// What a sampler's step is given besides its tensors: launch.h's `StepNumber`, in its order.
pub const STEP_NUMBERS: usize = 10;

/// Structs of launch.h, and where their fields lie.
macro_rules! mirrored {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $(pub $field: $kind,)*
            }

            impl $name {
                /// Size, and offset of each field.
                #[cfg(test)]
                const LAYOUT: &[usize] = &[size_of::<Self>(), $(std::mem::offset_of!(Self, $field)),*];
            }
        )*
    };
}

mirrored! {
    /// Where the sums of a product go.
    Output {
        row_scales: Pointer,
        col_scales: Pointer,
        bias: Pointer,
        image_bias: Pointer,
        residual: Pointer,
        out: Pointer,
        m: c_int,
        n: c_int,
        rows_per_scale: c_int,
        rows_per_image: c_int,
    }

    /// A matrix product.
    Gemm { a: Pointer, w: Pointer, k: c_int, out: Output }

    /// A convolution as a product.
    Conv2d {
        x: Pointer,
        w: Pointer,
        batch: c_int,
        height: c_int,
        width: c_int,
        channels: c_int,
        kernel: c_int,
        stride: c_int,
        pad_top: c_int,
        pad_left: c_int,
        out_height: c_int,
        out_width: c_int,
        upsample: c_int,
        out: Output,
    }

    /// Attention with heads of 64.
    Attention {
        q: Pointer,
        k: Pointer,
        v: Pointer,
        out: Pointer,
        batch: c_int,
        kv_batch: c_int,
        heads: c_int,
        queries: c_int,
        keys: c_int,
        q_stride: c_int,
        kv_stride: c_int,
        causal: c_int,
    }

    /// The same with the queries projected on the way.
    CrossAttention {
        x: Pointer,
        x_scales: Pointer,
        wq: Pointer,
        wq_scales: Pointer,
        k: Pointer,
        v: Pointer,
        out: Pointer,
        batch: c_int,
        kv_batch: c_int,
        heads: c_int,
        queries: c_int,
        keys: c_int,
        channels: c_int,
        kv_stride: c_int,
        rows_per_scale: c_int,
    }

    /// Layer normalisation.
    LayerNorm {
        x: Pointer,
        weight: Pointer,
        bias: Pointer,
        out: Pointer,
        out_scales: Pointer,
        rows: c_int,
        channels: c_int,
        eps: f32,
    }

    /// GEGLU, or quantisation.
    Rows { x: Pointer, out: Pointer, out_scales: Pointer, rows: c_int, channels: c_int }

    /// Whole images as int8, in two launches.
    Images { x: Pointer, out: Pointer, out_scales: Pointer, largest: Pointer, batch: c_int, values: c_int }

    /// Group normalisation, in three launches.
    GroupNorm {
        x: Pointer,
        weight: Pointer,
        bias: Pointer,
        out: Pointer,
        out_scales: Pointer,
        workspace: Pointer,
        batch: c_int,
        pixels: c_int,
        channels: c_int,
        groups: c_int,
        eps: f32,
        silu: c_int,
    }

    /// The search for values that are not finite.
    Finite { x: Pointer, count: i64, sentinel: Pointer }

    /// A sum with rows.
    Sum { a: Pointer, b: Pointer, out: Pointer, parts: c_int, repeats: c_int, width: c_int }

    /// A non-linearity.
    Activation { x: Pointer, out: Pointer, count: i64, which: c_int }

    /// Channels first or last.
    Relayout { x: Pointer, out: Pointer, batch: c_int, channels: c_int, pixels: c_int }

    /// Channels side by side.
    Concat { a: Pointer, b: Pointer, out: Pointer, rows: c_int, a_channels: c_int, b_channels: c_int }

    /// The latents as the network takes them.
    ModelInput { latents: Pointer, numbers: Pointer, out: Pointer, count: c_int, rows: c_int }

    /// Guidance and a sampler's step.
    SamplerStep {
        latents: Pointer,
        output: Pointer,
        previous_x0: Pointer,
        noise: Pointer,
        numbers: Pointer,
        next: Pointer,
        x0: Pointer,
        sentinel: Pointer,
        count: c_int,
        rows: c_int,
    }

    /// What to launch, or what is wrong with the parameters.
    Launch {
        kernel: [c_char; 48],
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        error: *const c_char,
    }
}

/// The parameters of a kernel, passed by value as its one argument.
///
/// # Safety
/// The type is what launch.h declares.
pub unsafe trait Parameters: Copy {}

macro_rules! parameters {
    ($($name:ident)*) => {
        $(
            // SAFETY: mirrors launch.h, as the test below checks.
            unsafe impl Parameters for $name {}
            // SAFETY: plain numbers and device pointers, which the kernel takes by value.
            unsafe impl DeviceRepr for $name {}
        )*
    };
}

parameters!(Gemm Conv2d Attention CrossAttention LayerNorm Rows Images GroupNorm Finite);
parameters!(Sum Activation Relayout Concat ModelInput SamplerStep);

impl Launch {
    /// The kernel's name, or what is wrong with the parameters.
    pub fn kernel(&self) -> Result<&str, String> {
        if !self.error.is_null() {
            // SAFETY: a string literal of launch.c.
            let error = unsafe { CStr::from_ptr(self.error) };
            return Err(error.to_string_lossy().into_owned());
        }
        // SAFETY: launch.c ends every name with a zero.
        let name = unsafe { CStr::from_ptr(self.kernel.as_ptr()) };
        Ok(name.to_str().expect("launch.c names kernels in ASCII"))
    }
}

// SAFETY: as launch.h declares them; each reads its parameters' own bytes only.
unsafe extern "C" {
    pub safe fn launch_int8_gemm(p: &Gemm, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_int8_gemm_geglu(p: &Gemm, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_w8a16_gemm(p: &Gemm, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_w8a16_gemm_geglu(p: &Gemm, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_int8_conv2d(p: &Conv2d, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_w8a16_conv2d(p: &Conv2d, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_conv2d(p: &Conv2d, dtype: Dtype, processors: c_int) -> Launch;
    pub safe fn launch_attention_d64(p: &Attention, dtype: Dtype) -> Launch;
    pub safe fn launch_cross_attention(p: &CrossAttention, dtype: Dtype) -> Launch;
    pub safe fn launch_layer_norm(p: &LayerNorm, dtype: Dtype) -> Launch;
    pub safe fn launch_geglu(p: &Rows, dtype: Dtype) -> Launch;
    pub safe fn launch_quantise_rows(p: &Rows, dtype: Dtype) -> Launch;
    pub safe fn launch_images_largest(p: &Images, dtype: Dtype) -> Launch;
    pub safe fn launch_quantise_images(p: &Images, dtype: Dtype) -> Launch;
    pub safe fn launch_group_norm_stats(p: &GroupNorm, dtype: Dtype) -> Launch;
    pub safe fn launch_group_norm_table(p: &GroupNorm, dtype: Dtype) -> Launch;
    pub safe fn launch_group_norm_apply(p: &GroupNorm, dtype: Dtype) -> Launch;
    pub safe fn group_norm_workspace_floats(p: &GroupNorm) -> i64;
    pub safe fn group_norm_chunk_pixels(p: &GroupNorm) -> i64;
    pub safe fn launch_finite(p: &Finite, dtype: Dtype) -> Launch;
    pub safe fn launch_finite_f32(p: &Finite) -> Launch;
    pub safe fn launch_add_rows(p: &Sum, dtype: Dtype) -> Launch;
    pub safe fn launch_activation(p: &Activation, dtype: Dtype) -> Launch;
    pub safe fn launch_channels_last(p: &Relayout, dtype: Dtype) -> Launch;
    pub safe fn launch_channels_first(p: &Relayout, dtype: Dtype) -> Launch;
    pub safe fn launch_concat(p: &Concat, dtype: Dtype) -> Launch;
    pub safe fn launch_model_input(p: &ModelInput) -> Launch;
    pub safe fn launch_sampler_step(p: &SamplerStep) -> Launch;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_laid_out_as_in_c() {
        macro_rules! same {
            ($($name:ident $table:ident)*) => {
                // SAFETY: tables of layout.c, of these lengths, as the fields are the same.
                unsafe extern "C" {
                    $(static $table: [usize; $name::LAYOUT.len()];)*
                }
                $(
                    // SAFETY: a constant of layout.c with one number for each field and the size.
                    assert_eq!(unsafe { &$table[..] }, $name::LAYOUT, stringify!($name));
                )*
            };
        }
        same! {
            Output darkroom_layout_output
            Gemm darkroom_layout_gemm
            Conv2d darkroom_layout_conv2d
            Attention darkroom_layout_attention
            CrossAttention darkroom_layout_cross_attention
            LayerNorm darkroom_layout_layer_norm
            Rows darkroom_layout_rows
            Images darkroom_layout_images
            GroupNorm darkroom_layout_group_norm
            Finite darkroom_layout_finite
            Sum darkroom_layout_sum
            Activation darkroom_layout_activation
            Relayout darkroom_layout_relayout
            Concat darkroom_layout_concat
            ModelInput darkroom_layout_model_input
            SamplerStep darkroom_layout_sampler_step
            Launch darkroom_layout_launch
        }
        // SAFETY: a constant of layout.c.
        unsafe extern "C" {
            static darkroom_step_numbers: usize;
        }
        // SAFETY: likewise.
        assert_eq!(unsafe { darkroom_step_numbers }, STEP_NUMBERS);
    }

    #[test]
    fn wrong_parameters_are_told() {
        let null = std::ptr::null_mut();
        let rows = Rows {
            x: null,
            out: null,
            out_scales: null,
            rows: 1,
            channels: 8,
        };
        let told = launch_geglu(&rows, Dtype::F16).kernel().map(str::to_owned);
        assert!(told.expect_err("no input").contains("missing"));
        let rows = Rows {
            x: 16 as Pointer,
            out: 16 as Pointer,
            ..rows
        };
        assert_eq!(launch_geglu(&rows, Dtype::Bf16).kernel(), Ok("geglu_bf16"));
    }
}
