#include "cluster/planner/hardware.h"

#include <algorithm>
#include <array>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace trireme {
namespace {

constexpr double kGB = 1e9;
constexpr double kTera = 1e12;
constexpr double kMicro = 1e-6;

// What of a data sheet's number is reached: assumptions, not measurements (docs/planner.md).
constexpr double kGpuMemoryEfficiency = 0.8;
constexpr double kGpuComputeEfficiency = 0.6;
constexpr double kGpuReserved = 2 * kGB;
constexpr double kGpuLayerOverhead = 10 * kMicro;
constexpr double kCpuMemoryEfficiency = 1.0;  // the rate is what a benchmark read
constexpr double kCpuComputeEfficiency = 0.65;
constexpr double kCpuReadingExposed =
    0.5;  // measured: a step of 16 and 32 sequences, docs/planner.md

// One row of the table.
struct DeviceRow {
  const char* name;
  double memory_gb;
  double memory_gb_per_s;
  double tera_16bit;
  double tera_8bit;
  const char* link;
  bool fp8 = false;  // cuBLASLt multiplies it: from compute capability 8.9
};

constexpr std::array kGpus = {
    DeviceRow{"a100-40", 40, 1555, 312, 624, "nvlink3"},
    DeviceRow{"a100-80", 80, 2039, 312, 624, "nvlink3"},
    DeviceRow{"l40s", 48, 864, 362, 733, "pcie4", true},
    DeviceRow{"h100", 80, 3350, 989, 1979, "nvlink4", true},
    DeviceRow{"h200", 141, 4800, 989, 1979, "nvlink4", true},
    DeviceRow{"b200", 180, 8000, 2250, 4500, "nvlink5", true},
    DeviceRow{"mi300x", 192, 5300, 1307, 2615, "xgmi3"},
};

// A small server's share; real ones differ by a factor of twenty, so that its flags are there.
constexpr DeviceRow kCpu = {"cpu", 16, 40, 1, 2, "shm"};

DeviceSpec FromRow(const DeviceRow& row) {
  DeviceSpec spec;
  spec.name = row.name;
  spec.memory_bytes = row.memory_gb * kGB;
  spec.memory_bytes_per_s = row.memory_gb_per_s * kGB;
  spec.flops_16bit = row.tera_16bit * kTera;
  spec.flops_8bit = row.tera_8bit * kTera;
  spec.link = row.link;
  spec.keeps_fp8 = row.fp8;
  return spec;
}

DeviceSpec Gpu(const DeviceRow& row) {
  DeviceSpec spec = FromRow(row);
  spec.sizing_only = spec.name == "mi300x";
  spec.memory_efficiency = kGpuMemoryEfficiency;
  spec.compute_efficiency = kGpuComputeEfficiency;
  spec.reserved_bytes = kGpuReserved;
  spec.layer_overhead_s = kGpuLayerOverhead;
  return spec;
}

DeviceSpec Cpu() {
  DeviceSpec spec = FromRow(kCpu);
  spec.gpu = false;
  spec.products_8bit = true;
  spec.memory_efficiency = kCpuMemoryEfficiency;
  spec.compute_efficiency = kCpuComputeEfficiency;
  spec.reading_exposed = kCpuReadingExposed;
  return spec;
}

// One row of the table of links; gbit_per_s is the line's rate one way.
struct LinkRow {
  const char* name;
  double alpha_us;
  double gbit_per_s;
  double efficiency;
};

constexpr std::array kLinks = {
    LinkRow{"nvlink3", 3, 2400, 0.8},    LinkRow{"nvlink4", 3, 3600, 0.8},
    LinkRow{"nvlink5", 3, 7200, 0.8},    LinkRow{"xgmi3", 4, 3584, 0.7},
    LinkRow{"pcie4", 6, 256, 0.8},       LinkRow{"pcie5", 6, 512, 0.8},
    LinkRow{"ib-hdr", 5, 200, 0.9},      LinkRow{"ib-ndr", 5, 400, 0.9},
    LinkRow{"roce-100", 7, 100, 0.85},   LinkRow{"roce-200", 7, 200, 0.85},
    LinkRow{"roce-400", 7, 400, 0.85},   LinkRow{"ethernet-10", 30, 10, 0.9},
    LinkRow{"ethernet-25", 30, 25, 0.9}, LinkRow{"ethernet-100", 30, 100, 0.8},
    LinkRow{"shm", 1.5, 64, 0.8},
};

std::string Lower(std::string_view name) {
  return absl::AsciiStrToLower(absl::string_view(name.data(), name.size()));
}

}  // namespace

DeviceSpec LesserOf(const DeviceSpec& a, const DeviceSpec& b) {
  DeviceSpec least = a;
  if (a.name != b.name) least.name = absl::StrCat(a.name, " or ", b.name);
  least.memory_bytes = std::min(a.memory_bytes, b.memory_bytes);
  least.reserved_bytes = std::max(a.reserved_bytes, b.reserved_bytes);
  // What is reached of the rates: that is what they are compared by.
  least.memory_bytes_per_s = std::min(a.memory_bytes_per_s * a.memory_efficiency,
                                      b.memory_bytes_per_s * b.memory_efficiency);
  least.flops_16bit =
      std::min(a.flops_16bit * a.compute_efficiency, b.flops_16bit * b.compute_efficiency);
  least.flops_8bit =
      std::min(a.flops_8bit * a.compute_efficiency, b.flops_8bit * b.compute_efficiency);
  least.memory_efficiency = least.compute_efficiency = 1;
  least.products_8bit = a.products_8bit && b.products_8bit;
  least.keeps_fp8 = a.keeps_fp8 && b.keeps_fp8;
  least.sizing_only = a.sizing_only || b.sizing_only;
  least.reading_exposed = std::max(a.reading_exposed, b.reading_exposed);
  least.layer_overhead_s = std::max(a.layer_overhead_s, b.layer_overhead_s);
  return least;
}

absl::StatusOr<DeviceSpec> FindDevice(std::string_view name) {
  std::string wanted = Lower(name);
  if (wanted == "a100") wanted = "a100-80";
  if (wanted == kCpu.name) return Cpu();
  for (const DeviceRow& row : kGpus) {
    if (wanted == row.name) return Gpu(row);
  }
  return absl::NotFoundError(
      absl::StrCat("unknown --gpu \"", std::string(name), "\"; known are ", DeviceNames()));
}

absl::StatusOr<LinkSpec> FindLink(std::string_view name) {
  const std::string wanted = Lower(name);
  for (const LinkRow& row : kLinks) {
    if (wanted != row.name) continue;
    return LinkSpec{.name = row.name,
                    .alpha_s = row.alpha_us * kMicro,
                    .bytes_per_s = row.gbit_per_s / 8 * row.efficiency * kGB};
  }
  return absl::NotFoundError(
      absl::StrCat("unknown link \"", std::string(name), "\"; known are ", LinkNames()));
}

std::string DeviceNames() {
  const auto name = [](std::string* out, const DeviceRow& row) { out->append(row.name); };
  return absl::StrCat(absl::StrJoin(kGpus, ", ", name), ", ", kCpu.name);
}

std::string LinkNames() {
  return absl::StrJoin(kLinks, ", ",
                       [](std::string* out, const LinkRow& row) { out->append(row.name); });
}

}  // namespace trireme
