#include "coordinator/text/json_fields.h"

#include <cstdint>
#include <limits>

#include "coordinator/text/strings.h"

namespace trireme {

const nlohmann::json& JsonMember(const nlohmann::json& object, std::string_view key) {
  static const nlohmann::json kNull;
  if (!object.is_object()) return kNull;
  const auto it = object.find(std::string(key));
  return it == object.end() ? kNull : *it;
}

absl::StatusOr<bool> JsonBool(const nlohmann::json& object, std::string_view key, bool fallback,
                              std::string_view where) {
  const nlohmann::json& value = JsonMember(object, key);
  if (value.is_null()) return fallback;
  if (value.is_boolean()) return value.get<bool>();
  return absl::InvalidArgumentError(StrCat(where, ".", key, ": not a boolean"));
}

absl::StatusOr<std::string> JsonString(const nlohmann::json& object, std::string_view key,
                                       std::string_view where) {
  const nlohmann::json& value = JsonMember(object, key);
  if (value.is_string()) return value.get<std::string>();
  return absl::InvalidArgumentError(StrCat(where, ".", key, ": not a string"));
}

absl::StatusOr<int32_t> JsonId(const nlohmann::json& value, std::string_view where) {
  if (value.is_number_unsigned()) {
    const auto id = value.get<uint64_t>();
    if (id <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
      return static_cast<int32_t>(id);
    }
  }
  return absl::InvalidArgumentError(StrCat(where, ": not a token id"));
}

std::string JsonType(const nlohmann::json& object) {
  const nlohmann::json& type = JsonMember(object, "type");
  return type.is_string() ? type.get<std::string>() : "";
}

}  // namespace trireme
