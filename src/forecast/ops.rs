//! The operations of [`crate::ops`] on tensors without values.

use candle_core::DType;

use super::Processor;
use super::heap::Tensor;
use super::launches;
use crate::measure::op::Work;
use crate::ops::int8::Scheme;
use crate::ops::limits::HEAD;
use crate::ops::workspace::{cpu, gpu};
use crate::ops::{Activation, Padding, Reads, doubles, out_size, work};

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
    let outputs = residual.width();
    if fused(int8, &x) {
        let values = residual.count();
        let add = work::add(values, values, x.value_bytes());
        let work = product_work(int8, &x, outputs, true).adding(add);
        return product_of(work, int8, &x, [outputs; 2], true);
    }
    let y = product(int8, &x, outputs, true);
    drop(x);
    sum(residual, &y)
}

/// Whether a GPU's kernel of the product does what stands behind it, too.
fn fused(int8: Option<Scheme>, x: &Tensor) -> bool {
    x.heap().processor() == Processor::Gpu && gpu::int8_kernel(x.dtype(), x.width(), int8).is_some()
}

fn product(int8: Option<Scheme>, x: &Tensor, outputs: usize, bias: bool) -> Tensor {
    let work = product_work(int8, x, outputs, bias);
    product_of(work, int8, x, [outputs; 2], bias)
}

fn product_work(int8: Option<Scheme>, x: &Tensor, outputs: usize, bias: bool) -> Work {
    let inputs = x.width();
    let rows = x.count() / inputs;
    let work = work::linear(rows, inputs, outputs, bias, x.value_bytes(), int8);
    read_by(x, work)
}

/// x [.., in] → [.., given], of a weight of so many outputs.
fn product_of(
    work: Work,
    int8: Option<Scheme>,
    x: &Tensor,
    [outputs, given]: [usize; 2],
    bias: bool,
) -> Tensor {
    let inputs = x.width();
    let rows = x.count() / inputs;
    let (read, sizes) = ((x.dtype(), x.reads()), (inputs, outputs));
    let workspace = match x.heap().processor() {
        Processor::Cpu { threads } => cpu::linear(read, rows, sizes, bias, int8, threads),
        Processor::Gpu => gpu::linear(read, rows, sizes, bias, int8),
    };
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(given);
    x.heap().run(work, workspace, dims, x.dtype())
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
        let on_gpu = image.heap().processor() == Processor::Gpu;
        let adds = match self.int8 {
            Some(_) if self.pointwise() => fused(self.int8, &image),
            _ => on_gpu && gpu::in_half(image.dtype()),
        };
        if adds {
            let added = added();
            return self.run(&image, image.sizes(), Some(&added));
        }
        let y = self.forward(&image);
        drop(image);
        sum(&y, &added())
    }

    /// The convolution of the image enlarged to a size, which a GPU's kernel reads as if it were.
    pub fn forward_upsampled(self, image: &Tensor, [height, width]: [usize; 2]) -> Tensor {
        let [batch, from_height, from_width, inputs] = image.sizes();
        let doubled = doubles(from_height, height) && doubles(from_width, width);
        let on_gpu = image.heap().processor() == Processor::Gpu;
        if on_gpu && gpu::in_half(image.dtype()) && !self.pointwise() && doubled {
            return self.run(image, [batch, height, width, inputs], None);
        }
        self.forward(&upsample_nearest(image, height, width))
    }

    /// image [B, H, W, in] → [B, H', W', out].
    pub fn forward(self, image: &Tensor) -> Tensor {
        self.run(image, image.sizes(), None)
    }

    fn pointwise(self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == Padding::default()
    }

    /// Of an image that is read as one of these sizes, with what the same kernel adds.
    fn run(
        self,
        image: &Tensor,
        [batch, height, width, inputs]: [usize; 4],
        added: Option<&Tensor>,
    ) -> Tensor {
        let Self {
            outputs,
            kernel,
            stride,
            padding,
            int8,
        } = self;
        let [out_height, out_width] = out_size(height, width, kernel, stride, padding);
        let (pixels, out_pixels) = (image.count() / inputs, out_height * out_width);
        let taps = kernel * kernel;
        let pointwise = self.pointwise();
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
        let mut work = read_by(image, work);
        let dims = vec![batch, out_height, out_width, outputs];
        if let Some(added) = added {
            let values = dims.iter().product();
            work = work.adding(work::add(values, added.count(), image.value_bytes()));
        }
        let counts = (pixels, batch, out_pixels);
        let sizes = (inputs, outputs);
        let workspace = match image.heap().processor() {
            Processor::Cpu { threads } => {
                cpu::conv2d(read, counts, taps, sizes, pointwise, int8, threads)
            }
            Processor::Gpu => {
                let counts = (pixels, batch, [out_height, out_width]);
                gpu::conv2d(read, counts, taps, sizes, pointwise, int8)
            }
        };
        image.heap().run(work, workspace, dims, image.dtype())
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
    let expected = match int8 {
        Some(Scheme::W8A8) => Reads::Int8,
        _ => Reads::Float,
    };
    if fused(int8, x) && x.reads() == expected && width / heads == HEAD {
        let mut dims = x.dims().to_vec();
        dims.pop();
        dims.push(width);
        let queries = product_work(int8, x, width, false);
        let work = attention_work(&dims, x.value_bytes(), k, heads, false).making(queries);
        return x.heap().run(work, 0, dims, x.dtype());
    }
    attended(&product(int8, x, width, false), k, v, heads, false)
}

/// Of queries [B, Nq, C] and keys [K, Nk, C].
fn attention_work(q: &[usize], bytes: usize, k: &Tensor, heads: usize, causal: bool) -> Work {
    let [key_batch, keys, width] = k.sizes();
    let (batch, queries) = (q[0], q[1]);
    let rows = (batch * heads, key_batch * heads);
    work::attention(rows, queries, keys, width / heads, causal, bytes)
}

fn attended(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Tensor {
    let [batch, queries, width] = q.sizes();
    let [key_batch, keys, _] = k.sizes();
    debug_assert_eq!(k.dims(), v.dims());
    let (rows, lengths, sizes) = ((batch, key_batch), (queries, keys), (width, heads));
    let workspace = match q.heap().processor() {
        Processor::Cpu { threads } => cpu::attention(q.dtype(), rows, lengths, sizes, threads),
        Processor::Gpu => gpu::attention(q.dtype(), rows, lengths, sizes),
    };
    let work = attention_work(q.dims(), q.value_bytes(), k, heads, causal);
    q.heap().run(work, workspace, q.dims().to_vec(), q.dtype())
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
        x.heap().pass(match x.heap().processor() {
            Processor::Cpu { .. } => cpu::group_norm_moments(x.dtype(), pixels, channels, groups),
            Processor::Gpu => {
                let image = (images, pixels / images.max(1));
                gpu::group_norm(x.dtype(), image, (channels, groups), None, false)
            }
        });
    }
    let work = match activation {
        Some(activation) if given => work::group_norm_given(pixels, channels, activation, bytes),
        activation => work::group_norm(pixels, channels, activation, bytes),
    };
    let (dtype, sizes) = (x.dtype(), (images, pixels / images.max(1)));
    let workspace = match x.heap().processor() {
        Processor::Cpu { threads } => {
            cpu::group_norm((dtype, reads), sizes, channels, groups, given, threads)
        }
        Processor::Gpu => gpu::group_norm(dtype, sizes, (channels, groups), activation, given),
    };
    x.heap().run_for(reads, work, workspace, x, channels)
}

/// x [.., C] → the same shape, given as `reads` says.
pub fn layer_norm(reads: Reads, x: &Tensor) -> Tensor {
    let (rows, channels) = (x.count() / x.width(), x.width());
    let work = work::layer_norm(rows, channels, x.value_bytes());
    x.heap().launch(launches::rows(x.dtype(), channels));
    let workspace = match x.heap().processor() {
        Processor::Cpu { threads } => cpu::layer_norm((x.dtype(), reads), rows, channels, threads),
        Processor::Gpu => gpu::layer_norm(x.dtype(), rows, channels),
    };
    x.heap().run_for(reads, work, workspace, x, channels)
}

/// x [.., in] → [.., 2C], with a bias → GEGLU, [.., C], given as `reads` says.
pub fn linear_geglu(int8: Option<Scheme>, x: Tensor, channels: usize, reads: Reads) -> Tensor {
    let sizes = [x.width(), channels];
    let kernels = launches::linear_geglu((x.dtype(), x.reads()), sizes, int8, reads);
    if fused(int8, &x) {
        // Floats in any case: the layer behind it quantises for itself.
        x.heap().launch(launches::linear_geglu(
            (x.dtype(), x.reads()),
            sizes,
            int8,
            Reads::Float,
        ));
        let rows = x.count() / x.width();
        let geglu = work::geglu(rows, channels, x.value_bytes());
        let work = product_work(int8, &x, 2 * channels, true).gating(geglu);
        return product_of(work, int8, &x, [2 * channels, channels], true);
    }
    x.heap().launch(kernels);
    let gated = product(int8, &x, 2 * channels, true);
    drop(x);
    geglu(reads, &gated)
}

fn geglu(reads: Reads, x: &Tensor) -> Tensor {
    let (rows, channels) = (x.count() / x.width(), x.width() / 2);
    let work = work::geglu(rows, channels, x.value_bytes());
    let workspace = match x.heap().processor() {
        Processor::Cpu { threads } => cpu::geglu((x.dtype(), reads), rows, channels, threads),
        Processor::Gpu => gpu::geglu(x.dtype(), rows, channels),
    };
    x.heap().run_for(reads, work, workspace, x, channels)
}

/// x → the same shape.
pub fn activation(x: &Tensor, which: Activation) -> Tensor {
    x.heap().launch(launches::activation(x.dtype(), x.count()));
    let workspace = match x.heap().processor() {
        Processor::Cpu { .. } => cpu::activation(x.dtype(), x.count()),
        Processor::Gpu => gpu::activation(x.dtype(), x.count()),
    };
    let work = work::activation(x.count(), which, x.value_bytes());
    x.heap().run(work, workspace, x.dims().to_vec(), x.dtype())
}

/// a + b; b may be repeated.
pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    a.heap().launch(launches::add(a.dtype()));
    sum(a, b)
}

fn sum(a: &Tensor, b: &Tensor) -> Tensor {
    sum_of(a, b.count())
}

/// x plus `values` values that it repeats, which are no tensor of the heap.
pub fn sum_of(x: &Tensor, values: usize) -> Tensor {
    let workspace = match x.heap().processor() {
        Processor::Cpu { .. } => cpu::add(x.dtype(), x.count(), values),
        Processor::Gpu => 0,
    };
    let work = work::add(x.count(), values, x.value_bytes());
    x.heap().run(work, workspace, x.dims().to_vec(), x.dtype())
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
    let workspace = match image.heap().processor() {
        Processor::Cpu { .. } => cpu::relayout(image.dtype(), dtype, count),
        Processor::Gpu => 0,
    };
    let work = work::moved((count, from), (count, to));
    image.heap().run(work, workspace, dims.into(), dtype)
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
    // A GPU repeats the rows first.
    let rows = match image.heap().processor() {
        Processor::Cpu { .. } => 0,
        Processor::Gpu => written / width.max(1) * image.dims()[2] * bytes,
    };
    image.heap().run(
        work::moved((read, bytes), (written, bytes)),
        rows,
        dims,
        image.dtype(),
    )
}
