#include "parallel/json_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kExcerptBytesMax = 60;

}  // namespace

std::string JsonExcerpt(const json& value) {
  if (value.is_object()) return absl::StrCat("an object of ", value.size(), " keys");
  if (value.is_array()) return absl::StrCat("a list of ", value.size(), " values");
  // Strings may hold invalid UTF-8, which dump would throw on: replace it.
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kExcerptBytesMax) text = text.substr(0, kExcerptBytesMax) + "...";
  return text;
}

const json* JsonFields::Find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<int64_t> JsonFields::Whole(const char* key, int64_t min, int64_t max,
                                          std::optional<int64_t> fallback) const {
  const json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  // The parser stores every whole number without a minus sign as unsigned.
  if (value == nullptr || !value->is_number_unsigned() ||
      value->get<uint64_t>() < static_cast<uint64_t>(min) ||
      value->get<uint64_t>() > static_cast<uint64_t>(max)) {
    return Invalid(key, absl::StrCat("it must be a whole number from ", min, " to ", max));
  }
  return static_cast<int64_t>(value->get<uint64_t>());
}

absl::StatusOr<double> JsonFields::PositiveReal(const char* key, double max,
                                                std::optional<double> fallback) const {
  const json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  const double number =
      value != nullptr && value->is_number() ? value->get<double>() : std::nan("");
  if (!(number > 0 && number <= max)) {
    return Invalid(key, absl::StrCat("it must be a number above 0 and at most ", max));
  }
  return number;
}

absl::StatusOr<bool> JsonFields::Bool(const char* key, bool fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Invalid(key, "it must be true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::String(const char* key, std::string_view fallback) const {
  const json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) return Invalid(key, "it must be a string");
  return value->get<std::string>();
}

absl::Status JsonFields::Invalid(const char* key, std::string_view hint) const {
  const auto it = object_.find(key);
  const std::string found =
      it == object_.end() ? "is missing" : absl::StrCat("is ", JsonExcerpt(*it));
  return absl::InvalidArgumentError(
      absl::StrCat(origin_, ": ", key, " ", found, "; ", std::string(hint)));
}

}  // namespace trireme
