#include "parallel/weight_types.h"

#include <array>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kernels/quant/packed.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"
#include "parallel/gguf_names.h"
#include "parallel/quantization_config.h"
#include "parallel/safetensors_types.h"

namespace trireme {
namespace {

using Types = std::map<std::string, std::string, std::less<>>;

constexpr std::array kAllTypes = {
    DType::kF32,  DType::kF16,   DType::kBF16, DType::kQ4_0,     DType::kQ4_1, DType::kQ5_0,
    DType::kQ5_1, DType::kQ8_0,  DType::kQ2K,  DType::kQ3K,      DType::kQ4K,  DType::kQ5K,
    DType::kQ6K,  DType::kIQ4NL, DType::kInt8, DType::kInt4Zero, DType::kFp8};

std::optional<DType> FindType(std::string_view name) {
  for (const DType type : kAllTypes) {
    if (DTypeName(type) == name) return type;
  }
  return std::nullopt;
}

// What is made of a quantised checkpoint's matrices when they are read (docs/quantization.md).
std::string_view ReadType(const QuantizationConfig& config) {
  switch (config.method) {
    case QuantizationMethod::kInt8:
      return DTypeName(DType::kInt8);
    case QuantizationMethod::kAwq:
    case QuantizationMethod::kGptq:
      if (config.act_order) break;
      return DTypeName(DType::kInt4Zero);
    case QuantizationMethod::kFp8:
      if (config.block_rows == 0 && config.fp8_activations) return DTypeName(DType::kFp8);
      break;
    case QuantizationMethod::kNone:
      break;
  }
  return DTypeName(DType::kBF16);
}

Types GgufStored(const GgufFile& file, const ModelConfig& config) {
  Types types;
  for (const GgufTensor& tensor : file.tensors()) {
    for (const std::string& name : HuggingFaceNames(tensor.name, config).names) {
      types[name] = GgufTypeName(tensor.type);
    }
  }
  return types;
}

// The files' own types become those read: "x.qweight" of 4 bits is the matrix "x.weight".
absl::StatusOr<Types> DirectoryStored(const std::filesystem::path& dir,
                                      const QuantizationConfig& quantization) {
  constexpr std::string_view kQweight = "qweight";
  ASSIGN_OR_RETURN(const Types stored, SafetensorsTypes(dir));
  const std::string read(ReadType(quantization));
  Types types = stored;
  for (const auto& [name, type] : stored) {
    if (name.ends_with(kQweight)) {
      types[absl::StrCat(name.substr(0, name.size() - kQweight.size()), "weight")] = read;
    } else if (type == "I8" || type == "F8_E4M3" || stored.contains(name + "_scale")) {
      if (quantization.method == QuantizationMethod::kNone) continue;
      const bool looked_up = name.find("embed_tokens") != name.npos;  // never in FP8
      types[name] = looked_up && quantization.method == QuantizationMethod::kFp8
                        ? std::string(DTypeName(DType::kBF16))
                        : read;
    }
  }
  return types;
}

// "BF16", or "Q4_K, Q6_K": the types of matrices in the layers.
std::string Summary(const Types& types) {
  std::set<std::string> names;
  for (const auto& [tensor, type] : types) {
    if (tensor.ends_with("_proj.weight") || tensor.find(".experts.") != tensor.npos) {
      names.insert(type);
    }
  }
  return absl::StrCat(absl::StrJoin(names, ", "), " (from the files)");
}

bool IsLayerMatrix(const TensorSlice& slice) {
  return !slice.is_vector && slice.name.find("model.layers.") != slice.name.npos &&
         slice.name.find("block_sparse_moe.gate.") == slice.name.npos;
}

// Of a quantised matrix.
absl::StatusOr<int64_t> PackedBytes(const TensorSlice& slice, DType dtype) {
  if (slice.cols.begin % quant::kBlockColumns != 0 || slice.cols.end % quant::kBlockColumns != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("it would cut ", slice.name, " (", std::string(DTypeName(dtype)), ", ",
                     slice.full_cols, " columns) inside a block of ", quant::kBlockColumns));
  }
  if (slice.full_cols % DTypeBlock(dtype).block_elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(slice.name, " has ", slice.full_cols,
                                                   " columns, which are no whole blocks of ",
                                                   std::string(DTypeName(dtype))));
  }
  const int64_t before = slice.cols.begin % DTypeBlock(dtype).block_elements;
  return quant::PackedLayout(dtype, slice.rows.size(), slice.cols.size(),
                             before / quant::kBlockColumns)
      .bytes();
}

}  // namespace

absl::StatusOr<WeightTypes> WeightTypes::Load(const std::filesystem::path& model,
                                              const ModelShape& shape) {
  WeightTypes types;
  if (IsGgufPath(model)) {
    ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
    types.stored_ = GgufStored(file, shape.config);
    types.from_files_ = true;
    types.description_ = Summary(types.stored_);
    return types;
  }
  std::error_code error;
  if (std::filesystem::is_directory(model, error) && HasSafetensorsFiles(model)) {
    ASSIGN_OR_RETURN(types.stored_, DirectoryStored(model, shape.quantization));
    types.from_files_ = true;
    types.description_ = Summary(types.stored_);
    return types;
  }
  const bool quantized = shape.quantization.method != QuantizationMethod::kNone;
  return Named(quantized ? ReadType(shape.quantization) : std::string_view(shape.sizing_dtype));
}

absl::StatusOr<WeightTypes> WeightTypes::Named(std::string_view name) {
  const std::string upper = absl::AsciiStrToUpper(absl::string_view(name.data(), name.size()));
  const std::optional<DType> type = FindType(upper);
  if (!type.has_value()) {
    const std::string known =
        absl::StrJoin(kAllTypes, ", ", [](std::string* out, DType known_type) {
          absl::StrAppend(out, std::string(DTypeName(known_type)));
        });
    return absl::InvalidArgumentError(
        absl::StrCat("unknown data type \"", std::string(name), "\"; known are ", known));
  }
  WeightTypes types;
  types.description_ = upper;
  types.matrices_ = *type;
  types.others_ = DTypeBlock(*type).block_elements > 1 ? DType::kBF16 : *type;
  return types;
}

absl::StatusOr<DType> WeightTypes::Of(const TensorSlice& slice) const {
  if (!from_files_) return IsLayerMatrix(slice) ? matrices_ : others_;
  const auto found = stored_.find(slice.name);
  if (found == stored_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", slice.name,
                     "\" is missing in the checkpoint's files; does config.json belong to them?"));
  }
  const std::optional<DType> type = FindType(found->second);
  if (type.has_value()) return *type;
  return absl::UnimplementedError(absl::StrCat("unsupported: tensor \"", slice.name, "\" has type ",
                                               found->second, ", which workers do not read"));
}

absl::StatusOr<HeldSlice> HeldAs(const TensorSlice& slice, const WeightTypes& types,
                                 const WeightHolding& holding) {
  ASSIGN_OR_RETURN(DType dtype, types.Of(slice));
  if (IsQuantized(dtype) && !slice.is_vector) {
    ASSIGN_OR_RETURN(const int64_t bytes, PackedBytes(slice, dtype));
    return HeldSlice{.dtype = dtype, .bytes = bytes};
  }
  if (holding.float32 && !IsQuantized(dtype)) dtype = DType::kF32;
  if (dtype == DType::kFp8 && holding.keeps_fp8 && FitsFp8Products(slice)) {
    const auto scales = slice.rows.size() * static_cast<int64_t>(sizeof(float));
    return HeldSlice{.dtype = dtype, .bytes = slice.elements() + scales};
  }
  if (dtype == DType::kFp8) dtype = DType::kBF16;
  if (dtype == DType::kBF16 && holding.packs_bf16 && !slice.is_vector) {
    const quant::PackedLayout layout(dtype, slice.rows.size(), slice.cols.size(), 0);
    return HeldSlice{.dtype = dtype, .bytes = layout.bytes()};
  }
  return HeldSlice{.dtype = dtype, .bytes = slice.elements() * DTypeBlock(dtype).block_bytes};
}

}  // namespace trireme
