// The fragment layouts that the emulation has from the PTX ISA's text, against a second source: the layouts that
// NVIDIA/cutlass gives for the same instructions as (shape : stride) pairs. Also what a kernel relies on in each
// primitive, and that the emulation finds what it says it finds.
#include "../prims.cuh"
#include "harness.h"

#include <sys/wait.h>

using namespace test;

// One mode of a CuTe layout: an index below the product of the shapes, first shape fastest, is split into
// coordinates, each multiplied by its stride.
using Mode = std::vector<std::pair<int, int>>;
static int at(const Mode &mode, int index) {
  int offset = 0;
  for (auto [shape, stride] : mode) offset += index % shape * stride, index /= shape;
  return offset;
}

// cutlass (commit 468e0ea), include/cute/atom/mma_traits_sm80.hpp: SM80_16x8x32_S32S8S8S32_TN and
// SM80_16x8x16_F32F16F16F32_TN (BF16 the same). Offsets: row + 16·column of a and c, column + 8·row of b.
struct Fragments {
  const char *name;
  Mode lanes_a, values_a, lanes_b, values_b;
};
static const Fragments S8 = {"m16n8k32 s8", {{4, 64}, {8, 1}}, {{4, 16}, {2, 8}, {2, 256}}, {{4, 32}, {8, 1}}, {{4, 8}, {2, 128}}};
static const Fragments HALF = {"m16n8k16 f16", {{4, 32}, {8, 1}}, {{2, 16}, {2, 8}, {2, 128}}, {{4, 16}, {8, 1}}, {{2, 8}, {2, 64}}};
static const Mode LANES_C = {{4, 32}, {8, 1}}, VALUES_C = {{2, 16}, {2, 8}};
// include/cute/atom/copy_traits_sm75.hpp: SM75_U32x4_LDSM_N and SM75_U16x8_LDSM_T. Offsets: bits, rows of 128.
static const Mode LANES_LDSM = {{32, 32}}, VALUES_LDSM = {{32, 1}, {4, 1024}};
static const Mode LANES_LDSM_T = {{4, 256}, {8, 16}}, VALUES_LDSM_T = {{16, 1}, {2, 128}, {4, 1024}};

template <int PER_WORD> static void fragments(const Fragments &f) {
  run(std::string("fragments of mma ") + f.name, [&](Complaints &complain) {
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < 4 * PER_WORD; i++) {
        const emu::At a = emu::a_at<PER_WORD>(lane, i);
        if (a.row + 16 * a.col != at(f.lanes_a, lane) + at(f.values_a, i)) complain("a: lane %d element %d", lane, i);
      }
      for (int i = 0; i < 2 * PER_WORD; i++) {
        const emu::At b = emu::b_at<PER_WORD>(lane, i);
        if (b.col + 8 * b.row != at(f.lanes_b, lane) + at(f.values_b, i)) complain("b: lane %d element %d", lane, i);
      }
      for (int i = 0; i < 4; i++) {
        const emu::At c = emu::c_at(lane, i);
        if (c.row + 16 * c.col != at(LANES_C, lane) + at(VALUES_C, i)) complain("c: lane %d element %d", lane, i);
      }
    }
  });
}

static void matrices(bool transposed) {
  run(transposed ? "fragments of ldmatrix.trans" : "fragments of ldmatrix", [&](Complaints &complain) {
    for (int lane = 0; lane < 32; lane++)
      for (int j = 0; j < 4; j++)
        for (int e = 0; e < 2; e++) {
          const emu::At m = emu::matrix_at(lane, e, transposed);
          const int bit = (j * 8 + m.row) * 128 + m.col * 16, value = j * 32 + e * 16;
          const int want = transposed ? at(LANES_LDSM_T, lane) + at(VALUES_LDSM_T, value) : at(LANES_LDSM, lane) + at(VALUES_LDSM, value);
          if (bit != want) complain("lane %d matrix %d element %d", lane, j, e);
        }
  });
}

struct Nothing {};

// int8 → T has to be exact for all 256 values.
template <class T> static void widening() {
  run(text("widen int8 to %s", NAME<T>), [](Complaints &complain) {
    for (int v = 0; v < 256; v++) {
      uint32_t words[2];
      widen<T>(words, uint32_t(v) | uint32_t(v ^ 0x55) << 8 | uint32_t(v ^ 0xAA) << 16 | uint32_t(v ^ 0xFF) << 24);
      const float got[] = {low_half<T>(words[0]), high_half<T>(words[0]), low_half<T>(words[1]), high_half<T>(words[1])};
      const int want[] = {int8_t(v), int8_t(v ^ 0x55), int8_t(v ^ 0xAA), int8_t(v ^ 0xFF)};
      for (int i = 0; i < 4; i++)
        if (got[i] != float(want[i])) complain("%d became %g", want[i], double(got[i]));
    }
  });
}

// Runs a faulty kernel in a child and expects the emulation's message.
static void finds(const char *fault, void (*kernel)(Nothing), const char *message) {
  run(std::string("finds ") + fault, [&](Complaints &complain) {
    int ends[2];
    if (pipe(ends)) return complain("no pipe");
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      dup2(ends[1], 2);
      emu::launch(kernel, dim3(1), dim3(64), 1024, 0, Nothing{});
      _exit(0);
    }
    close(ends[1]);
    std::string said;
    char buffer[512];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, size_t(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 70 || said.find(message) == std::string::npos)
      complain("status %d, said: %s", status, said.c_str());
  });
}

static void divergent(Nothing) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
static void half_a_warp(Nothing) {
  if (threadIdx.x % 32 < 16) warp_sum(1.0f);
}
static void lanes_disagree(Nothing) {
  const unsigned mask = threadIdx.x % 32 < 2 ? 0x00000003u : 0xFFFFFFFFu;
  if (threadIdx.x % 32 == 0) warp_sum(1.0f);
  __shfl_xor_sync(mask, 1.0f, 1);
}
static void never_waits(Nothing) {
  alignas(16) static unsigned char source[16];
  copy_async(shared_memory() + threadIdx.x * 16, source, true);
  copy_commit();
}
static void misaligned(Nothing) { copy_async(shared_memory() + 8, shared_memory(), true); }

int main() {
  fragments<4>(S8);
  fragments<2>(HALF);
  matrices(false);
  matrices(true);
  widening<F16>();
  widening<BF16>();
  finds("a divergent barrier", divergent, "reached from two places");
  finds("a shuffle that half a warp does not reach", half_a_warp, "deadlock");
  finds("lanes that disagree on a mask", lanes_disagree, "lanes disagree on the mask");
  finds("a copy never waited for", never_waits, "copies in flight");
  finds("a misaligned copy", misaligned, "not a multiple of 16");
  return finish();
}
