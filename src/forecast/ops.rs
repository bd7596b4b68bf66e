//! The operations of [`crate::ops`] on tensors without values.

use candle_core::DType;

use super::heap::Tensor;
use super::launches;
use crate::measure::op::Work;
use crate::ops::int8::Scheme;
use crate::ops::{Activation, Padding, Reads, out_size, work, workspace};

/// x [.., in] → [.., outputs].
pub fn linear(x: &Tensor, outputs: usize, bias: bool) -> Tensor {
    linear_in(None, x, outputs, bias)
}

/// The same with a weight in int8 where a scheme is given.
pub fn linear_in(int8: Option<Scheme>, x: &Tensor, outputs: usize, bias: bool) -> Tensor {
    x.heap().launch(launches::linear(
        (x.dtype(), x.reads()),
        x.width(),
        bias,
        int8,
    ));
    product(int8, x, outputs, bias)
}

/// residual + the same of x [.., in], with a bias.
pub fn linear_add(int8: Option<Scheme>, x: Tensor, residual: &Tensor) -> Tensor {
    let kernels = launches::linear_add((x.dtype(), x.reads()), x.width(), true, int8);
    x.heap().launch(kernels);
    let y = product(int8, &x, residual.width(), true);
    drop(x);
    sum(residual, &y)
}

fn product(int8: Option<Scheme>, x: &Tensor, outputs: usize, bias: bool) -> Tensor {
    let inputs = x.width();
    let rows = x.count() / inputs;
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(outputs);
    let work = work::linear(rows, inputs, outputs, bias, x.value_bytes(), int8);
    x.heap().run(
        read_by(x, work),
        workspace::linear(
            (x.dtype(), x.reads()),
            rows,
            (inputs, outputs),
            bias,
            int8,
            x.heap().threads(),
        ),
        dims,
        x.dtype(),
    )
}

/// Work on x, [.., width] in the run's type or in int8.
fn read_by(x: &Tensor, work: Work) -> Work {
    match x.reads() {
        Reads::Float => work,
        Reads::Int8 => work.reading_int8(x.count() / x.width(), x.width(), x.value_bytes()),
    }
}

/// A convolution's shape.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: Padding,
    int8: Option<Scheme>,
}

impl Conv {
    /// Stride 1, the image's size kept.
    pub fn same(outputs: usize, kernel: usize) -> Self {
        Self::new(outputs, kernel, 1, Padding::all(kernel / 2))
    }

    /// Any.
    pub fn new(outputs: usize, kernel: usize, stride: usize, padding: Padding) -> Self {
        Self {
            outputs,
            kernel,
            stride,
            padding,
            int8: None,
        }
    }

    /// Its weight in int8, if a scheme is given.
    pub fn kept_in(self, int8: Option<Scheme>) -> Self {
        Self { int8, ..self }
    }

    /// The image's convolution + what is `added` to all of it, or to each image: in the same kernel.
    pub fn forward_add(self, image: Tensor, added: impl FnOnce() -> Tensor) -> Tensor {
        let y = self.forward(&image);
        drop(image);
        sum(&y, &added())
    }

    /// The convolution of the image enlarged to a size, which a GPU's kernel reads as if it were.
    pub fn forward_upsampled(self, image: &Tensor, [height, width]: [usize; 2]) -> Tensor {
        self.forward(&upsample_nearest(image, height, width))
    }

    /// image [B, H, W, in] → [B, H', W', out].
    pub fn forward(self, image: &Tensor) -> Tensor {
        let [batch, height, width, inputs] = image.sizes();
        let Self {
            outputs,
            kernel,
            stride,
            padding,
            int8,
        } = self;
        let [out_height, out_width] = out_size(height, width, kernel, stride, padding);
        let (pixels, out_pixels) = (batch * height * width, out_height * out_width);
        let taps = kernel * kernel;
        let pointwise = kernel == 1 && stride == 1 && padding == Padding::default();
        let read = (image.dtype(), image.reads());
        image.heap().launch(match int8 {
            Some(_) if pointwise => launches::linear(read, inputs, true, int8),
            _ => launches::conv2d(read, inputs, int8),
        });
        let work = work::conv2d(
            (pixels, batch * out_pixels),
            taps,
            inputs,
            outputs,
            image.value_bytes(),
            int8,
        );
        image.heap().run(
            read_by(image, work),
            workspace::conv2d(
                read,
                (pixels, batch, out_pixels),
                taps,
                (inputs, outputs),
                pointwise,
                int8,
                image.heap().threads(),
            ),
            vec![batch, out_height, out_width, outputs],
            image.dtype(),
        )
    }
}

/// q [B, Nq, C]; k, v [K, Nk, C] → [B, Nq, C].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Tensor {
    q.heap()
        .launch(launches::attention(q.dtype(), q.width() / heads));
    attended(q, k, v, heads, causal)
}

/// The same with queries from x [B, Nq, in], by a weight without bias.
pub fn cross_attention(
    int8: Option<Scheme>,
    x: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Tensor {
    let (read, width) = ((x.dtype(), x.reads()), k.width());
    let kernels = launches::cross_attention(read, x.width(), int8, width / heads);
    x.heap().launch(kernels);
    attended(&product(int8, x, width, false), k, v, heads, false)
}

fn attended(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Tensor {
    let [batch, queries, width] = q.sizes();
    let [key_batch, keys, _] = k.sizes();
    debug_assert_eq!(k.dims(), v.dims());
    q.heap().run(
        work::attention(
            (batch * heads, key_batch * heads),
            queries,
            keys,
            width / heads,
            causal,
            q.value_bytes(),
        ),
        workspace::attention(
            q.dtype(),
            (batch, key_batch),
            (queries, keys),
            (width, heads),
            q.heap().threads(),
        ),
        q.dims().to_vec(),
        q.dtype(),
    )
}

/// Whose statistics a group norm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The image's own.
    Own,
    /// Those of a whole that the image is a part of.
    Given,
    /// The image's own, taken first and kept: what the tiled decode starts with.
    Taken,
}

/// A group norm and the activation behind it, given as `reads` says.
pub fn group_norm(
    reads: Reads,
    x: &Tensor,
    groups: usize,
    activation: Option<Activation>,
    statistics: Statistics,
) -> Tensor {
    let channels = x.width();
    let (pixels, bytes) = (x.count() / channels, x.value_bytes());
    let images = x.dims()[0];
    let given = statistics != Statistics::Own;
    let kernels = launches::group_norm(x.dtype(), channels, activation);
    x.heap().launch(kernels.filter(|_| !given));
    if statistics == Statistics::Taken {
        let workspace = workspace::group_norm_moments(x.dtype(), pixels, channels, groups);
        x.heap().pass(workspace);
    }
    let work = match activation {
        Some(activation) if given => work::group_norm_given(pixels, channels, activation, bytes),
        activation => work::group_norm(pixels, channels, activation, bytes),
    };
    let workspace = workspace::group_norm(
        (x.dtype(), reads),
        (images, pixels / images.max(1)),
        channels,
        groups,
        given,
        x.heap().threads(),
    );
    x.heap().run_for(reads, work, workspace, x, channels)
}

/// x [.., C] → the same shape, given as `reads` says.
pub fn layer_norm(reads: Reads, x: &Tensor) -> Tensor {
    let (rows, channels) = (x.count() / x.width(), x.width());
    let work = work::layer_norm(rows, channels, x.value_bytes());
    x.heap().launch(launches::rows(x.dtype(), channels));
    let threads = x.heap().threads();
    let workspace = workspace::layer_norm((x.dtype(), reads), rows, channels, threads);
    x.heap().run_for(reads, work, workspace, x, channels)
}

/// x [.., in] → [.., 2C], with a bias → GEGLU, [.., C], given as `reads` says.
pub fn linear_geglu(int8: Option<Scheme>, x: Tensor, channels: usize, reads: Reads) -> Tensor {
    let sizes = [x.width(), channels];
    let kernels = launches::linear_geglu((x.dtype(), x.reads()), sizes, int8, reads);
    x.heap().launch(kernels);
    let gated = product(int8, &x, 2 * channels, true);
    drop(x);
    geglu(reads, &gated)
}

fn geglu(reads: Reads, x: &Tensor) -> Tensor {
    let (rows, channels) = (x.count() / x.width(), x.width() / 2);
    let work = work::geglu(rows, channels, x.value_bytes());
    let threads = x.heap().threads();
    let workspace = workspace::geglu((x.dtype(), reads), rows, channels, threads);
    x.heap().run_for(reads, work, workspace, x, channels)
}

/// x → the same shape.
pub fn activation(x: &Tensor, which: Activation) -> Tensor {
    x.heap().launch(launches::activation(x.dtype(), x.count()));
    x.heap().run(
        work::activation(x.count(), which, x.value_bytes()),
        workspace::activation(x.dtype(), x.count()),
        x.dims().to_vec(),
        x.dtype(),
    )
}

/// a + b; b may be repeated.
pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    a.heap().launch(launches::add(a.dtype()));
    sum(a, b)
}

fn sum(a: &Tensor, b: &Tensor) -> Tensor {
    a.heap().run(
        work::add(a.count(), b.count(), a.value_bytes()),
        workspace::add(a.dtype(), a.count(), b.count()),
        a.dims().to_vec(),
        a.dtype(),
    )
}

/// Rows of a table in `dtype`: ids [B, N] → [B, N, width].
pub fn embedding(ids: &Tensor, width: usize, dtype: DType) -> Tensor {
    let [batch, length] = ids.sizes();
    let values = (batch * length * width, dtype.size_in_bytes());
    ids.heap().run(
        work::moved(values, values),
        0,
        vec![batch, length, width],
        dtype,
    )
}

/// `[B, C, H, W]` → `[B, H, W, C]`.
pub fn to_channels_last(image: &Tensor, dtype: DType) -> Tensor {
    let [b, c, h, w] = image.sizes();
    relayout(image, dtype, [b, h, w, c])
}

/// `[B, H, W, C]` → `[B, C, H, W]`.
pub fn to_channels_first(image: &Tensor, dtype: DType) -> Tensor {
    let [b, h, w, c] = image.sizes();
    relayout(image, dtype, [b, c, h, w])
}

fn relayout(image: &Tensor, dtype: DType, dims: [usize; 4]) -> Tensor {
    let (count, from, to) = (image.count(), image.value_bytes(), dtype.size_in_bytes());
    image
        .heap()
        .launch(launches::relayout(image.dtype(), dtype));
    image.heap().run(
        work::moved((count, from), (count, to)),
        workspace::relayout(image.dtype(), dtype, count),
        dims.into(),
        dtype,
    )
}

/// a [.., C₁], b [.., C₂] → [.., C₁ + C₂].
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Tensor {
    let values = (a.count() + b.count(), a.value_bytes());
    let mut dims = a.dims().to_vec();
    dims.pop();
    dims.push(a.width() + b.width());
    a.heap()
        .launch(launches::concat(a.dtype(), [a.width(), b.width()]));
    a.heap()
        .run(work::moved(values, values), 0, dims, a.dtype())
}

/// image [B, H, W, C] → [B, height, width, C]. Only what is tiled does it by kernels of its own, which
/// are not counted.
pub fn upsample_nearest(image: &Tensor, height: usize, width: usize) -> Tensor {
    let [batch, _, _, channels] = image.sizes();
    let dims = vec![batch, height, width, channels];
    let (read, written) = (image.count(), dims.iter().product());
    let bytes = image.value_bytes();
    image.heap().run(
        work::moved((read, bytes), (written, bytes)),
        0,
        dims,
        image.dtype(),
    )
}
