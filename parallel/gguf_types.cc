#include "parallel/gguf_types.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "parallel/gguf_file.h"

namespace trireme {
namespace {

constexpr GgufType Computed(uint32_t number, DType dtype) {
  const DTypeInfo info = DTypeBlock(dtype);
  return {number, info.name, info.block_elements, info.block_bytes, dtype};
}

constexpr GgufType Sized(uint32_t number, std::string_view name, int64_t elements, int64_t bytes) {
  return {number, name, elements, bytes, std::nullopt};
}

// Sizes of the types that we do not compute with are here so that their place in the file can be
// checked as well.
constexpr std::array kTypes = {
    Computed(0, DType::kF32),      Computed(1, DType::kF16),      Computed(2, DType::kQ4_0),
    Computed(3, DType::kQ4_1),     Computed(6, DType::kQ5_0),     Computed(7, DType::kQ5_1),
    Computed(8, DType::kQ8_0),     Sized(9, "Q8_1", 32, 40),      Computed(10, DType::kQ2K),
    Computed(11, DType::kQ3K),     Computed(12, DType::kQ4K),     Computed(13, DType::kQ5K),
    Computed(14, DType::kQ6K),     Sized(15, "Q8_K", 256, 292),   Sized(16, "IQ2_XXS", 256, 66),
    Sized(17, "IQ2_XS", 256, 74),  Sized(18, "IQ3_XXS", 256, 98), Sized(19, "IQ1_S", 256, 50),
    Computed(20, DType::kIQ4NL),   Sized(21, "IQ3_S", 256, 110),  Sized(22, "IQ2_S", 256, 82),
    Sized(23, "IQ4_XS", 256, 136), Sized(24, "I8", 1, 1),         Sized(25, "I16", 1, 2),
    Sized(26, "I32", 1, 4),        Sized(27, "I64", 1, 8),        Sized(28, "F64", 1, 8),
    Sized(29, "IQ1_M", 256, 56),   Computed(30, DType::kBF16),    Sized(34, "TQ1_0", 256, 54),
    Sized(35, "TQ2_0", 256, 66),   Sized(39, "MXFP4", 32, 17),    Sized(40, "NVFP4", 64, 36),
};

}  // namespace

std::span<const GgufType> GgufTypes() { return kTypes; }

const GgufType* FindGgufType(uint32_t number) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [number](const GgufType& type) {
    return type.number == number;
  });
  return found == kTypes.end() ? nullptr : found;
}

std::string GgufTypeName(uint32_t type) {
  const GgufType* found = FindGgufType(type);
  return found == nullptr ? absl::StrCat("type ", type) : std::string(found->name);
}

}  // namespace trireme
