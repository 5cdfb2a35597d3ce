#pragma once

#include <string>
#include <string_view>

#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/value.h"

namespace trireme::jinja {

// MarkupSafe's strings: what `safe` and `escape` give. Text that is joined with one of them is
// escaped first, which is why they matter although nothing else is escaped.

Result MakeMarkup(Budget& budget, std::string text);

// `text` as a string of the kind that `self` is: what is made of markup is markup.
Result MakeStringLike(Budget& budget, const Value& self, std::string text);

// With &, <, >, ' and " as entities.
std::string Escape(std::string_view text);

// str(value), escaped unless it is markup.
absl::StatusOr<std::string> EscapedText(Budget& budget, const Value& value);

// A method of str, called on markup: what it puts in is escaped, and the strings it gives are
// markup.
Result CallMarkupMethod(Interpreter& interpreter, std::string_view name, BuiltinFunction method,
                        const Value& self, Arguments arguments);

}  // namespace trireme::jinja
