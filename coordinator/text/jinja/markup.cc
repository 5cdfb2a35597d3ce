#include "coordinator/text/jinja/markup.h"

#include <memory>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/interpreter.h"

namespace trireme::jinja {
namespace {

absl::Status EscapeInPlace(Budget& budget, Value& value) {
  ASSIGN_OR_RETURN(std::string text, EscapedText(budget, value));
  ASSIGN_OR_RETURN(value, MakeMarkup(budget, std::move(text)));
  return absl::OkStatus();
}

}  // namespace

Result MakeMarkup(Budget& budget, std::string text) {
  RETURN_IF_ERROR(budget.Bytes(text.size() + sizeof(Markup)));
  return Value(std::make_shared<const Markup>(Markup{std::move(text)}));
}

Result MakeStringLike(Budget& budget, const Value& self, std::string text) {
  return self.IsMarkup() ? MakeMarkup(budget, std::move(text))
                         : MakeString(budget, std::move(text));
}

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

absl::StatusOr<std::string> EscapedText(Budget& budget, const Value& value) {
  ASSIGN_OR_RETURN(std::string text, ToString(budget, value));
  if (value.IsMarkup()) return text;
  RETURN_IF_ERROR(budget.Bytes(text.size() * 5));
  return Escape(text);
}

Result CallMarkupMethod(Interpreter& interpreter, std::string_view name, BuiltinFunction method,
                        const Value& self, Arguments arguments) {
  Budget& budget = interpreter.budget();
  if (name == "format") {
    for (Value& value : arguments.positional) RETURN_IF_ERROR(EscapeInPlace(budget, value));
    for (auto& named : arguments.named) RETURN_IF_ERROR(EscapeInPlace(budget, named.second));
  } else if (name == "replace" && arguments.positional.size() > 1) {
    RETURN_IF_ERROR(EscapeInPlace(budget, arguments.positional[1]));
  } else if (name == "join" && !arguments.positional.empty()) {
    ASSIGN_OR_RETURN(const auto items, Iterate(budget, arguments.positional[0]));
    for (Value& item : items->items) RETURN_IF_ERROR(EscapeInPlace(budget, item));
    ASSIGN_OR_RETURN(arguments.positional[0], MakeSequence(budget, std::move(items->items)));
  }
  ASSIGN_OR_RETURN(const Value result, method(interpreter, self, arguments));
  if (result.AsString() != nullptr) return MakeMarkup(budget, *result.AsString());
  if (result.AsSequence() == nullptr) return result;
  std::vector<Value> parts;
  for (const Value& part : result.AsSequence()->items) {
    ASSIGN_OR_RETURN(Value markup, MakeMarkup(budget, *part.AsString()));
    parts.push_back(std::move(markup));
  }
  return MakeSequence(budget, std::move(parts), result.AsSequence()->kind);
}

}  // namespace trireme::jinja
