// A CPU that runs CUDA kernels, for tests: the part of CUDA C++ that kernels/*.cu use.
//
// Each CUDA thread of a block is a fiber; blocks run one after another on one core. A fiber runs until it
// reaches a barrier or a warp operation that others have not reached yet. What a GPU does in an order of its
// own is done here in the least convenient one:
//   - shared memory starts as 0xFF bytes (NaN in every float format);
//   - the target of a cp.async is 0xFF from its issue until the thread waits for it; only then is it copied;
//   - with a seed, the order in which threads run is shuffled in every round.
// The program stops with a message on: a deadlock, a barrier reached from two places, a warp operation whose
// lanes disagree or are gone, a misaligned cp.async or ldmatrix, a copy still in flight at a thread's end, a
// launch over the limits of sm_86. AddressSanitizer and ThreadSanitizer are told of the fibers, so they see
// memory errors and races (in shared and in global memory) as they would see those of real threads.
//
// Seeded bugs: every barrier, cp.async wait and bounds check of the kernels is a numbered site, and so is every
// SEEDED (prims.cuh); a line that several kernels share is a site in each. EMU_SITES=FILE lists the sites that ran;
// EMU_BUG=kind:file:line@kernel breaks that one, in that kernel only: a barrier is left out, a wait lets one more
// group of copies fly, a bounds check lets one index too many through, and of a SEEDED value or place the wrong one
// is taken. Outside of kernels the kernel is `host`.
//
// Not emulated: blocks running at the same time, streams, the memory model, time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <tuple>
#include <vector>

#include "random.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulation switches fibers in x86-64 assembly on Linux"
#endif

#ifdef __has_feature  // clang's way to say what GCC's macros do
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define EMU_ACQUIRE(p) __tsan_acquire(p)
#define EMU_RELEASE(p) __tsan_release(p)
// The emulator's own bookkeeping is not the kernel's: it must neither be checked nor order the kernel's accesses.
#define EMU_OWN __attribute__((no_sanitize("thread"), noinline))
#else
#define EMU_ACQUIRE(p) (void)0
#define EMU_RELEASE(p) (void)0
#define EMU_OWN
#endif

#ifndef __global__  // stand_in/build puts marks here, to find the kernels and their bounds
#define __global__
#define __launch_bounds__(...)
#endif
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Saves the callee's registers on this stack, stores the stack pointer, and goes on with another stack.
extern "C" void emu_switch(void **save, void *load);
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emu_switch, .-emu_switch
)");

namespace emu {

constexpr size_t STACK_BYTES = 64 << 10, GUARD_BYTES = 4 << 10;
constexpr unsigned char POISON = 0xFF;
// Least of the architectures that the kernels are built for (sm_86, 89, 120).
constexpr size_t MAX_SHARED_BYTES = 99 << 10;
constexpr unsigned MAX_THREADS = 1024, MAX_GRID_YZ = 65535;
// Words that a lane may hand to a warp operation, and take from it.
constexpr unsigned LANE_WORDS = 12;

struct Copy {
  void *to;
  const void *from;
  unsigned bytes;  // of 16; the rest becomes zero
};

struct Thread {
  void *sp = nullptr;
  char *stack = nullptr;
  void *fake_stack = nullptr, *tsan = nullptr;
  dim3 index;
  unsigned linear = 0;
  bool done = false;
  const unsigned *waits_for = nullptr;  // a generation counter, to move on from `generation`
  unsigned generation = 0;
  const char *file = nullptr;
  int line = 0;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
};

struct Warp {
  unsigned arrived = 0, mask = 0, generation = 0;
  uint32_t in[2][32][LANE_WORDS], out[2][32][LANE_WORDS];  // double buffered: a lane may lag one operation
};

struct Block {
  dim3 index, dim, grid;
  unsigned count = 0, alive = 0, arrived = 0, generation = 0;
  const char *file = nullptr;
  int line = 0;
  char order[2], start;  // what ThreadSanitizer orders barriers by, and the block's start
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned char *shared = nullptr;
  void *main_sp = nullptr, *main_fake_stack = nullptr, *main_tsan = nullptr;
  const void *main_stack = nullptr;
  size_t main_stack_bytes = 0;
  void (*body)(void *) = nullptr;
  void *argument = nullptr;
};

inline Block block;
inline Thread *current = nullptr;

[[noreturn]] inline void die(const char *what) {
  fprintf(stderr, "emulation: %s, in block (%u, %u, %u)\n", what, block.index.x, block.index.y, block.index.z);
  for (const Thread &t : block.threads)
    if (!t.done && t.waits_for) {
      fprintf(stderr, "  thread %u waits at %s:%d\n", t.linear, t.file, t.line);
      break;
    }
  fflush(nullptr);
  _exit(70);
}

// ---- seeded bugs -----------------------------------------------------------------------------------------

enum Kind { BARRIER, WAIT, BOUND, VALUE, PLACE };
constexpr const char *KIND_NAMES[] = {"barrier", "wait", "bound", "value", "place"};

struct Bugs {
  std::string kernel = "host";  // that runs; who launches it says so
  std::string broken = getenv("EMU_BUG") ? getenv("EMU_BUG") : "";
  int broken_line = atoi(broken.c_str() + broken.rfind(':') + 1);  // to be quick elsewhere
  const char *list = getenv("EMU_SITES");
  std::set<std::tuple<int, std::string, int, std::string>> sites;
  static std::string base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
  }
  static std::string name(int kind, const std::string &file, int line, const std::string &kernel) {
    return KIND_NAMES[kind] + (":" + file) + ":" + std::to_string(line) + "@" + kernel;
  }
  ~Bugs() {
    if (!list) return;
    FILE *f = fopen(list, "w");
    for (auto &[kind, file, line, kernel] : sites) fprintf(f, "%s\n", name(kind, file, line, kernel).c_str());
    fclose(f);
  }
  EMU_OWN bool here(int kind, const char *path, int line) {
    if (list) sites.insert({kind, base(path), line, kernel});
    return line == broken_line && name(kind, base(path), line, kernel) == broken;
  }
};
inline Bugs bugs;

// ---- fibers ----------------------------------------------------------------------------------------------

EMU_OWN inline void back_to_main([[maybe_unused]] bool last = false) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &current->fake_stack, block.main_stack, block.main_stack_bytes);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(block.main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  emu_switch(&current->sp, block.main_sp);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(current->fake_stack, &block.main_stack, &block.main_stack_bytes);
#endif
}

EMU_OWN inline void resume(Thread &t) {
  current = &t;
  t.waits_for = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&block.main_fake_stack, t.stack, STACK_BYTES);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(t.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  emu_switch(&block.main_sp, t.sp);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(block.main_fake_stack, nullptr, nullptr);
#endif
}

EMU_OWN inline void wait_for(const unsigned *counter, unsigned generation, const char *file, int line) {
  current->waits_for = counter;
  current->generation = generation;
  current->file = file;
  current->line = line;
  back_to_main();
}

EMU_OWN inline void end_thread() {
  for (const auto &group : current->groups)
    if (!group.empty()) die("a thread ended with copies in flight");
  if (!current->open.empty()) die("a thread ended with copies never committed");
  current->done = true;
  --block.alive;
  if (block.alive && block.arrived == block.alive) {  // a barrier waits for the living only
    block.arrived = 0;
    ++block.generation;
  }
  EMU_RELEASE(&block);
  back_to_main(true);
}

EMU_OWN inline void fiber_entry() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &block.main_stack, &block.main_stack_bytes);
#endif
  EMU_ACQUIRE(&block.start);
  block.body(block.argument);
  end_thread();
  abort();
}

// ---- barriers and warp operations ------------------------------------------------------------------------

EMU_OWN inline void barrier(const char *file, int line) {
  if (bugs.here(BARRIER, file, line)) return;
  if (block.arrived && (block.line != line || block.file != file)) die("__syncthreads reached from two places at once");
  block.line = line;
  block.file = file;
  unsigned generation = block.generation;
  EMU_RELEASE(&block.order[generation & 1]);
  if (++block.arrived == block.alive) {
    block.arrived = 0;
    ++block.generation;
  } else {
    wait_for(&block.generation, generation, file, line);
  }
  EMU_ACQUIRE(&block.order[generation & 1]);
}

// Each lane of `mask` hands in words; the last to arrive runs `operation(in, out)` over all; each takes its words.
template <unsigned IN, unsigned OUT, class Operation>
EMU_OWN inline void together(unsigned mask, const uint32_t *in, uint32_t *out, const char *file, int line,
                             Operation operation, bool orders_memory = false) {
  static_assert(IN <= LANE_WORDS && OUT <= LANE_WORDS);
  Warp &warp = block.warps[current->linear / 32];
  const unsigned lane = current->linear % 32, first = current->linear & ~31u;
  unsigned living = 0;
  for (unsigned i = first; i < first + 32 && i < block.count; i++) living |= unsigned(!block.threads[i].done) << (i - first);
  const unsigned existing = block.count - first >= 32 ? ~0u : (1u << (block.count - first)) - 1;
  mask &= existing;
  if (!(mask >> lane & 1)) die("warp operation: a lane outside its own mask");
  if (mask & ~living) die("warp operation: the mask names a lane that has ended");
  if (warp.arrived && warp.mask != mask) die("warp operation: lanes disagree on the mask");
  warp.mask = mask;
  warp.arrived |= 1u << lane;
  const unsigned generation = warp.generation, side = generation & 1;
  for (unsigned i = 0; i < IN; i++) warp.in[side][lane][i] = in[i];
  if (orders_memory) EMU_RELEASE(&warp);
  if (warp.arrived == mask) {
    operation(warp.in[side], warp.out[side], mask);
    warp.arrived = 0;
    ++warp.generation;
  } else {
    wait_for(&warp.generation, generation, file, line);
  }
  if (orders_memory) EMU_ACQUIRE(&warp);
  for (unsigned i = 0; i < OUT; i++) out[i] = warp.out[side][lane][i];
}

template <class T> EMU_OWN inline T shuffle_xor(unsigned mask, T value, unsigned distance, const char *file, int line) {
  static_assert(sizeof(T) == 4);
  uint32_t word;
  memcpy(&word, &value, 4);
  together<1, 1>(mask, &word, &word, file, line, [=](auto &in, auto &out, unsigned present) EMU_OWN {
    for (unsigned l = 0; l < 32; l++) {
      const unsigned from = l ^ distance;
      out[l][0] = from < 32 && (present >> from & 1) ? in[from][0] : 0xFFFFFFFF;  // an absent lane gives junk
    }
  });
  memcpy(&value, &word, 4);
  return value;
}

// ---- asynchronous copies ---------------------------------------------------------------------------------

inline void copy_async(void *to, const void *from, bool valid) {
  if (uintptr_t(to) % 16 || (valid && uintptr_t(from) % 16)) die("cp.async of 16 bytes at an address that is not a multiple of 16");
  for (int i = 0; i < 16; i++) static_cast<volatile unsigned char *>(to)[i] = POISON;
  current->open.push_back({to, from, valid ? 16u : 0u});
}

inline void copy_commit() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

inline void copy_wait(unsigned in_flight, const char *file, int line) {
  auto &groups = current->groups;
  // A wait for nothing, where a kernel fills its tiles by plain stores, is no site.
  const bool any = std::any_of(groups.begin(), groups.end(), [](auto &group) { return !group.empty(); });
  if (any && bugs.here(WAIT, file, line)) ++in_flight;
  while (groups.size() > in_flight) {
    for (const Copy &c : groups.front()) {
      if (c.bytes) memcpy(c.to, c.from, c.bytes);
      memset(static_cast<char *>(c.to) + c.bytes, 0, 16 - c.bytes);
    }
    groups.erase(groups.begin());
  }
}

// ---- launches --------------------------------------------------------------------------------------------

EMU_OWN inline void run_block(size_t shared_bytes, uint64_t &seed, std::vector<unsigned> &order) {
  const dim3 dim = block.dim;
  block.alive = block.count;
  block.arrived = 0;
  block.shared = shared_bytes ? static_cast<unsigned char *>(aligned_alloc(128, (shared_bytes + 127) & ~size_t(127))) : nullptr;
#ifdef __SANITIZE_ADDRESS__
  // Exactly the bytes asked for may be touched.
  __asan_poison_memory_region(block.shared + shared_bytes, ((shared_bytes + 127) & ~size_t(127)) - shared_bytes);
#endif
  for (size_t i = 0; i < shared_bytes; i++) static_cast<volatile unsigned char *>(block.shared)[i] = POISON;
  for (unsigned i = 0; i < block.count; i++) {
    Thread &t = block.threads[i];
    t.index = dim3(i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y));
    t.linear = i;
    t.done = false;
    t.waits_for = nullptr;
    t.groups.clear();
    t.open.clear();
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(t.stack, STACK_BYTES);  // what the frames of an ended thread left
#endif
    void **top = reinterpret_cast<void **>(t.stack + STACK_BYTES - 64);
    *top = reinterpret_cast<void *>(fiber_entry);  // where the first switch returns to
    t.sp = top - 6;
    order[i] = i;
  }
  EMU_RELEASE(&block.start);  // what came before the block, to fiber_entry
  while (block.alive) {
    if (seed)
      for (unsigned i = block.count; i > 1; i--) std::swap(order[i - 1], order[next_random(seed) % i]);
    bool progress = false;
    for (unsigned i : order) {
      Thread &t = block.threads[i];
      if (t.done || (t.waits_for && *t.waits_for == t.generation)) continue;
      resume(t);
      progress = true;
    }
    if (!progress) die("deadlock: a barrier or warp operation is not reached by all its threads");
  }
  EMU_ACQUIRE(&block);
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(block.shared, (shared_bytes + 127) & ~size_t(127));
#endif
  free(block.shared);
}

// Runs body(argument) once a thread. Seed 0: threads in order.
EMU_OWN inline void run_grid(dim3 grid, dim3 dim, size_t shared_bytes, uint64_t seed, void (*body)(void *), void *argument) {
  block.count = dim.x * dim.y * dim.z;
  if (!block.count || block.count > MAX_THREADS) die("launch: block size");
  if (!grid.x || !grid.y || !grid.z || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) die("launch: grid size");
  if (shared_bytes > MAX_SHARED_BYTES) die("launch: too much shared memory");
  block.dim = dim;
  block.grid = grid;
  block.body = body;
  block.argument = argument;
  block.threads.resize(block.count);
  block.warps.assign((block.count + 31) / 32, Warp{});
#ifdef __SANITIZE_THREAD__
  block.main_tsan = __tsan_get_current_fiber();
#endif
  static std::vector<char *> stacks;  // kept over launches of fewer threads
  while (stacks.size() < block.count) {
    void *stack = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, GUARD_BYTES, PROT_NONE)) die("no memory for a fiber's stack");
    stacks.push_back(static_cast<char *>(stack) + GUARD_BYTES);
  }
  for (unsigned i = 0; i < block.count; i++) block.threads[i].stack = stacks[i];
#ifdef __SANITIZE_THREAD__
  static std::vector<void *> fibers;  // kept, too: to make and end them takes most of the time
  while (fibers.size() < block.count) fibers.push_back(__tsan_create_fiber(0));
  for (unsigned i = 0; i < block.count; i++) block.threads[i].tsan = fibers[i];
#endif
  std::vector<unsigned> order(block.count);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        block.index = dim3(x, y, z);
        run_block(shared_bytes, seed, order);
      }
  current = nullptr;
}

// kernel<<<grid, dim, shared_bytes>>>(parameters)
template <class P> void launch(void (*kernel)(P), dim3 grid, dim3 dim, size_t shared_bytes, uint64_t seed, const P &parameters) {
  struct Call {
    void (*kernel)(P);
    P parameters;
  } call{kernel, parameters};
  run_grid(grid, dim, shared_bytes, seed,
           [](void *c) { static_cast<Call *>(c)->kernel(static_cast<Call *>(c)->parameters); }, &call);
}

}  // namespace emu

// ---- CUDA's names ----------------------------------------------------------------------------------------

#define threadIdx (emu::current->index)
#define blockIdx (emu::block.index)
#define blockDim (emu::block.dim)
#define gridDim (emu::block.grid)
#define __syncthreads() emu::barrier(__FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, distance) emu::shuffle_xor(mask, value, distance, __FILE__, __LINE__)

inline unsigned atomicMax(unsigned *p, unsigned v) {
  unsigned old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline unsigned atomicAdd(unsigned *p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned __float_as_uint(float f) {
  unsigned u;
  memcpy(&u, &f, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline int __float2int_rn(float f) { return int(rintf(f)); }
// Picks four of the eight bytes of (b, a); each hex digit of `selector` is an index.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= unsigned(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xFF) << (8 * i);
  return r;
}
using std::max;
using std::min;
