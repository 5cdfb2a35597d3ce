#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace trireme {

// A device that a rank has, as its maker's data sheet says: dense rates, bytes in powers of ten.
struct DeviceSpec {
  std::string name;
  double memory_bytes = 0;
  double memory_bytes_per_s = 0;
  double flops_16bit = 0;  // per second, dense bfloat16 products with float32 sums
  double flops_8bit = 0;   // dense int8 (or FP8) products
  std::string link;        // between devices of a host: a LinkSpec's name
  bool gpu = true;
  bool sizing_only = false;       // the project has no kernels for it
  bool products_8bit = false;     // products of quantised weights run at flops_8bit
  bool keeps_fp8 = false;         // FP8 weights stay FP8 and are multiplied at flops_8bit
  double memory_efficiency = 1;   // share of memory_bytes_per_s that reading weights reaches
  double compute_efficiency = 1;  // share of the rate that large products reach
  double reading_exposed = 0;     // share of the reading that products do not hide
  double reserved_bytes = 0;      // what runtime, libraries and their buffers take
  double layer_overhead_s = 0;    // time in a layer that neither rate explains
};

// A link between two ranks: a message of n bytes takes alpha_s + n / bytes_per_s, the alpha-beta
// model of Hockney, "The communication challenge for MPP" (Parallel Computing 20, 1994).
struct LinkSpec {
  std::string name;
  double alpha_s = 0;
  double bytes_per_s = 0;  // one way, between one pair
};

// Of two devices, the least of each number: what a rank can count on that may have either.
DeviceSpec LesserOf(const DeviceSpec& a, const DeviceSpec& b);

// Any case. NOT_FOUND lists the known names.
absl::StatusOr<DeviceSpec> FindDevice(std::string_view name);
absl::StatusOr<LinkSpec> FindLink(std::string_view name);

// "a100-40, a100-80, ...": for help and errors.
std::string DeviceNames();
std::string LinkNames();

}  // namespace trireme
