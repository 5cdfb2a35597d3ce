#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "kernels/tensor.h"

namespace trireme {

// A data type of GGML, as GGUF files number it: a row is blocks of `block_elements` consecutive
// elements, each of `block_bytes`. Specification: enum ggml_type and the block structures in
// https://github.com/ggml-org/ggml
struct GgufType {
  uint32_t number;
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
  std::optional<DType> dtype;  // what we compute with; none: such a tensor cannot be read
};

// All that we know, in the order of their numbers.
std::span<const GgufType> GgufTypes();

// nullptr for a number that GGML had not given away when this was written.
const GgufType* FindGgufType(uint32_t number);

}  // namespace trireme
