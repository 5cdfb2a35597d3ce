#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace trireme {

// Checked reading of JSON objects from files. `where` is the path of the object in the file
// ("model", "added_tokens[3]"); errors are InvalidArgument and name it. Nothing here throws.

// The member, or a null value if there is none or `object` is not an object.
const nlohmann::json& JsonMember(const nlohmann::json& object, std::string_view key);

// `fallback` if the member is missing or null.
absl::StatusOr<bool> JsonBool(const nlohmann::json& object, std::string_view key, bool fallback,
                              std::string_view where);

absl::StatusOr<std::string> JsonString(const nlohmann::json& object, std::string_view key,
                                       std::string_view where);

// A non-negative integer that fits.
absl::StatusOr<int32_t> JsonId(const nlohmann::json& value, std::string_view where);

// The "type" of a component, "" if there is none.
std::string JsonType(const nlohmann::json& object);

}  // namespace trireme
