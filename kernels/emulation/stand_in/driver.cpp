// A stand-in for libcuda.so.1, for tests on machines without a GPU: device memory is host memory, kernels run under
// the emulation, every call has ended when it returns. What is not here is a stub of build's, which names itself.
//
// It is stricter than a GPU where a GPU would be lenient: new memory is NaN, freed memory is scribbled over, memory
// past an allocation's end is checked when it is freed, and a launch over the limits of sm_86 fails.
//
// While a stream is captured, nothing runs on it: kernels, products, copies and fills become a graph. Who waits for the
// stream, or in whatever thread for the device, makes an error of the capture. So does an allocation, which a GPU's driver
// would make a node of the graph: darkroom's graphs are to have none.
//
// The environment says what device it is, and what goes wrong:
//   STAND_IN_DEVICES=1 STAND_IN_CAPABILITY=8.6 STAND_IN_DRIVER=version (the toolkit's) STAND_IN_MEMORY=bytes
//   STAND_IN_FAIL=alloc:N   the N-th allocation finds no memory, nor does any after it
//   STAND_IN_FAIL=launch:N  the N-th launch fails, and with it all that follows, as on a GPU
//   STAND_IN_FAIL=lost:N    the device is gone from the N-th launch, copy or allocation on
//   STAND_IN_FAIL=image:N   the N-th module has no image for the device
//   STAND_IN_FAIL=…:N@capture  counted from the first capture of a stream on
//   STAND_IN_REPORT=1       at exit, tells how often each kernel ran, what was not freed (then exit status 86)
//   STAND_IN_DRY=1          kernels, products and large copies are counted, not done: for sizes that no CPU computes in time
#include "table.h"

#include <chrono>
#include <memory>
#include <mutex>
#include <thread>

#include <sys/mman.h>

#define CALL extern "C" __attribute__((visibility("default"))) int
using Handle = void *;
using Address = unsigned long long;

namespace {

enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  DEVICE_UNAVAILABLE = 46,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_PTX = 218,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
};

struct Words {
  int result;
  const char *name, *text;
};
constexpr Words WORDS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value ? value : otherwise;
}

// Bytes before and after each allocation that nobody may write.
constexpr size_t FENCE_BYTES = 256;
constexpr size_t LARGE_BYTES = 64 << 10;  // copies that a dry run leaves out; scales, which the host checks, are smaller
constexpr unsigned char FENCE = 0xFD, FREED = 0xFB;

struct Graph {
  std::vector<stand_in::Work> nodes;
  long kernels = 0;
};

struct Capture {
  std::shared_ptr<Graph> graph;  // null: nothing is captured
  std::thread::id thread;
  bool failed = false;
};

struct Stream {
  Capture capture;
};

struct Device {
  int count = atoi(setting("STAND_IN_DEVICES", "1"));
  int driver = getenv("STAND_IN_DRIVER") ? atoi(getenv("STAND_IN_DRIVER")) : TOOLKIT_VERSION;
  int major = 8, minor = 6;
  size_t memory_bytes = strtoull(setting("STAND_IN_MEMORY", "8589934592"), nullptr, 10);
  bool report = atoi(setting("STAND_IN_REPORT", "0"));
  bool dry = atoi(setting("STAND_IN_DRY", "0"));
  std::string failing;  // alloc, launch, lost, image
  long countdown = 0;
  bool counting = true;
  int broken = SUCCESS;  // what every call returns once the device is broken

  std::mutex mutex;
  std::map<Address, size_t> allocations;
  size_t used = 0, most_used = 0;
  std::map<std::string, long> launches;
  long copies = 0, graph_launches = 0, graph_kernels = 0;
  long images[3] = {};             // fat binaries loaded, by what kind of image
  long events = 0, graphs = 0;  // that there are; captured and executable ones
  Stream default_stream;  // null to callers
  std::set<Stream *> streams = {&default_stream};

  Device() {
    sscanf(setting("STAND_IN_CAPABILITY", "8.6"), "%d.%d", &major, &minor);
    const std::string fail = setting("STAND_IN_FAIL", "");
    if (const size_t colon = fail.find(':'); colon != std::string::npos) {
      failing = fail.substr(0, colon);
      countdown = atol(fail.c_str() + colon + 1);
      counting = fail.find("@capture") == std::string::npos;
    }
  }

  ~Device() {
    if (!report) return;
    long all = 0;
    for (const auto &[name, times] : launches) fprintf(stderr, "stand-in: %7ld × %s\n", times, name.c_str()), all += times;
    fprintf(stderr, "stand-in: %ld fat binaries as machine code, %ld as PTX\n", images[2], images[1]);
    if (graph_launches) fprintf(stderr, "stand-in: %ld graphs launched, of %ld kernels in all\n", graph_launches, graph_kernels);
    fprintf(stderr, "stand-in: %ld launches, %ld copies and fills, %zu bytes at most, %zu allocations of %zu bytes not freed\n",
            all, copies, most_used, allocations.size(), used);
    const long left = long(streams.size()) - 1;
    if (left || events || graphs) fprintf(stderr, "stand-in: %ld streams, %ld events, %ld graphs not destroyed\n", left, events, graphs);
    fflush(nullptr);
    if (used || left || events || graphs) _exit(86);
  }

  // Whether this is the call that goes wrong.
  bool fails(const char *what) { return counting && failing == what && --countdown == 0; }

  int enter() {
    if (!broken && fails("lost")) broken = DEVICE_UNAVAILABLE;
    return broken;
  }

  Capture &capture_of(Handle stream) { return static_cast<Stream *>(stream ? stream : &default_stream)->capture; }

  // Does a stream's next piece of work, or records it; the mutex is held.
  int perform(Capture &capture, stand_in::Work work) {
    if (!capture.graph) return work(), SUCCESS;
    if (!capture.failed) capture.graph->nodes.push_back(std::move(work));
    return capture.failed ? CAPTURE_INVALIDATED : SUCCESS;
  }
  // What may not happen on a stream that is captured; the mutex is held.
  int forbidden(Capture &capture) {
    if (!capture.graph) return SUCCESS;
    return std::exchange(capture.failed, true) ? CAPTURE_INVALIDATED : CAPTURE_UNSUPPORTED;
  }
  // What waits for all of a GPU, and so for what is captured in whatever thread.
  int wait_for_all() {
    std::lock_guard lock(mutex);
    int result = SUCCESS;
    for (Stream *stream : streams)
      if (int failed = forbidden(stream->capture)) result = failed;
    return result ? result : broken;
  }
  // What may not happen in a thread that captures any.
  int forbidden_here() {
    for (Stream *stream : streams)
      if (stream->capture.graph && stream->capture.thread == std::this_thread::get_id()) return forbidden(stream->capture);
    return SUCCESS;
  }
  int wait(Handle stream) {
    std::lock_guard lock(mutex);
    const int result = forbidden(capture_of(stream));
    return result ? result : broken;
  }
  int wait() {
    std::lock_guard lock(mutex);
    const int result = forbidden_here();
    return result ? result : broken;
  }

  // A kernel or a product; the mutex is held.
  int launch(Handle stream, const std::string &name, stand_in::Work work) {
    if (int result = enter()) return result;
    if (fails("launch")) return broken = LAUNCH_FAILED;
    Capture &capture = capture_of(stream);
    ++(capture.graph ? capture.graph->kernels : launches[name]);
    return perform(capture, dry ? [] {} : std::move(work));
  }

  int reserve(Address *to, size_t bytes) {
    if (counting && failing == "alloc" && --countdown <= 0) return OUT_OF_MEMORY;
    if (used + bytes > memory_bytes) return OUT_OF_MEMORY;
    if (dry) {  // pages that nobody touches take no memory: a dry run may have more than the machine
      void *pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (pages == MAP_FAILED) return OUT_OF_MEMORY;
      *to = Address(pages);
      return book(*to, bytes);
    }
    auto *block = static_cast<unsigned char *>(aligned_alloc(256, (bytes + 2 * FENCE_BYTES + 255) & ~size_t(255)));
    if (!block) return OUT_OF_MEMORY;
    memset(block, FENCE, FENCE_BYTES);
    memset(block + FENCE_BYTES, emu::POISON, bytes);
    memset(block + FENCE_BYTES + bytes, FENCE, FENCE_BYTES);
    *to = Address(block + FENCE_BYTES);
    return book(*to, bytes);
  }
  int book(Address at, size_t bytes) {
    allocations[at] = bytes;
    used += bytes;
    most_used = std::max(most_used, used);
    return SUCCESS;
  }
  static void check_fences(Address from, size_t bytes) {
    const auto *begin = reinterpret_cast<const unsigned char *>(from);
    for (size_t i = 0; i < FENCE_BYTES; i++)
      if (begin[bytes + i] != FENCE || begin[-1 - long(i)] != FENCE) emu::die("memory next to an allocation was written");
  }
  void give_back(Address from) {
    const size_t bytes = allocations[from];
    used -= bytes;
    allocations.erase(from);
    if (dry) return void(munmap(reinterpret_cast<void *>(from), bytes));
    check_fences(from, bytes);
    memset(reinterpret_cast<void *>(from), FREED, bytes);
    free(reinterpret_cast<unsigned char *>(from) - FENCE_BYTES);
  }

  int allocate(Address *to, size_t bytes) {
    std::lock_guard lock(mutex);
    if (int result = enter()) return result;
    if (int result = forbidden_here()) return result;
    return bytes ? reserve(to, bytes) : INVALID_VALUE;
  }
  int allocate(Address *to, size_t bytes, Handle stream) {
    std::lock_guard lock(mutex);
    if (int result = enter()) return result;
    if (!bytes) return INVALID_VALUE;
    if (int result = forbidden(capture_of(stream))) return result;
    return reserve(to, bytes);
  }

  int release(Address from) {
    std::lock_guard lock(mutex);
    if (int result = forbidden_here()) return result;
    return release_now(from);
  }
  int release(Address from, Handle stream) {
    std::lock_guard lock(mutex);
    if (int result = forbidden(capture_of(stream))) return result;
    return release_now(from);
  }
  int release_now(Address from) {
    if (!allocations.count(from)) return broken ? broken : INVALID_VALUE;
    give_back(from);
    return broken;
  }

  // Between host and device. A graph reads or writes the host's memory when it is launched, whatever is there then.
  int copy(void *to, const void *from, size_t bytes, Address on_device, Handle stream) {
    std::lock_guard lock(mutex);
    if (int result = enter()) return result;
    if (int result = stream ? SUCCESS : forbidden_here()) return result;
    if (int result = fits(bytes, {on_device})) return result;
    ++copies;
    if (dry && bytes > LARGE_BYTES) return SUCCESS;
    return perform(capture_of(stream), [=] { memmove(to, from, bytes); });
  }
  int copy(Address to, Address from, size_t bytes, Handle stream) {
    std::lock_guard lock(mutex);
    if (int result = enter()) return result;
    if (int result = fits(bytes, {to, from})) return result;
    ++copies;
    if (dry && bytes > LARGE_BYTES) return SUCCESS;
    return perform(capture_of(stream), [=] { memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes); });
  }
  int fill(Address at, unsigned char value, size_t bytes, Handle stream) {
    std::lock_guard lock(mutex);
    if (int result = enter()) return result;
    if (int result = fits(bytes, {at})) return result;
    ++copies;
    if (dry && bytes > LARGE_BYTES) return SUCCESS;
    return perform(capture_of(stream), [=] { memset(reinterpret_cast<void *>(at), value, bytes); });
  }
  // Bytes from each address on must lie in one allocation.
  int fits(size_t bytes, std::initializer_list<Address> on_device) const {
    for (Address at : on_device) {
      auto after = allocations.upper_bound(at);
      if (after == allocations.begin()) return INVALID_VALUE;
      const auto &[begin, size] = *--after;
      if (at + bytes > begin + size) return INVALID_VALUE;
    }
    return SUCCESS;
  }

  int begin_capture(Handle stream) {
    std::lock_guard lock(mutex);
    Capture &capture = capture_of(stream);
    if (!stream || capture.graph) return ILLEGAL_STATE;
    capture.graph = std::make_shared<Graph>();
    counting = true;
    capture.thread = std::this_thread::get_id();
    return broken;
  }
  int end_capture(Handle stream, std::shared_ptr<Graph> *to) {
    std::shared_ptr<Graph> graph;  // destroyed without the mutex
    std::lock_guard lock(mutex);
    Capture &capture = capture_of(stream);
    if (!capture.graph) return ILLEGAL_STATE;
    const int result = capture.failed ? CAPTURE_INVALIDATED : broken;
    graph = std::exchange(capture, Capture()).graph;
    if (!result) *to = graph;
    return result;
  }
  int run(const Graph &graph, Handle stream) {
    std::lock_guard lock(mutex);
    if (int result = forbidden(capture_of(stream))) return result;
    if (int result = enter()) return result;
    if (fails("launch")) return broken = LAUNCH_FAILED;
    ++graph_launches, graph_kernels += graph.kernels;
    for (const stand_in::Work &work : graph.nodes) work();
    return SUCCESS;
  }

  // Whether machine code of one compute capability (in tenths) runs here: the same major version, no later a minor.
  bool runs(int tenths) const { return tenths / 10 == major && tenths % 10 <= minor; }
  // Whether PTX of one compute capability can be compiled for it.
  bool compiles(int tenths) const { return tenths <= 10 * major + minor; }
} device;

struct Function {
  std::string name;
  stand_in::Kernel kernel;
  unsigned dynamic_bytes = 48 << 10;
};

struct Module {
  std::string ptx;  // empty of a fat binary, whose kernels' names are compressed
  std::map<std::string, Function *> functions;  // found before: candle asks at every launch
};

// What kind of image a fat binary has for the device, the best: machine code, PTX, or 0 for none. Its form: a header of 16 bytes (magic, version, header's size,
// size of what follows), then images, each with a header (kind as below; size of the header at 4, of
// the image at 8, compute capability in tenths at 28).
enum { PTX = 1, MACHINE_CODE = 2 };
int image_of(const unsigned char *binary) {
  auto number = [](const unsigned char *at, auto value) {
    memcpy(&value, at, sizeof value);
    return value;
  };
  const unsigned char *at = binary + number(binary + 6, uint16_t());
  const unsigned char *const end = at + number(binary + 8, uint64_t());
  int best = 0;
  while (at < end) {
    const int kind = number(at, uint16_t()), capability = int(number(at + 28, uint32_t()));
    if (kind == MACHINE_CODE ? device.runs(capability) : device.compiles(capability)) best = std::max(best, kind);
    at += number(at + 4, uint32_t()) + number(at + 8, uint64_t());
  }
  return best;
}

constexpr uint32_t FAT_BINARY = 0xBA55ED50;

const Words *words(int result) {
  for (const Words &w : WORDS)
    if (w.result == result) return &w;
  return nullptr;
}

int something;  // what handles of contexts and pools point at
thread_local Handle current_context;
thread_local std::vector<Handle> contexts;  // below it

}  // namespace

// ---- device -------------------------------------------------------------------------------------------------------

CALL cuInit(unsigned) { return device.count ? SUCCESS : NO_DEVICE; }
CALL cuDriverGetVersion(int *version) {
  *version = device.driver;
  return SUCCESS;
}
CALL cuDeviceGetCount(int *count) {
  *count = device.count;
  return SUCCESS;
}
CALL cuDeviceGet(int *handle, int ordinal) {
  *handle = ordinal;
  return ordinal < device.count ? SUCCESS : INVALID_DEVICE;
}
CALL cuDeviceGetName(char *name, int bytes, int) {
  snprintf(name, bytes, "an emulated GPU, whose times are the emulation's");
  return SUCCESS;
}
CALL cuDeviceGetPCIBusId(char *bus, int bytes, int ordinal) {
  snprintf(bus, bytes, "00000000:%02x:00.0", ordinal + 1);
  return SUCCESS;
}
CALL cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case 1: *value = emu::MAX_THREADS; break;                // threads per block
    case 8: *value = 48 << 10; break;                        // shared memory per block
    case 10: *value = 32; break;                             // warp
    case 13: case 36: *value = 1000000; break;               // clocks in kHz, of no meaning here
    case 16: *value = 4; break;                              // multiprocessors
    case 37: *value = 64; break;                             // memory's width in bits
    case 75: *value = device.major; break;
    case 76: *value = device.minor; break;
    case 97: *value = int(emu::MAX_SHARED_BYTES); break;     // shared memory per block, where asked for
    case 115: *value = 1; break;                             // memory pools
    default: *value = 0;
  }
  return SUCCESS;
}
CALL cuDeviceTotalMem_v2(size_t *bytes, int) {
  *bytes = device.memory_bytes;
  return SUCCESS;
}
CALL cuMemGetInfo_v2(size_t *free, size_t *total) {
  *free = device.memory_bytes - device.used;
  *total = device.memory_bytes;
  return SUCCESS;
}

// ---- contexts, streams ----------------------------------------------------------------------------------------------

CALL cuDevicePrimaryCtxRetain(Handle *context, int) {
  *context = &something;
  return SUCCESS;
}
CALL cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CALL cuCtxSetCurrent(Handle context) {
  current_context = context;
  return SUCCESS;
}
CALL cuCtxGetCurrent(Handle *context) {
  *context = current_context;
  return SUCCESS;
}
CALL cuCtxPushCurrent_v2(Handle context) {
  contexts.push_back(std::exchange(current_context, context));
  return SUCCESS;
}
CALL cuCtxPopCurrent_v2(Handle *context) {
  if (contexts.empty()) return INVALID_CONTEXT;
  *context = std::exchange(current_context, contexts.back());
  contexts.pop_back();
  return SUCCESS;
}
CALL cuCtxSynchronize() { return device.wait_for_all(); }
CALL cuStreamCreate(Handle *stream, unsigned) {
  std::lock_guard lock(device.mutex);
  *stream = *device.streams.insert(new Stream).first;
  return SUCCESS;
}
CALL cuStreamDestroy_v2(Handle stream) {
  std::lock_guard lock(device.mutex);
  device.streams.erase(static_cast<Stream *>(stream));
  delete static_cast<Stream *>(stream);
  return SUCCESS;
}
CALL cuStreamSynchronize(Handle stream) { return device.wait(stream); }
CALL cuStreamWaitEvent(Handle, Handle, unsigned) { return SUCCESS; }

// ---- graphs ---------------------------------------------------------------------------------------------------------

CALL cuStreamIsCapturing(Handle stream, int *status) {
  std::lock_guard lock(device.mutex);
  const Capture &capture = device.capture_of(stream);
  *status = !capture.graph ? 0 : capture.failed ? 2 : 1;
  return SUCCESS;
}
CALL cuStreamBeginCapture_v2(Handle stream, int) { return device.begin_capture(stream); }
CALL cuStreamEndCapture(Handle stream, Handle *graph) {
  std::shared_ptr<Graph> captured;
  *graph = nullptr;
  if (int result = device.end_capture(stream, &captured)) return result;
  *graph = new std::shared_ptr<Graph>(captured);
  std::lock_guard lock(device.mutex);
  ++device.graphs;
  return SUCCESS;
}
CALL cuGraphInstantiateWithFlags(Handle *executable, Handle graph, unsigned long long) {
  *executable = new std::shared_ptr<Graph>(*static_cast<std::shared_ptr<Graph> *>(graph));
  std::lock_guard lock(device.mutex);
  ++device.graphs;
  return SUCCESS;
}
CALL cuGraphDestroy(Handle graph) {
  delete static_cast<std::shared_ptr<Graph> *>(graph);
  std::lock_guard lock(device.mutex);
  --device.graphs;
  return SUCCESS;
}
CALL cuGraphExecDestroy(Handle executable) { return cuGraphDestroy(executable); }
CALL cuGraphLaunch(Handle executable, Handle stream) { return device.run(**static_cast<std::shared_ptr<Graph> *>(executable), stream); }

// ---- events ---------------------------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;
CALL cuEventCreate(Handle *event, unsigned) {
  *event = new Clock::time_point(Clock::now());
  std::lock_guard lock(device.mutex);
  ++device.events;
  return SUCCESS;
}
CALL cuEventDestroy_v2(Handle event) {
  delete static_cast<Clock::time_point *>(event);
  std::lock_guard lock(device.mutex);
  --device.events;
  return SUCCESS;
}
CALL cuEventRecord(Handle event, Handle stream) {
  *static_cast<Clock::time_point *>(event) = Clock::now();
  return device.wait(stream);
}
CALL cuEventSynchronize(Handle) { return device.wait(); }
static int elapsed(float *ms, Handle begin, Handle end) {
  const auto at = [](Handle event) { return *static_cast<Clock::time_point *>(event); };
  *ms = std::chrono::duration<float, std::milli>(at(end) - at(begin)).count();
  return device.broken;
}
CALL cuEventElapsedTime(float *ms, Handle begin, Handle end) { return elapsed(ms, begin, end); }
CALL cuEventElapsedTime_v2(float *ms, Handle begin, Handle end) { return elapsed(ms, begin, end); }

// ---- memory -------------------------------------------------------------------------------------------------------

CALL cuMemAlloc_v2(Address *to, size_t bytes) { return current_context ? device.allocate(to, bytes) : INVALID_CONTEXT; }
CALL cuMemAllocAsync(Address *to, size_t bytes, Handle stream) { return device.allocate(to, bytes, stream); }
CALL cuMemFree_v2(Address from) { return current_context ? device.release(from) : INVALID_CONTEXT; }
CALL cuMemFreeAsync(Address from, Handle stream) { return device.release(from, stream); }
CALL cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle stream) {
  return device.copy(reinterpret_cast<void *>(to), from, bytes, to, stream);
}
CALL cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
CALL cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle stream) {
  return device.copy(to, reinterpret_cast<void *>(from), bytes, from, stream);
}
CALL cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
CALL cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) { return device.copy(to, from, bytes, stream); }
CALL cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Handle stream) { return device.fill(to, value, bytes, stream); }

// ---- kernels ------------------------------------------------------------------------------------------------------

CALL cuModuleLoadData(Handle *module, const void *image) {
  if (std::lock_guard lock(device.mutex); device.fails("image")) return NO_BINARY_FOR_GPU;
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic == FAT_BINARY) {
    const int kind = image_of(static_cast<const unsigned char *>(image));
    if (!kind) return NO_BINARY_FOR_GPU;
    std::lock_guard lock(device.mutex);
    ++device.images[kind];
    *module = new Module;
    return SUCCESS;
  }
  const char *ptx = static_cast<const char *>(image), *target = strstr(ptx, ".target sm_");
  if (!target || !device.compiles(atoi(target + strlen(".target sm_")))) return INVALID_PTX;
  *module = new Module{ptx, {}};
  return SUCCESS;
}
CALL cuModuleUnload(Handle module) {
  delete static_cast<Module *>(module);
  return SUCCESS;
}
CALL cuModuleGetFunction(Handle *function, Handle module, const char *name) {
  static std::map<std::string, Function> functions;  // as long as the process: a module's functions have no end of their own
  std::lock_guard lock(device.mutex);
  auto &[ptx, known] = *static_cast<Module *>(module);
  if (const auto found = known.find(name); found != known.end()) {
    *function = found->second;
    return SUCCESS;
  }
  if (!ptx.empty() && ptx.find(std::string(".entry ") + name + "(") == std::string::npos) return NOT_FOUND;
  const auto entry = stand_in::table().find(name);
  if (entry == stand_in::table().end()) return NOT_FOUND;
  *function = known[name] = &functions.try_emplace(name, Function{name, entry->second}).first->second;
  return SUCCESS;
}
CALL cuFuncSetAttribute(Handle function, int attribute, int value) {
  constexpr int MAX_DYNAMIC_SHARED = 8;
  if (attribute != MAX_DYNAMIC_SHARED) return NOT_SUPPORTED;
  if (value < 0 || size_t(value) > emu::MAX_SHARED_BYTES) return INVALID_VALUE;
  static_cast<Function *>(function)->dynamic_bytes = unsigned(value);
  return SUCCESS;
}
CALL cuLaunchKernel(Handle handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                    unsigned block_z, unsigned shared_bytes, Handle stream, void **arguments, void **) {
  std::lock_guard lock(device.mutex);  // one kernel at a time: the emulation has one set of fibers
  if (device.broken) return device.broken;
  const Function &function = *static_cast<Function *>(handle);
  const uint64_t threads = uint64_t(block_x) * block_y * block_z;
  if (!threads || threads > function.kernel.most_threads || block_z > 64) return INVALID_VALUE;
  if (!grid_x || !grid_y || !grid_z || grid_x > 0x7FFFFFFF || grid_y > emu::MAX_GRID_YZ || grid_z > emu::MAX_GRID_YZ) return INVALID_VALUE;
  if (shared_bytes > function.dynamic_bytes) return INVALID_VALUE;
  return device.launch(stream, function.name, function.kernel.bind(dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z), shared_bytes, arguments));
}

// A product of cuBLAS, done or recorded.
int stand_in_product(void *stream, const char *name, std::function<void()> work) {
  std::lock_guard lock(device.mutex);
  return device.launch(stream, name, std::move(work));
}

// ---- errors -------------------------------------------------------------------------------------------------------

CALL cuGetErrorName(int result, const char **name) {
  const Words *w = words(result);
  *name = w ? w->name : nullptr;
  return w ? SUCCESS : INVALID_VALUE;
}
CALL cuGetErrorString(int result, const char **text) {
  const Words *w = words(result);
  *text = w ? w->text : nullptr;
  return w ? SUCCESS : INVALID_VALUE;
}

// What a function that is not here does (build writes a stub for each).
extern "C" __attribute__((visibility("default"))) int stand_in_lacks(const char *name) {
  fprintf(stderr, "stand-in: %s is not there\n", name);
  return NOT_SUPPORTED;
}
