#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme {

// Reads typed, bounded values out of one JSON object. Every error is one line that names the origin
// (a file), the key, what was found and what is accepted. An absent key and null mean the same: the
// fallback, or an error if there is none. The object must outlive the reader.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string_view origin)
      : object_(object), origin_(origin) {}

  const std::string& origin() const { return origin_; }

  bool Has(const char* key) const { return Find(key) != nullptr; }
  bool IsNull(const char* key) const { return object_.contains(key) && object_.at(key).is_null(); }
  // The value, or nullptr if it is absent or null.
  const nlohmann::json* Find(const char* key) const;

  // A whole number from `min`, which is not negative, to `max`.
  absl::StatusOr<int64_t> Whole(const char* key, int64_t min, int64_t max,
                                std::optional<int64_t> fallback = std::nullopt) const;
  // A finite number, above 0 and at most `max`.
  absl::StatusOr<double> PositiveReal(const char* key, double max,
                                      std::optional<double> fallback = std::nullopt) const;
  absl::StatusOr<bool> Bool(const char* key, bool fallback) const;
  absl::StatusOr<std::string> String(const char* key, std::string_view fallback) const;

  // "<origin>: <key> is <value>; <hint>"
  absl::Status Invalid(const char* key, std::string_view hint) const;

 private:
  const nlohmann::json& object_;
  std::string origin_;
};

// The text of a value for an error message: short, on one line, never throwing.
std::string JsonExcerpt(const nlohmann::json& value);

}  // namespace trireme
