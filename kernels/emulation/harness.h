// What the kernels' tests share: random values, launches through launch.h, references in f64, comparisons.
//
// A test program includes its kernels' .cu. It prints a line for each case and exits 1 if any failed.
// EMU_SMALL=1 leaves out the large shapes (for ThreadSanitizer and for seeded bugs); small ones have to reach every kernel.
#pragma once

#include "../prims.cuh"
#include "random.h"

#include <cstdarg>
#include <functional>

#ifdef __CUDACC__
#include "device.h"  // the same test on a GPU
#else
namespace test {

// Conversions on the host; on a GPU the kernels' own are not.
template <class T> double wide(T x) { return to_float(x); }
template <class T> T rounded(float x) { return from_float<T>(x); }

// Runs a kernel, and says what went wrong. The emulation ends the program instead.
template <class P> std::string run_kernel(void (*kernel)(P), const Launch &launch, const P &parameters, uint64_t seed, const char *) {
  emu::bugs.kernel = launch.kernel;
  emu::launch(kernel, dim3(launch.grid[0], launch.grid[1], launch.grid[2]), dim3(launch.block), launch.shared_bytes, seed, parameters);
  return "";
}

}  // namespace test
#endif

namespace test {

inline int failed_cases = 0;
inline const bool small_only = getenv("EMU_SMALL") != nullptr;

struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed) {}
  uint64_t next() { return next_random(state); }
  int integer(int low, int high) { return low + int(next() % uint64_t(high - low + 1)); }
  double uniform() { return double(next() >> 11) * 0x1p-53; }
  double normal() { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }
};

inline std::vector<int8_t> random_int8(Random &random, size_t count, int low = -128, int high = 127) {
  std::vector<int8_t> v(count);
  for (auto &x : v) x = int8_t(random.integer(low, high));
  return v;
}
inline std::vector<float> random_floats(Random &random, size_t count, double low, double high) {
  std::vector<float> v(count);
  for (auto &x : v) x = float(low + (high - low) * random.uniform());
  return v;
}
template <class T> std::vector<T> random_normal(Random &random, size_t count, double deviation = 1, double mean = 0) {
  std::vector<T> v(count);
  for (auto &x : v) x = rounded<T>(float(mean + deviation * random.normal()));
  return v;
}
// An output before its kernel has run: NaN.
template <class T> std::vector<T> unwritten(size_t count) {
  std::vector<T> v(count);
  memset(static_cast<void *>(v.data()), 0xFF, count * sizeof(T));
  return v;
}
template <class T> const void *pointer(const std::vector<T> &v) { return v.empty() ? nullptr : v.data(); }

template <class T> double round_to(double x) { return wide(rounded<T>(float(x))); }
inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

template <class T> constexpr Dtype DTYPE = std::is_same_v<T, F16> ? DTYPE_F16 : DTYPE_BF16;
template <class T> constexpr const char *NAME = std::is_same_v<T, F16> ? "f16" : std::is_same_v<T, BF16> ? "bf16" : "f32";

// Runs one case; what it says in complaints is printed and counts as failure.
struct Complaints {
  const std::string &name;  // the case's
  std::string text;
  void operator()(const char *format, ...) __attribute__((format(printf, 2, 3))) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (text.size() < 1000) text += std::string("\n    ") + line;
  }
};
inline void run(const std::string &name, const std::function<void(Complaints &)> &body) {
  Complaints complaints{name, ""};
  body(complaints);
  const bool failed = !complaints.text.empty();
  failed_cases += failed;
  printf("%s %s%s\n", failed ? "FAILED" : "ok", name.c_str(), complaints.text.c_str());
  fflush(stdout);
  if (failed && getenv("EMU_BUG")) exit(1);  // noticed
}
inline std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));
inline std::string text(const char *format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  return line;
}

// Launches the kernel that launch.h names, out of those given.
template <class P> using Entries = std::map<std::string, void (*)(P)>;
template <class P> void launch(const Entries<P> &entries, const Launch &launch, const P &parameters, uint64_t seed, Complaints &complain) {
  if (launch.error) return complain("launch refused: %s", launch.error);
  const auto entry = entries.find(launch.kernel);
  if (entry == entries.end()) return complain("no kernel %s", launch.kernel);
  const std::string wrong = run_kernel(entry->second, launch, parameters, seed, complain.name.c_str());
  if (!wrong.empty()) complain("%s: %s", launch.kernel, wrong.c_str());
}

template <class T> void same_bits(const char *what, const std::vector<T> &got, const std::vector<T> &want, Complaints &complain) {
  size_t different = 0, first = 0;
  for (size_t i = got.size(); i-- > 0;)
    if (memcmp(&got[i], &want[i], sizeof(T))) different++, first = i;
  if (different) complain("%s: %zu of %zu differ, the first at %zu", what, different, got.size(), first);
}

struct Error {
  double l2 = 0, largest = 0;  // relative to the reference's norm and largest magnitude
};
inline Error error(const std::vector<double> &x, const std::vector<double> &reference) {
  double squares = 0, norm = 0, largest = 0, magnitude = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const double d = x[i] - reference[i];
    squares += d * d;
    norm += reference[i] * reference[i];
    largest = std::isnan(d) ? INFINITY : std::max(largest, fabs(d));
    magnitude = std::max(magnitude, fabs(reference[i]));
  }
  return {std::isnan(squares) ? INFINITY : sqrt(squares / std::max(norm, 1e-300)), largest / std::max(magnitude, 1e-300)};
}
template <class T> std::vector<double> widened(const std::vector<T> &v) {
  std::vector<double> w;
  for (T x : v) w.push_back(wide(x));
  return w;
}

// A float result is right if it is at most twice as far from f64 as the plain path in the same precision, which
// rounds after each operation. `unit`: the type's rounding unit, for results that the plain path hits exactly.
template <class T>
void close_enough(const char *what, const std::vector<T> &got, const std::vector<double> &plain, const std::vector<double> &exact, Complaints &complain) {
  const double unit = std::is_same_v<T, F16> ? 0x1p-11 : 0x1p-8;
  const Error mine = error(widened(got), exact), theirs = error(plain, exact);
  if (!(mine.l2 <= 2 * theirs.l2 + 1e-7)) complain("%s: relative error %.2e, the plain path's is %.2e", what, mine.l2, theirs.l2);
  if (!(mine.largest <= 2 * theirs.largest + unit)) complain("%s: largest error %.2e, the plain path's is %.2e", what, mine.largest, theirs.largest);
}

// Each value by itself, so that small ones count: as far from f64 as one rounding to T takes it, and `before` that.
template <class T>
void rounded_once(const char *what, const std::vector<T> &got, const std::vector<double> &exact, double before, Complaints &complain) {
  const double unit = std::is_same_v<T, F16> ? 0x1p-11 : 0x1p-8;
  for (size_t i = 0; i < got.size(); i++)
    if (!(fabs(wide(got[i]) - exact[i]) <= unit * fabs(exact[i]) + before)) complain("%s: %g where %g is right", what, wide(got[i]), exact[i]);
}

inline int finish() {
  return failed_cases ? 1 : 0;
}

}  // namespace test
