// What the stand-in driver refuses because every GPU does, and what ends a capture there: tested, since the rest is only
// proven by it if it does. `test`, with the stand-ins on LD_LIBRARY_PATH; a line for each case, exit status 1 if one fails.
#include "../../launch.h"

#include <cstdint>
#include <cstdio>
#include <functional>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

extern "C" {
using Handle = void *;
using Address = unsigned long long;
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(Handle *, int);
int cuCtxSetCurrent(Handle);
int cuCtxSynchronize();
int cuModuleLoadData(Handle *, const void *);
int cuModuleGetFunction(Handle *, Handle, const char *);
int cuFuncSetAttribute(Handle, int, int);
int cuLaunchKernel(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void **, void **);
int cuMemAlloc_v2(Address *, size_t);
int cuMemAllocAsync(Address *, size_t, Handle);
int cuMemFree_v2(Address);
int cuMemcpyHtoDAsync_v2(Address, const void *, size_t, Handle);
int cuMemcpyDtoHAsync_v2(void *, Address, size_t, Handle);
int cuStreamCreate(Handle *, unsigned);
int cuStreamDestroy_v2(Handle);
int cuStreamSynchronize(Handle);
int cuStreamBeginCapture_v2(Handle, int);
int cuStreamEndCapture(Handle, Handle *);
int cuGraphInstantiateWithFlags(Handle *, Handle, unsigned long long);
int cuGraphLaunch(Handle, Handle);
int cuGraphDestroy(Handle);
int cuGraphExecDestroy(Handle);
}

static bool failed = false;

static void is(const char *what, bool wanted) {
  printf("%s %s\n", wanted ? "ok" : "FAILED", what);
  failed |= !wanted;
}

int main() {
  constexpr size_t COUNT = 1024;
  Handle context, stream, module, kernel;
  Address x, sentinel;
  bool ready = !cuInit(0) && !cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context) && !cuStreamCreate(&stream, 0);
  // A module's kernels are those of its text.
  ready = ready && !cuModuleLoadData(&module, ".target sm_80 .entry finite_f16(") && !cuModuleGetFunction(&kernel, module, "finite_f16");
  ready = ready && !cuMemAlloc_v2(&x, 2 * COUNT + 16) && !cuMemAlloc_v2(&sentinel, 8);
  is("a device, a stream, a kernel, memory", ready);
  if (!ready) return 1;
  const uint16_t values[COUNT] = {};
  const uint32_t zeros[2] = {};
  is("copies", !cuMemcpyHtoDAsync_v2(x, values, sizeof values, stream) && !cuMemcpyHtoDAsync_v2(sentinel, zeros, sizeof zeros, stream));

  struct Shape {
    unsigned grid[3] = {1, 1, 1}, block[3] = {FINITE_THREADS, 1, 1}, shared_bytes = 0;
  };
  auto launch = [&](const Shape &s, Address at) {
    Finite parameters = {reinterpret_cast<const void *>(at), COUNT, reinterpret_cast<uint32_t *>(sentinel)};
    void *arguments[] = {&parameters};
    return cuLaunchKernel(kernel, s.grid[0], s.grid[1], s.grid[2], s.block[0], s.block[1], s.block[2], s.shared_bytes, stream, arguments, nullptr);
  };
  is("a launch", !launch({}, x));
  is("no grid", launch({.grid = {0, 1, 1}}, x));
  is("a grid beyond 65535 in y", launch({.grid = {1, 65536, 1}}, x));
  is("a grid beyond 65535 in z", launch({.grid = {1, 1, 65536}}, x));
  is("no block", launch({.block = {FINITE_THREADS, 0, 1}}, x));
  is("a block beyond 64 in z", launch({.block = {1, 1, 65}}, x));
  static_assert(FINITE_THREADS < 1024);
  is("a block beyond the kernel's launch bound", launch({.block = {FINITE_THREADS + 1, 1, 1}}, x));
  is("more shared memory than was asked for", launch({.shared_bytes = (48 << 10) + 1}, x));
  constexpr int MAX_DYNAMIC_SHARED = 8;
  is("more shared memory than there is", cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED, 1 << 20));
  is("shared memory that was asked for", !cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED, 64 << 10) && !launch({.shared_bytes = 64 << 10}, x));
  fflush(stdout);
  const pid_t child = fork();
  if (!child) {
    freopen("/dev/null", "w", stderr);
    launch({}, x + 2);  // read in vectors
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  is("a vector where none may lie", status != 0);
  is("a copy beyond an allocation", cuMemcpyHtoDAsync_v2(x + 32, values, sizeof values, stream));

  // A capture of `work`, which ends well or not; what it captured is launched.
  uint16_t back[COUNT];
  auto captured = [&](const std::function<void()> &work) {
    Handle graph = nullptr, executable;
    if (cuStreamBeginCapture_v2(stream, 1)) return false;
    work();
    if (cuStreamEndCapture(stream, &graph)) return false;
    const bool ran = !cuGraphInstantiateWithFlags(&executable, graph, 0) && !cuGraphLaunch(executable, stream);
    return !cuGraphDestroy(graph) && !cuGraphExecDestroy(executable) && ran;
  };
  is("a capture", captured([&] { launch({}, x); }));
  back[0] = 1;
  is("a captured copy to the host is done at the launch",
     captured([&] { is("and not before", !cuMemcpyDtoHAsync_v2(back, x, sizeof back, stream) && back[0] == 1); }) && back[0] == 0);
  is("waiting for a captured stream", !captured([&] { is("is an error", cuStreamSynchronize(stream)); }));
  is("memory of a captured stream", !captured([&] { is("is none", cuMemAllocAsync(&x, 8, stream)); }));
  is("waiting for the GPU", !captured([&] { is("is an error", cuCtxSynchronize()); }));
  is("waiting for the GPU in another thread", !captured([&] {
       std::thread([&] { is("is an error there", cuCtxSynchronize()); }).join();
     }));
  is("nothing is captured any more", !cuCtxSynchronize());
  is("all is given back", !cuMemFree_v2(x) && !cuMemFree_v2(sentinel) && !cuStreamDestroy_v2(stream));
  return failed;
}
