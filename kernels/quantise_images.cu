// quantise_images: images of f16/bf16 → int8 with one scale for each image, before an int8 convolution whose input no
// other kernel of ours has written.
//
// Idea: two kernels. `images_largest`: many blocks go over an image; the largest magnitude as an integer maximum over
//   bits, which loses no NaN, in registers, then in warps, then one atomic for each warp. `quantise_images`: divides.
// Shapes: x [batch, values] → [batch, values] int8 and [batch] scales; values % 8 = 0.
// Memory traffic: the image twice (the second time from the second-level cache where it fits), one byte a value out.
// Replaces: absolute maximum + division + rounding as three passes.
// Proof: emulation/norms_test.cpp, bit for bit.
#include "rows.cuh"

template <class T> DEVICE void images_largest(const Images &p) {
  const T *const x = static_cast<const T *>(p.x) + size_t(blockIdx.y) * p.values;
  const int vectors = p.values / VECTOR, step = int(gridDim.x) * IMAGE_THREADS;
  uint32_t largest = 0;
  for (int i = int(blockIdx.x) * IMAGE_THREADS + int(threadIdx.x); within(i, vectors); i += step)
    largest = max(largest, magnitude_bits(load_eight(x + size_t(i) * VECTOR)));
  largest = warp_max(largest);
  if (threadIdx.x % 32 == 0) atomicMax(p.largest + blockIdx.y, largest);
}

template <class T> DEVICE void quantise_images(const Images &p) {
  const size_t image = size_t(blockIdx.y) * p.values;
  const int vectors = p.values / VECTOR, step = int(gridDim.x) * IMAGE_THREADS;
  const Quantiser quantiser(p.largest[SEEDED(PLACE, blockIdx.y, 0)]);
  for (int i = int(blockIdx.x) * IMAGE_THREADS + int(threadIdx.x); within(i, vectors); i += step) {
    const size_t at = image + size_t(i) * VECTOR;
    quantiser.store(static_cast<int8_t *>(p.out) + at, load_eight(static_cast<const T *>(p.x) + at));
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.out_scales[blockIdx.y] = quantiser.scale;
}

KERNEL(IMAGE_THREADS, 4) images_largest_f16(const Images p) { images_largest<F16>(p); }
KERNEL(IMAGE_THREADS, 4) images_largest_bf16(const Images p) { images_largest<BF16>(p); }
KERNEL(IMAGE_THREADS, 4) quantise_images_f16(const Images p) { quantise_images<F16>(p); }
KERNEL(IMAGE_THREADS, 4) quantise_images_bf16(const Images p) { quantise_images<BF16>(p); }
