// The emulation's bodies of what kernels/prims.cuh declares, and the layouts of matrix fragments.
// Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k32 / .m16n8k16", "ldmatrix"; layouts_test.cpp holds them
// against a second source.
#pragma once

#include "cuda.h"

#define DEVICE inline
#define KERNEL(threads, blocks_per_sm) extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm)
#define SEEDED(kind, right, wrong) (emu::bugs.here(emu::kind, __FILE__, __LINE__) ? (wrong) : (right))

inline unsigned char *shared_memory() { return emu::block.shared; }

inline float to_float(F16 x) {
  _Float16 h;
  memcpy(&h, &x.bits, 2);
  return h;
}
inline float to_float(float x) { return x; }
inline float to_float(BF16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

template <class T> T from_float(float f);
template <> inline float from_float<float>(float f) { return f; }
template <> inline F16 from_float<F16>(float f) {
  const _Float16 h = f;
  F16 x;
  memcpy(&x.bits, &h, 2);
  return x;
}
template <> inline BF16 from_float<BF16>(float f) {
  const uint32_t u = __float_as_uint(f);
  if ((u & 0x7FFFFFFF) > 0x7F800000) return BF16{0x7FFF};
  return BF16{uint16_t((u + 0x7FFF + (u >> 16 & 1)) >> 16)};
}

template <class T> uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | uint32_t(from_float<T>(high).bits) << 16;
}

inline uint32_t sub_f16x2(uint32_t a, uint32_t b) {
  auto half = [](uint32_t w) { return to_float(F16{uint16_t(w)}); };
  return pack<F16>(half(a) - half(b), half(a >> 16) - half(b >> 16));
}

inline float exp2_fast(float x) { return exp2f(x); }

namespace emu {

struct At {
  int row, col;
};

// Where element i of a lane's fragment lies. PER_WORD: elements in a 32-bit register, 4 of int8, 2 of halves.
template <int PER_WORD> constexpr At a_at(int lane, int i) {  // a: 16 rows (m), 8 · PER_WORD columns (k)
  const int word = i / PER_WORD;
  return {lane / 4 + word % 2 * 8, lane % 4 * PER_WORD + i % PER_WORD + word / 2 * 4 * PER_WORD};
}
template <int PER_WORD> constexpr At b_at(int lane, int i) {  // b: 8 · PER_WORD rows (k), 8 columns (n)
  return {lane % 4 * PER_WORD + i % PER_WORD + i / PER_WORD * 4 * PER_WORD, lane / 4};
}
constexpr At c_at(int lane, int i) { return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2}; }

// In, by lane: a in words 0–3, b in 4–5, c in 6–9. Out: c.
template <int PER_WORD, class Wide, class Element>
EMU_OWN void multiply(const uint32_t (&in)[32][LANE_WORDS], uint32_t (&out)[32][LANE_WORDS], Element element) {
  constexpr int K = 8 * PER_WORD;
  static Wide a[16][K], b[K][8], c[16][8];
  for (int lane = 0; lane < 32; lane++) {
    for (int i = 0; i < 4 * PER_WORD; i++) {
      const At at = a_at<PER_WORD>(lane, i);
      a[at.row][at.col] = element(in[lane][i / PER_WORD], i % PER_WORD);
    }
    for (int i = 0; i < 2 * PER_WORD; i++) {
      const At at = b_at<PER_WORD>(lane, i);
      b[at.row][at.col] = element(in[lane][4 + i / PER_WORD], i % PER_WORD);
    }
    for (int i = 0; i < 4; i++) {
      const At at = c_at(lane, i);
      memcpy(&c[at.row][at.col], &in[lane][6 + i], 4);
    }
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < K; k++)
      for (int n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) memcpy(&out[lane][i], &c[c_at(lane, i).row][c_at(lane, i).col], 4);
}

template <class Multiply> EMU_OWN void mma(uint32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Multiply multiply) {
  const uint32_t in[10] = {a[0], a[1], a[2], a[3], b[0], b[1], d[0], d[1], d[2], d[3]};
  together<10, 4>(~0u, in, d, "mma.sync", 0, [multiply](auto &in, auto &out, unsigned mask) EMU_OWN {
    if (mask != ~0u) die("mma.sync by less than a whole warp");
    multiply(in, out);
  });
}

// Element e of word w of row `row` of matrix j, for a lane: see load_matrices.
constexpr At matrix_at(int lane, int e, bool transposed) {
  return transposed ? At{lane % 4 * 2 + e, lane / 4} : At{lane / 4, lane % 4 * 2 + e};
}

// A kernel's own read, to be checked as such; the rest of the operation is the emulator's.
__attribute__((noinline)) inline Words4 read_row(const void *row) { return *static_cast<const Words4 *>(row); }

EMU_OWN inline void load_matrices(uint32_t (&r)[4], const void *row, bool transposed) {
  if (uintptr_t(row) % 16) die("ldmatrix of a row whose address is not a multiple of 16");
  uint32_t in[2];
  memcpy(in, &row, 8);
  together<2, 4>(~0u, in, r, "ldmatrix", 0, [transposed](auto &in, auto &out, unsigned mask) EMU_OWN {
    if (mask != ~0u) die("ldmatrix by less than a whole warp");
    for (int j = 0; j < 4; j++) {
      uint16_t matrix[8][8];
      for (int i = 0; i < 8; i++) {
        const void *from;
        memcpy(&from, in[j * 8 + i], 8);
        const Words4 words = read_row(from);
        memcpy(matrix[i], words.w, 16);
      }
      for (int lane = 0; lane < 32; lane++) {
        uint32_t word = 0;
        for (int e = 0; e < 2; e++) {
          const At at = matrix_at(lane, e, transposed);
          word |= uint32_t(matrix[at.row][at.col]) << (16 * e);
        }
        out[lane][j] = word;
      }
    }
  });
}

}  // namespace emu

inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emu::mma(reinterpret_cast<uint32_t(&)[4]>(d), a, b, [](auto &in, auto &out) EMU_OWN {
    emu::multiply<4, int>(in, out, [](uint32_t word, int i) { return int(int8_t(word >> (8 * i))); });
  });
}

template <class T> void mma_half(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t words[4];
  memcpy(words, d, 16);
  emu::mma(words, a, b, [](auto &in, auto &out) EMU_OWN {
    emu::multiply<2, float>(in, out, [](uint32_t word, int i) { return to_float(T{uint16_t(word >> (16 * i))}); });
  });
  memcpy(d, words, 16);
}

inline void load_matrices(uint32_t (&r)[4], const void *row) { emu::load_matrices(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void *row) { emu::load_matrices(r, row, true); }

inline void copy_async(void *to, const void *from, bool valid) { emu::copy_async(to, from, valid); }
inline void copy_commit() { emu::copy_commit(); }
template <int IN_FLIGHT> void copy_wait(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
  emu::copy_wait(IN_FLIGHT, file, line);
}

inline bool within(int i, int n, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
  return i < n + int(emu::bugs.here(emu::BOUND, file, line));
}
