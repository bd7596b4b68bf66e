// A stand-in for cuBLAS, cuRAND and the CUDA runtime: what candle calls of them. Device memory is host memory
// (driver.cpp). What is not here is a stub of build's.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <utility>
#include <vector>

int stand_in_product(void *stream, const char *name, std::function<void()> work);  // driver.cpp
extern "C" {
int cuStreamIsCapturing(void *stream, int *status);
int cuMemAllocAsync(unsigned long long *to, size_t bytes, void *stream);
int cuMemFreeAsync(unsigned long long from, void *stream);
int cuInit(unsigned flags);
int cuMemAlloc_v2(unsigned long long *to, size_t bytes);
int cuDevicePrimaryCtxRetain(void **context, int device);
int cuCtxSetCurrent(void *context);
int cuModuleLoadData(void **module, const void *image);
int cuModuleGetFunction(void **function, void *module, const char *name);
int cuFuncSetAttribute(void *function, int attribute, int value);
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared_bytes, void *stream, void **arguments, void **extra);
int cuCtxSynchronize();
int cuGetErrorString(int result, const char **text);
}

#define CALL extern "C" __attribute__((visibility("default"))) int
using Handle = void *;

namespace {

int something;  // what handles point at

enum Type { F32 = 0, F16 = 2, BF16 = 14 };

float load(const void *from, size_t at, int type) {
  if (type == F32) return static_cast<const float *>(from)[at];
  if (type == F16) return float(static_cast<const _Float16 *>(from)[at]);
  const uint32_t bits = uint32_t(static_cast<const uint16_t *>(from)[at]) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

void store(void *to, size_t at, int type, float value) {
  if (type == F32) {
    static_cast<float *>(to)[at] = value;
  } else if (type == F16) {
    static_cast<_Float16 *>(to)[at] = _Float16(value);
  } else {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    static_cast<uint16_t *>(to)[at] = nan ? 0x7FFF : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
}

constexpr int ALLOC_FAILED = 3, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15;
constexpr int CURAND_LAUNCH_FAILURE = 201;

struct Blas {
  Handle stream = nullptr;
  void *workspace = nullptr;  // the caller's, if it has given one
};

// cuBLAS that has to find memory for itself while a stream is captured allocates in the graph.
bool has_memory(const Blas &blas) {
  int capturing = 0;
  cuStreamIsCapturing(blas.stream, &capturing);
  if (!capturing || blas.workspace) return true;
  unsigned long long own = 0;
  return !cuMemAllocAsync(&own, 4 << 20, blas.stream) && !cuMemFreeAsync(own, blas.stream);
}

}  // namespace

// ---- cuBLAS -------------------------------------------------------------------------------------------------------

CALL cublasCreate_v2(Handle *handle) {
  *handle = new Blas;
  return 0;
}
// Waits for the GPU, and fails where that does.
CALL cublasDestroy_v2(Handle handle) {
  delete static_cast<Blas *>(handle);
  return cuCtxSynchronize() ? EXECUTION_FAILED : 0;
}
CALL cublasSetStream_v2(Handle handle, Handle stream) {
  *static_cast<Blas *>(handle) = {stream, nullptr};  // back to cuBLAS's own memory, as its documentation says
  return 0;
}
CALL cublasSetWorkspace_v2(Handle handle, void *workspace, size_t bytes) {
  if (!workspace || !bytes || uintptr_t(workspace) % 256) return INVALID_VALUE;
  static_cast<Blas *>(handle)->workspace = workspace;
  return 0;
}
CALL cublasSetMathMode(Handle, int) { return 0; }
CALL cublasSetPointerMode_v2(Handle, int) { return 0; }

// c = alpha · op(a) · op(b) + beta · c, column by column, summed in float32 and rounded once.
CALL cublasGemmStridedBatchedEx(Handle handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int a_type,
                                int lda, long long stride_a, const void *b, int b_type, int ldb, long long stride_b, const void *beta,
                                void *c, int c_type, int ldc, long long stride_c, int batch, int compute, int) {
  constexpr int COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77;
  if (compute != COMPUTE_32F && compute != COMPUTE_32F_FAST_TF32) return NOT_SUPPORTED;
  const float by = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
  const auto product = [=] {
    std::vector<float> rows(size_t(m) * k), column(k);
    for (int i = 0; i < batch; i++) {
      for (size_t row = 0; row < size_t(m); row++)
        for (size_t l = 0; l < size_t(k); l++)
          rows[row * k + l] = load(a, size_t(i * stride_a) + (turn_a ? row * lda + l : l * lda + row), a_type);
      for (size_t col = 0; col < size_t(n); col++) {
        for (size_t l = 0; l < size_t(k); l++)
          column[l] = load(b, size_t(i * stride_b) + (turn_b ? l * ldb + col : col * ldb + l), b_type);
        for (size_t row = 0; row < size_t(m); row++) {
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (size_t l = 0; l < size_t(k); l++) sum += rows[row * k + l] * column[l];
          const size_t at = size_t(i * stride_c) + col * ldc + row;
          store(c, at, c_type, by * sum + (keep == 0 ? 0 : keep * load(c, at, c_type)));
        }
      }
    }
  };
  const Blas &blas = *static_cast<Blas *>(handle);
  if (!has_memory(blas)) return ALLOC_FAILED;
  return stand_in_product(blas.stream, "cuBLAS product", product) ? EXECUTION_FAILED : 0;
}
CALL cublasSgemmStridedBatched(Handle handle, int turn_a, int turn_b, int m, int n, int k, const float *alpha, const float *a, int lda,
                               long long stride_a, const float *b, int ldb, long long stride_b, const float *beta, float *c, int ldc,
                               long long stride_c, int batch) {
  return cublasGemmStridedBatchedEx(handle, turn_a, turn_b, m, n, k, alpha, a, F32, lda, stride_a, b, F32, ldb, stride_b, beta, c, F32,
                                    ldc, stride_c, batch, 68, 0);
}

// ---- cuRAND: candle makes a generator with each device; benches/kernels.rs draws from it, other numbers than a GPU's --

CALL curandCreateGenerator(Handle *generator, int) {
  *generator = &something;
  return 0;
}
CALL curandDestroyGenerator(Handle) { return cuCtxSynchronize() ? CURAND_LAUNCH_FAILURE : 0; }
CALL curandSetPseudoRandomGeneratorSeed(Handle, unsigned long long) { return 0; }
CALL curandSetStream(Handle, Handle) { return 0; }
CALL curandGenerateNormal(Handle, float *out, size_t count, float mean, float deviation) {
  static std::mt19937 generator;
  std::normal_distribution<float> normal(mean, deviation);
  for (size_t i = 0; i < count; i++) out[i] = normal(generator);
  return 0;
}

// ---- runtime: what a program that nvcc has linked calls (kernels/device-check), by way of the driver -------------------
// Kernels register themselves when such a program starts. Some of candle's do, too, and are never launched.

namespace {

struct Image {
  const void *const *wrapper;  // magic and version, then the fat binary
  Handle module = nullptr;
};
struct Kernel {
  Image *image;
  const char *name;
  Handle function = nullptr;
};

// By the address that the host knows a kernel by.
std::map<const void *, Kernel> &registered() {
  static std::map<const void *, Kernel> kernels;
  return kernels;
}

int last_error = 0;
int told(int error) {
  if (error) last_error = error;
  return error;
}

int find(const void *entry, Handle *function) {
  constexpr int INVALID_DEVICE_FUNCTION = 98;
  const auto found = registered().find(entry);
  if (found == registered().end()) return INVALID_DEVICE_FUNCTION;
  Kernel &kernel = found->second;
  if (!kernel.image->module)
    if (int error = cuModuleLoadData(&kernel.image->module, kernel.image->wrapper[1])) return error;
  if (!kernel.function)
    if (int error = cuModuleGetFunction(&kernel.function, kernel.image->module, kernel.name)) return error;
  *function = kernel.function;
  return 0;
}

struct Dim3 {
  unsigned x, y, z;
};

}  // namespace

#define REGISTER extern "C" __attribute__((visibility("default")))
REGISTER void **__cudaRegisterFatBinary(void *wrapper) {
  return reinterpret_cast<void **>(new Image{static_cast<const void *const *>(wrapper)});
}
REGISTER void __cudaRegisterFatBinaryEnd(void **) {}
REGISTER void __cudaUnregisterFatBinary(void **) {}
REGISTER void __cudaRegisterFunction(void **image, const void *entry, char *, const char *name) {
  registered()[entry] = {reinterpret_cast<Image *>(image), name};
}
REGISTER void __cudaRegisterVar() {}

CALL cudaMallocManaged(void **to, size_t bytes, unsigned) {
  void *context = nullptr;  // the runtime's first call makes the device's own current
  cuDevicePrimaryCtxRetain(&context, 0), cuCtxSetCurrent(context);
  if (int error = cuInit(0)) return told(error);
  return told(cuMemAlloc_v2(reinterpret_cast<unsigned long long *>(to), bytes));
}
CALL cudaFuncSetAttribute(const void *entry, int attribute, int value) {
  Handle function;
  if (int error = find(entry, &function)) return told(error);
  return told(cuFuncSetAttribute(function, attribute, value));
}
CALL cudaLaunchKernel(const void *entry, Dim3 grid, Dim3 block, void **arguments, size_t shared_bytes, Handle stream) {
  Handle function;
  if (int error = find(entry, &function)) return told(error);
  return told(cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, unsigned(shared_bytes), stream, arguments, nullptr));
}
CALL cudaDeviceSynchronize() { return told(cuCtxSynchronize()); }
CALL cudaGetLastError() { return std::exchange(last_error, 0); }
extern "C" __attribute__((visibility("default"))) const char *cudaGetErrorString(int error) {
  const char *text;
  return cuGetErrorString(error, &text) ? "unrecognized error code" : text;
}
