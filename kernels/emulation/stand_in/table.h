// The kernels that the stand-in driver can launch, by name. Each file of kernels is compiled with an ENTRY line for
// every kernel in it, with the threads of a block that it is compiled for (build writes them).
#pragma once

#include "../cuda.h"

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace stand_in {

// Work that can be done now or, recorded in a graph, later and again.
using Work = std::function<void()>;

// A launch, as cuLaunchKernel has it: arguments[i] points at the i-th parameter, which is copied.
using Bind = Work (*)(dim3 grid, dim3 block, size_t shared_bytes, void **arguments);

struct Kernel {
  Bind bind;
  unsigned most_threads;  // of a block: its launch bound
};

inline std::map<std::string, Kernel> &table() {
  static std::map<std::string, Kernel> entries;
  return entries;
}

template <class... Parameters>
Work bind(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void **arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  } call{kernel, [&]<size_t... I>(std::index_sequence<I...>) {
           return std::tuple<Parameters...>(*static_cast<std::remove_const_t<Parameters> *>(arguments[I])...);
         }(std::index_sequence_for<Parameters...>{})};
  return [=]() mutable {
    emu::run_grid(grid, block, shared_bytes, 0,
                  [](void *c) { std::apply(static_cast<Call *>(c)->kernel, static_cast<Call *>(c)->parameters); }, &call);
  };
}

struct Entry {
  Entry(const char *name, Kernel kernel) { table()[name] = kernel; }
};

}  // namespace stand_in

#define ENTRY(kernel, most_threads) \
  static const stand_in::Entry entry_of_##kernel( \
      #kernel, {[](dim3 grid, dim3 block, size_t shared, void **arguments) { return stand_in::bind(kernel, grid, block, shared, arguments); }, \
                unsigned(most_threads)});
