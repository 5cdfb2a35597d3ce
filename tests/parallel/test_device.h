#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "parallel/device_communicator.h"

namespace trireme {

// A device as tests see it: memory that they fill and read by copies.
class TestDevice : public HostCopies {
 public:
  // `count` elements of the device's memory, for the device's life.
  template <typename T>
  std::span<T> Allocate(size_t count) {
    return {reinterpret_cast<T*>(AllocateBytes(std::max(count, size_t{1}) * sizeof(T))), count};
  }
  template <typename T>
  std::span<T> Upload(const std::vector<T>& host) {
    const std::span<T> device = Allocate<T>(host.size());
    EXPECT_TRUE(CopyIn(std::as_bytes(std::span(host)), std::as_writable_bytes(device)).ok());
    return device;
  }
  template <typename T>
  std::vector<std::remove_const_t<T>> Download(std::span<T> device) {
    std::vector<std::remove_const_t<T>> host(device.size());
    EXPECT_TRUE(CopyOut(std::as_bytes(device), std::as_writable_bytes(std::span(host))).ok());
    return host;
  }

 private:
  virtual std::byte* AllocateBytes(size_t bytes) = 0;
};

// Memory that the host cannot reach: its addresses are no addresses of the process, so whoever
// reads one without a copy crashes.
class FakeDevice final : public TestDevice {
 public:
  absl::Status CopyOut(std::span<const std::byte> device, std::span<std::byte> host) override {
    EXPECT_EQ(device.size(), host.size());
    if (!host.empty()) std::memcpy(host.data(), Find(device), host.size());
    return fault;
  }
  absl::Status CopyIn(std::span<const std::byte> host, std::span<std::byte> device) override {
    EXPECT_EQ(device.size(), host.size());
    if (!host.empty()) std::memcpy(Find(device), host.data(), host.size());
    return fault;
  }

  absl::Status fault;  // what copies return

 private:
  std::byte* AllocateBytes(size_t bytes) override {
    const uintptr_t address = next_;
    next_ += (bytes + 0xff) / 0x100 * 0x100;
    memory_[address].resize(bytes, std::byte{0xcd});
    return reinterpret_cast<std::byte*>(address);
  }

  std::byte* Find(std::span<const std::byte> device) {
    const auto address = reinterpret_cast<uintptr_t>(device.data());
    auto after = memory_.upper_bound(address);
    if (after == memory_.begin()) std::abort();
    auto& [start, bytes] = *--after;
    if (address + device.size() > start + bytes.size()) std::abort();
    return bytes.data() + (address - start);
  }

  uintptr_t next_ = 0xdead'0000'0000'0000;              // no process has such addresses
  std::map<uintptr_t, std::vector<std::byte>> memory_;  // by first address
};

}  // namespace trireme
