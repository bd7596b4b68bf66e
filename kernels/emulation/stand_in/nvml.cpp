// NVML as far as darkroom asks it: the stand-in driver's one GPU, found by its bus. It takes 50 W all the time, so that
// a stage's energy can be checked by its time.

#include <cstdio>
#include <cstring>
#include <ctime>

extern "C" {
int cuMemGetInfo_v2(size_t *free, size_t *total);
int cuDeviceGetPCIBusId(char *bus, int bytes, int device);
}

namespace {
constexpr int SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6;
constexpr double WATTS = 50;
int gpu; // its address is the handle
} // namespace

#define CALL extern "C" __attribute__((visibility("default"))) int

CALL nvmlInit_v2() { return SUCCESS; }

CALL nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **handle) {
  char own[32];
  cuDeviceGetPCIBusId(own, sizeof own, 0);
  if (strcmp(bus, own) != 0) return NOT_FOUND;
  *handle = &gpu;
  return SUCCESS;
}

CALL nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
  if (handle != &gpu) return INVALID_ARGUMENT;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *millijoules = static_cast<unsigned long long>(WATTS * (1e3 * now.tv_sec + 1e-6 * now.tv_nsec));
  return SUCCESS;
}

CALL nvmlDeviceGetMemoryInfo(void *handle, unsigned long long memory[3]) { // total, free, used
  size_t free = 0, total = 0;
  if (handle != &gpu || cuMemGetInfo_v2(&free, &total) != 0) return INVALID_ARGUMENT;
  memory[0] = total;
  memory[1] = free;
  memory[2] = total - free;
  return SUCCESS;
}

CALL nvmlSystemGetDriverVersion(char *version, unsigned bytes) {
  snprintf(version, bytes, "0.0 (emulated)");
  return SUCCESS;
}
