// What device.h declares: a test program's memory, and its main.
//
// New and delete take their memory, while the test's main runs, from one piece of managed memory. Behind each block in it is
// a fence. nvcc compiles no operator new of a program's own, so that this file is for the host's compiler alone.
#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include <cuda_runtime_api.h>

namespace {

constexpr size_t ARENA_BYTES = size_t(64) << 20, ALIGNMENT = 256, FENCE_BYTES = 256, MAX_BLOCKS = 4096;
constexpr unsigned char FENCE = 0xFD;

// Places in the arena; the fence reaches to the next block.
struct Block {
  size_t begin, end, fence_end;
  bool freed;
};

// Blocks lie one behind the other. A freed one is forgotten once all behind it are freed, too: a test frees in about
// the reverse order.
unsigned char *arena = nullptr;
Block blocks[MAX_BLOCKS];
size_t block_count = 0;

void *allocate(size_t bytes) {
  Block block = {block_count ? blocks[block_count - 1].fence_end : FENCE_BYTES, 0, 0, false};
  if (block_count == MAX_BLOCKS || bytes > ARENA_BYTES) return nullptr;
  block.end = block.begin + bytes;
  block.fence_end = (block.end + FENCE_BYTES + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (block.fence_end > ARENA_BYTES) return nullptr;
  memset(arena + block.end, FENCE, block.fence_end - block.end);
  blocks[block_count++] = block;
  return arena + block.begin;
}

void release(size_t at) {
  std::lower_bound(blocks, blocks + block_count, at, [](const Block &b, size_t begin) { return b.begin < begin; })->freed = true;
  while (block_count && blocks[block_count - 1].freed) block_count--;
}

}  // namespace

namespace device {

thread_local bool in_test = false;

void end(int status, const char *what, const char *why) {
  printf("FAILED %s\n    %s\n", what, why);
  fflush(stdout);
  _exit(status);
}

std::string check_fences() {
  for (Block *block = blocks; block < blocks + block_count; block++)
    for (size_t at = block->end; at < block->fence_end; at++)
      if (arena[at] != FENCE) {
        memset(arena + block->end, FENCE, block->fence_end - block->end);
        return "byte " + std::to_string(at - block->begin) + " of a block of " + std::to_string(block->end - block->begin) + " was written";
      }
  return "";
}

}  // namespace device

void *operator new(size_t bytes) {
  if (void *const p = device::in_test ? allocate(bytes) : malloc(bytes ? bytes : 1)) return p;
  device::end(1, "to allocate", "the tests' memory is used up: device.cpp's ARENA_BYTES or MAX_BLOCKS");
}
void operator delete(void *p) noexcept {
  const size_t at = size_t(static_cast<unsigned char *>(p) - arena);
  if (arena && at < ARENA_BYTES)
    release(at);
  else
    free(p);
}
void operator delete(void *p, size_t) noexcept { operator delete(p); }

int main() {
  if (const cudaError_t error = cudaMallocManaged(reinterpret_cast<void **>(&arena), ARENA_BYTES))
    device::end(3, "to find a GPU", cudaGetErrorString(error));
  memset(arena, FENCE, FENCE_BYTES);
  device::in_test = true;
  const int status = test_main();
  device::in_test = false;
  return status;
}
