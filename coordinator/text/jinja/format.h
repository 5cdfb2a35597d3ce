#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/text/jinja/value.h"

namespace trireme::jinja {

// Values as text, as Python writes them. Sizes are charged to the budget.

// str(value): what {{ value }} gives. Undefined gives "".
absl::StatusOr<std::string> ToString(Budget& budget, const Value& value);

// repr(value): strings quoted.
absl::StatusOr<std::string> Repr(Budget& budget, const Value& value);

// repr(float): the shortest digits that read back as the same number.
std::string FloatRepr(double value);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool indented = false;
  std::string indent;  // one level of it
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// json.dumps(value). An error for what JSON has not.
absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace trireme::jinja
