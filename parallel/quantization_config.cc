#include "parallel/quantization_config.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

using nlohmann::json;
using Method = QuantizationMethod;

constexpr const char* kKey = "quantization_config";
constexpr size_t kConfigBytesMax = 16 << 20;
constexpr int64_t kGroupSizeMax = 1 << 20;
constexpr int64_t kGroupColumns = 32;  // of a kernel's block, which has one scale

// "<origin>: unsupported: <key> is <value>; <hint>"
absl::Status Unsupported(const JsonFields& fields, const char* key, std::string_view hint) {
  const json* value = fields.Find(key);
  return absl::UnimplementedError(absl::StrCat(fields.origin(), ": unsupported: ", key, " is ",
                                               value == nullptr ? "absent" : JsonExcerpt(*value),
                                               "; ", std::string(hint)));
}

// One of the accepted strings, of which the first is meant if the key is absent.
absl::StatusOr<std::string> OneOf(const JsonFields& fields, const char* key,
                                  std::initializer_list<std::string_view> accepted) {
  ASSIGN_OR_RETURN(const std::string value, fields.String(key, *accepted.begin()));
  if (std::find(accepted.begin(), accepted.end(), value) != accepted.end()) return value;
  const std::string names = absl::StrJoin(
      accepted, ", ",
      [](std::string* out, std::string_view name) { absl::StrAppend(out, std::string(name)); });
  return Unsupported(fields, key, absl::StrCat("supported: ", names));
}

absl::Status RequireBool(const JsonFields& fields, const char* key, bool required, bool fallback) {
  ASSIGN_OR_RETURN(const bool value, fields.Bool(key, fallback));
  if (value == required) return absl::OkStatus();
  return Unsupported(fields, key, required ? "it must be true" : "it must be false");
}

absl::Status RequireWhole(const JsonFields& fields, const char* key, int64_t required) {
  const json* value = fields.Find(key);
  if (value != nullptr && value->is_number_integer() && *value == required) {
    return absl::OkStatus();
  }
  return Unsupported(fields, key, absl::StrCat("it must be ", required));
}

// Null, or an object that says nothing.
absl::Status RequireNothing(const JsonFields& fields, const char* key) {
  const json* value = fields.Find(key);
  if (value == nullptr || (value->is_object() && value->empty())) return absl::OkStatus();
  return Unsupported(fields, key, "it must be null");
}

absl::StatusOr<JsonFields> Object(const JsonFields& fields, const char* key) {
  const json* found = fields.Find(key);
  if (found == nullptr || !found->is_object()) return fields.Invalid(key, "it must be an object");
  return JsonFields(*found, absl::StrCat(fields.origin(), ": ", key));
}

// A list of names. It need not be looked at further: the files show what it leaves out.
absl::Status CheckNames(const JsonFields& fields, const char* key) {
  const json* names = fields.Find(key);
  if (names == nullptr ||
      (names->is_array() && std::all_of(names->begin(), names->end(),
                                        [](const json& name) { return name.is_string(); }))) {
    return absl::OkStatus();
  }
  return fields.Invalid(key, "it must be a list of strings or null");
}

// A multiple of 32, or -1 for whole rows.
absl::StatusOr<int64_t> GroupSize(const JsonFields& fields) {
  constexpr const char* kGroupSize = "group_size";
  const json* value = fields.Find(kGroupSize);
  if (value != nullptr && *value == -1) return 0;
  ASSIGN_OR_RETURN(const int64_t size, fields.Whole(kGroupSize, 1, kGroupSizeMax));
  if (size % kGroupColumns == 0) return size;
  return Unsupported(fields, kGroupSize,
                     absl::StrCat("it must be a multiple of ", kGroupColumns, ", or -1"));
}

// [rows, columns]
absl::Status ParseBlock(const JsonFields& fields, const char* key, QuantizationConfig& config) {
  const json* block = fields.Find(key);
  const auto valid = [](const json& size) {
    return size.is_number_unsigned() && size > 0 && size <= kGroupSizeMax;
  };
  if (block == nullptr || !block->is_array() || block->size() != 2 || !valid(block->at(0)) ||
      !valid(block->at(1))) {
    return fields.Invalid(key, "it must be a list of two whole numbers above 0");
  }
  config.block_rows = block->at(0).get<int64_t>();
  config.block_cols = block->at(1).get<int64_t>();
  return absl::OkStatus();
}

absl::Status CheckActivations(const JsonFields& group) {
  RETURN_IF_ERROR(RequireNothing(group, "output_activations"));
  constexpr const char* kInputs = "input_activations";
  if (!group.Has(kInputs)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const JsonFields inputs, Object(group, kInputs));
  RETURN_IF_ERROR(RequireWhole(inputs, "num_bits", 8));
  ASSIGN_OR_RETURN(const bool dynamic, inputs.Bool("dynamic", false));
  if (dynamic) return absl::OkStatus();
  // Ours are rounded with a scale for each 32 of them, finer than any stored one; but a stored zero
  // point would be lost.
  return RequireBool(inputs, "symmetric", true, true);
}

absl::Status ParseCompressedGroup(const JsonFields& group, QuantizationConfig& config) {
  ASSIGN_OR_RETURN(const JsonFields weights, Object(group, "weights"));
  RETURN_IF_ERROR(RequireWhole(weights, "num_bits", 8));
  ASSIGN_OR_RETURN(const std::string type, OneOf(weights, "type", {"int", "float"}));
  RETURN_IF_ERROR(RequireBool(weights, "symmetric", true, true));
  RETURN_IF_ERROR(RequireBool(weights, "dynamic", false, false));
  config.method = type == "int" ? Method::kInt8 : Method::kFp8;
  if (type == "int") {
    RETURN_IF_ERROR(OneOf(weights, "strategy", {"tensor", "channel"}).status());
  } else {
    ASSIGN_OR_RETURN(const std::string strategy,
                     OneOf(weights, "strategy", {"tensor", "channel", "block"}));
    if (strategy == "block") RETURN_IF_ERROR(ParseBlock(weights, "block_structure", config));
    config.fp8_activations = group.Has("input_activations");
  }
  return CheckActivations(group);
}

absl::StatusOr<QuantizationConfig> ParseCompressed(const JsonFields& fields) {
  QuantizationConfig config;
  RETURN_IF_ERROR(RequireNothing(fields, "kv_cache_scheme"));
  RETURN_IF_ERROR(RequireNothing(fields, "transform_config"));
  RETURN_IF_ERROR(OneOf(fields, "quantization_status", {"compressed", "frozen"}).status());
  if (fields.Has("sparsity_config")) {
    ASSIGN_OR_RETURN(const JsonFields sparsity, Object(fields, "sparsity_config"));
    RETURN_IF_ERROR(OneOf(sparsity, "format", {"dense"}).status());
  }
  RETURN_IF_ERROR(CheckNames(fields, "ignore"));
  const json* groups = fields.Find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->size() != 1 ||
      !groups->begin()->is_object()) {
    return Unsupported(fields, "config_groups", "it must be an object of one group");
  }
  const JsonFields group(*groups->begin(), absl::StrCat(fields.origin(), ": config_groups"));
  RETURN_IF_ERROR(ParseCompressedGroup(group, config));
  if (config.method == Method::kInt8) {
    RETURN_IF_ERROR(OneOf(fields, "format", {"int-quantized", "naive-quantized"}).status());
  } else {
    RETURN_IF_ERROR(OneOf(fields, "format", {"float-quantized", "naive-quantized"}).status());
  }
  return config;
}

absl::StatusOr<QuantizationConfig> ParseFp8(const JsonFields& fields) {
  QuantizationConfig config{.method = Method::kFp8};
  RETURN_IF_ERROR(OneOf(fields, "fmt", {"e4m3"}).status());
  RETURN_IF_ERROR(OneOf(fields, "activation_scheme", {"dynamic"}).status());
  RETURN_IF_ERROR(OneOf(fields, "scale_fmt", {"float"}).status());
  RETURN_IF_ERROR(CheckNames(fields, "modules_to_not_convert"));
  RETURN_IF_ERROR(ParseBlock(fields, "weight_block_size", config));
  return config;
}

absl::StatusOr<QuantizationConfig> ParseAwq(const JsonFields& fields) {
  QuantizationConfig config{.method = Method::kAwq};
  RETURN_IF_ERROR(RequireWhole(fields, "bits", 4));
  RETURN_IF_ERROR(OneOf(fields, "version", {"gemm", "GEMM"}).status());
  RETURN_IF_ERROR(RequireBool(fields, "zero_point", true, true));
  RETURN_IF_ERROR(CheckNames(fields, "modules_to_not_convert"));
  ASSIGN_OR_RETURN(config.group_size, GroupSize(fields));
  return config;
}

absl::StatusOr<QuantizationConfig> ParseGptq(const JsonFields& fields) {
  QuantizationConfig config{.method = Method::kGptq};
  RETURN_IF_ERROR(RequireWhole(fields, "bits", 4));
  RETURN_IF_ERROR(RequireNothing(fields, "dynamic"));
  ASSIGN_OR_RETURN(const std::string format,
                   OneOf(fields, "checkpoint_format", {"gptq", "gptq_v2"}));
  config.zeros_minus_one = format == "gptq";
  if (fields.Has("pack_dtype")) RETURN_IF_ERROR(OneOf(fields, "pack_dtype", {"int32"}).status());
  ASSIGN_OR_RETURN(config.group_size, GroupSize(fields));
  ASSIGN_OR_RETURN(const bool desc_act, fields.Bool("desc_act", false));
  config.act_order = desc_act && config.group_size > 0;
  return config;
}

}  // namespace

absl::StatusOr<QuantizationConfig> QuantizationConfig::Load(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return QuantizationConfig{};
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kConfigBytesMax));
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a JSON object"));
  }
  return Parse(JsonFields(root, path.string()));
}

absl::StatusOr<QuantizationConfig> QuantizationConfig::Parse(const JsonFields& config) {
  if (!config.Has(kKey)) return QuantizationConfig{};
  ASSIGN_OR_RETURN(const JsonFields fields, Object(config, kKey));
  ASSIGN_OR_RETURN(const std::string method, fields.String("quant_method", ""));
  if (method == "compressed-tensors") return ParseCompressed(fields);
  if (method == "fp8") return ParseFp8(fields);
  if (method == "awq") return ParseAwq(fields);
  if (method == "gptq") return ParseGptq(fields);
  return Unsupported(
      fields, "quant_method",
      "supported: compressed-tensors, fp8, awq, gptq; or use the checkpoint in bf16, "
      "f16 or f32");
}

}  // namespace trireme
