// What the tests need to run on a GPU rather than under the emulation: harness.h includes it where nvcc compiles.
//
// The tests keep everything in vectors, whose addresses they give to the kernels; device.cpp gives vectors memory that
// host and GPU see at the same addresses, with fences, which are looked at after each launch. An error of the GPU's that
// ends a kernel ends the program, as nothing can run after it.
#pragma once

#include <string>

// The test's own main, called by device.cpp's.
int test_main();

namespace device {

// Whether new and delete are the test's. CUDA's calls have the usual ones: what they keep is none of its business.
extern thread_local bool in_test;

// Ends the program with a line as a failed case has it. Status 3: no GPU can be used.
[[noreturn]] void end(int status, const char *what, const char *why);

// Where memory behind a block was written; empty if nowhere. Each place is told once.
std::string check_fences();

}  // namespace device

#ifdef __CUDACC__

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace test {

// Conversions on the host: CUDA's own, not those of the kernels.
inline double wide(float x) { return x; }
inline double wide(F16 x) {
  __half_raw raw;
  raw.x = x.bits;
  return __half2float(raw);
}
inline double wide(BF16 x) {
  __nv_bfloat16_raw raw;
  raw.x = x.bits;
  return __bfloat162float(raw);
}
template <class T> T rounded(float x);
template <> inline float rounded<float>(float x) { return x; }
template <> inline F16 rounded<F16>(float x) { return F16{__half_raw(__float2half_rn(x)).x}; }
template <> inline BF16 rounded<BF16>(float x) { return BF16{__nv_bfloat16_raw(__float2bfloat16_rn(x)).x}; }

// Runs a kernel, and says what went wrong. The seed is for the emulation's order of threads.
template <class P> std::string run_kernel(void (*kernel)(P), const Launch &launch, P parameters, uint64_t, const char *name) {
  char copy[256];  // out of managed memory, which a GPU's error may take along
  snprintf(copy, sizeof copy, "%s", name);
  const void *const entry = reinterpret_cast<const void *>(kernel);
  void *arguments[] = {&parameters};
  device::in_test = false;
  cudaError_t error = cudaSuccess;
  if (launch.shared_bytes > 48 << 10) error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, int(launch.shared_bytes));
  if (!error) error = cudaLaunchKernel(entry, dim3(launch.grid[0], launch.grid[1], launch.grid[2]), dim3(launch.block), arguments, launch.shared_bytes, nullptr);
  if (const cudaError_t lost = cudaDeviceSynchronize()) device::end(1, copy, cudaGetErrorString(lost));
  cudaGetLastError();  // a launch refused is told of once
  device::in_test = true;
  return error ? cudaGetErrorString(error) : device::check_fences();
}

}  // namespace test

#define main test_main

#endif
