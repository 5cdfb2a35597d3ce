#pragma once

#include <cstddef>
#include <cstdint>

namespace trireme::cuda {

// Hands out consecutive arrays of a caller's memory, each 256-byte aligned; of null, only counts.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <class T>
  T* Take(size_t count) {
    T* array = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
    return array;
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  size_t bytes_ = 0;
};

}  // namespace trireme::cuda
