#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trireme {

// Numbers of GGUF's value types.
enum : uint32_t {
  kGgufUint8 = 0,
  kGgufInt8,
  kGgufUint16,
  kGgufInt16,
  kGgufUint32,
  kGgufInt32,
  kGgufFloat32,
  kGgufBool,
  kGgufString,
  kGgufArray,
  kGgufUint64,
  kGgufInt64,
  kGgufFloat64,
};

// The bytes of numbers, one behind the other.
template <typename... T>
std::string Bytes(T... values) {
  std::string bytes;
  const auto append = [&bytes](const auto& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  (append(values), ...);
  return bytes;
}

inline std::string GgufText(std::string_view text) {
  return Bytes(uint64_t{text.size()}) + std::string(text);
}

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Builds GGUF files for tests, right ones and, by way of its public fields, wrong ones.
class GgufWriter {
 public:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // as in the file: consecutive elements first
    uint32_t type = 0;
    std::string data;
    int64_t offset = -1;  // -1: behind the one before
  };

  // A value by its type's number and its bytes.
  GgufWriter& Raw(std::string_view key, uint32_t type, const std::string& bytes) {
    metadata += GgufText(key) + Bytes(type) + bytes;
    ++metadata_count;
    return *this;
  }
  GgufWriter& Uint(std::string_view key, uint32_t value) {
    return Raw(key, kGgufUint32, Bytes(value));
  }
  GgufWriter& Float(std::string_view key, float value) {
    return Raw(key, kGgufFloat32, Bytes(value));
  }
  GgufWriter& Bool(std::string_view key, bool value) {
    return Raw(key, kGgufBool, Bytes(uint8_t{value}));
  }
  GgufWriter& Text(std::string_view key, std::string_view value) {
    return Raw(key, kGgufString, GgufText(value));
  }
  GgufWriter& Texts(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes = Bytes(uint32_t{kGgufString}, uint64_t{values.size()});
    for (const std::string& value : values) bytes += GgufText(value);
    return Raw(key, kGgufArray, bytes);
  }
  template <typename T>
  GgufWriter& List(std::string_view key, uint32_t type, const std::vector<T>& values) {
    std::string bytes = Bytes(type, uint64_t{values.size()});
    for (const T& value : values) bytes += Bytes(value);
    return Raw(key, kGgufArray, bytes);
  }

  GgufWriter& Add(std::string name, std::vector<uint64_t> dims, uint32_t type, std::string data) {
    tensors.push_back({std::move(name), std::move(dims), type, std::move(data)});
    return *this;
  }
  // F32, counting from `first`.
  GgufWriter& Floats(std::string name, std::vector<uint64_t> dims, float first = 0) {
    uint64_t count = 1;
    for (const uint64_t dim : dims) count *= dim;
    std::string data;
    for (uint64_t i = 0; i < count; ++i) data += Bytes(first + static_cast<float>(i));
    return Add(std::move(name), std::move(dims), 0, std::move(data));
  }

  std::string File() const {
    std::string table;
    std::string data;
    for (const Tensor& tensor : tensors) {
      const uint64_t offset =
          tensor.offset >= 0 ? static_cast<uint64_t>(tensor.offset) : Padded(data).size();
      table += GgufText(tensor.name) + Bytes(static_cast<uint32_t>(tensor.dims.size()));
      for (const uint64_t dim : tensor.dims) table += Bytes(dim);
      table += Bytes(tensor.type, offset);
      data = Padded(std::move(data)) + tensor.data;
    }
    const uint64_t count = tensor_count >= 0 ? static_cast<uint64_t>(tensor_count) : tensors.size();
    return Padded("GGUF" + Bytes(version, count, metadata_count) + metadata + table) + data;
  }

  uint32_t version = 3;
  size_t alignment = 32;
  int64_t tensor_count = -1;  // -1: as many as there are
  uint64_t metadata_count = 0;
  std::string metadata;
  std::vector<Tensor> tensors;

 private:
  std::string Padded(std::string text) const {
    text.resize((text.size() + alignment - 1) / alignment * alignment);
    return text;
  }
};

}  // namespace trireme
