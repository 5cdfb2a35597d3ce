// Filters that give text or numbers.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>

#include "base/status_macros.h"
#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/markup.h"
#include "coordinator/text/jinja/text.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

// Most of these filters begin with str(value).
template <std::string (*Map)(std::string_view)>
Result Mapped(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), self));
  RETURN_IF_ERROR(interpreter.budget().Bytes(text.size() * 4));
  return MakeStringLike(interpreter.budget(), self, Map(text));
}

// soft_str: markup stays so.
Result String(Interpreter& interpreter, const Value& self, const Arguments&) {
  if (self.AsString() != nullptr) return self;
  ASSIGN_OR_RETURN(std::string text, ToString(interpreter.budget(), self));
  return MakeString(interpreter.budget(), std::move(text));
}

Result Safe(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(std::string text, ToString(interpreter.budget(), self));
  return MakeMarkup(interpreter.budget(), std::move(text));
}

Result EscapeFilter(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(std::string text, EscapedText(interpreter.budget(), self));
  return MakeMarkup(interpreter.budget(), std::move(text));
}

// Escapes markup too.
Result ForceEscape(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), self));
  RETURN_IF_ERROR(interpreter.budget().Bytes(text.size() * 5));
  return MakeMarkup(interpreter.budget(), Escape(text));
}

// Jinja2's own: words begin after white space and -({[<.
std::string TitleText(std::string_view text) {
  std::string out;
  bool begins = true;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const std::string_view character = text.substr(0, step.bytes);
    out += begins ? Upper(character) : Lower(character);
    constexpr std::string_view kBefore = "-({[<";
    begins = IsPythonSpace(step.code_point) ||
             (step.bytes == 1 && kBefore.find(character[0]) != std::string_view::npos);
    text.remove_prefix(step.bytes);
  }
  return out;
}

// Puts words together anew, which are no markup then.
Result TitleFilter(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), self));
  RETURN_IF_ERROR(interpreter.budget().Bytes(text.size() * 4));
  return MakeString(interpreter.budget(), TitleText(text));
}

Result Trim(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), self));
  const Value* chars = arguments.Find(0, "chars");
  const bool given = chars != nullptr && !chars->IsNone();
  if (given && chars->AsString() == nullptr) return TypeError("trim: chars must be a string");
  return MakeStringLike(interpreter.budget(), self,
                        std::string(Strip(text, given ? chars->AsString() : nullptr, true, true)));
}

Result Replace(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), self));
  const Value* old_value = arguments.Find(0, "old");
  const Value* new_value = arguments.Find(1, "new");
  if (old_value == nullptr || new_value == nullptr) return TypeError("replace: 2 arguments wanted");
  ASSIGN_OR_RETURN(const std::string old_text, ToString(interpreter.budget(), *old_value));
  ASSIGN_OR_RETURN(const std::string new_text, ToString(interpreter.budget(), *new_value));
  ASSIGN_OR_RETURN(int64_t count, IntArgument(arguments, 2, "count", -1));
  std::string out;
  std::string_view rest = text;
  while (count != 0) {
    const size_t at = rest.find(old_text);
    if (at == std::string_view::npos) break;
    RETURN_IF_ERROR(interpreter.budget().Bytes(at + new_text.size() + 1));
    out.append(rest.substr(0, at)).append(new_text);
    rest.remove_prefix(at + old_text.size());
    --count;
    if (!old_text.empty()) continue;
    // An empty text is found before every character and at the end.
    if (rest.empty()) return Value(std::move(out));
    const size_t bytes = NextUtf8(rest).bytes;
    out.append(rest.substr(0, bytes));
    rest.remove_prefix(bytes);
  }
  out.append(rest);
  return MakeString(interpreter.budget(), std::move(out));
}

Result Indent(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Budget& budget = interpreter.budget();
  ASSIGN_OR_RETURN(std::string text, ToString(budget, self));
  text.push_back('\n');  // splitlines drops it again
  std::string indent(4, ' ');
  if (const Value* width = arguments.Find(0, "width")) {
    if (width->AsString() != nullptr) {
      indent = *width->AsString();
    } else {
      ASSIGN_OR_RETURN(const int64_t spaces, IntArgument(arguments, 0, "width", 4));
      RETURN_IF_ERROR(budget.Bytes(static_cast<size_t>(std::max<int64_t>(spaces, 0))));
      indent = std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' ');
    }
  }
  const bool first = BoolArgument(arguments, 1, "first", false);
  const bool blank = BoolArgument(arguments, 2, "blank", false);
  std::string out;
  if (first) out = indent;
  bool first_line = true;
  for (const std::string_view line : SplitLines(text)) {
    RETURN_IF_ERROR(budget.Bytes(line.size() + indent.size() + 1));
    if (!first_line) out.push_back('\n');
    if (!first_line && (blank || !line.empty())) out += indent;
    out += line;
    first_line = false;
  }
  return MakeStringLike(budget, self, std::move(out));
}

absl::StatusOr<JsonStyle> ReadJsonStyle(const Arguments& arguments) {
  JsonStyle style;
  // tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)
  style.ensure_ascii = BoolArgument(arguments, 0, "ensure_ascii", false);
  style.sort_keys = BoolArgument(arguments, 3, "sort_keys", false);
  const Value* indent = arguments.Find(1, "indent");
  if (indent != nullptr && !indent->IsNone()) {
    style.indented = true;
    style.item_separator.pop_back();  // no space before a newline
    if (indent->AsString() != nullptr) {
      style.indent = *indent->AsString();
    } else {
      ASSIGN_OR_RETURN(const int64_t width, IntArgument(arguments, 1, "indent", 0));
      if (width > 100) return TypeError("tojson: indent is too wide");
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  const Value* separators = arguments.Find(2, "separators");
  if (separators != nullptr && !separators->IsNone()) {
    const Sequence* pair = separators->AsSequence();
    if (pair == nullptr || pair->items.size() != 2 || pair->items[0].AsString() == nullptr ||
        pair->items[1].AsString() == nullptr) {
      return TypeError("tojson: separators must be two strings");
    }
    style.item_separator = *pair->items[0].AsString();
    style.key_separator = *pair->items[1].AsString();
  }
  return style;
}

Result ToJsonFilter(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const JsonStyle style, ReadJsonStyle(arguments));
  ASSIGN_OR_RETURN(std::string text, ToJson(interpreter.budget(), self, style));
  return Value(std::move(text));
}

// A number from the whole of a text, as float() reads it.
std::optional<double> ReadFloat(std::string_view text) {
  text = Strip(text, nullptr, true, true);
  if (text.starts_with("+")) text.remove_prefix(1);
  double number = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<double> AsFloat(const Value& value) {
  if (value.AsString() != nullptr) return ReadFloat(*value.AsString());
  return value.AsNumber();
}

Result IntFilter(Interpreter&, const Value& self, const Arguments& arguments) {
  if (self.IsUndefined()) return TypeError(self.UndefinedReason());
  if (self.AsInt().has_value()) return Value(*self.AsInt());
  ASSIGN_OR_RETURN(const int64_t base, IntArgument(arguments, 1, "base", 10));
  if (const std::string* text = self.AsString()) {
    std::string_view digits = Strip(*text, nullptr, true, true);
    if (digits.starts_with("+")) digits.remove_prefix(1);
    for (const auto& [prefix, prefix_base] :
         {std::pair<std::string_view, int64_t>("0x", 16), {"0o", 8}, {"0b", 2}}) {
      if (base == prefix_base && Lower(digits.substr(0, 2)) == prefix) digits.remove_prefix(2);
    }
    int64_t number = 0;
    if (base < 2 || base > 36) return TypeError("unsupported: int with that base");
    const char* end = digits.data() + digits.size();
    const auto result = std::from_chars(digits.data(), end, number, static_cast<int>(base));
    if (result.ec == std::errc() && result.ptr == end) return Value(number);
  }
  const std::optional<double> number = AsFloat(self);
  if (number.has_value() && std::abs(*number) < 9.2e18) return Value(static_cast<int64_t>(*number));
  const Value* fallback = arguments.Find(0, "default");
  return fallback == nullptr ? Value(int64_t{0}) : *fallback;
}

Result FloatFilter(Interpreter&, const Value& self, const Arguments& arguments) {
  if (self.IsUndefined()) return TypeError(self.UndefinedReason());
  const std::optional<double> number = AsFloat(self);
  if (number.has_value()) return Value(*number);
  const Value* fallback = arguments.Find(0, "default");
  return fallback == nullptr ? Value(0.0) : *fallback;
}

Result Abs(Interpreter& interpreter, const Value& self, const Arguments&) {
  if (self.IsFloat()) return Value(std::abs(*self.AsNumber()));
  if (!self.AsInt().has_value()) return TypeError("bad operand type for abs()");
  if (*self.AsInt() >= 0) return Value(*self.AsInt());
  return BinaryOperator(interpreter, "-", Value(int64_t{0}), self);
}

Result Round(Interpreter&, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const int64_t precision, IntArgument(arguments, 0, "precision", 0));
  ASSIGN_OR_RETURN(const std::string method, StringArgument(arguments, 1, "method", "common"));
  const std::optional<double> number = self.AsNumber();
  if (!number.has_value()) return TypeError("round wants a number");
  if (precision < 0 || precision > 15) return TypeError("unsupported: round with that precision");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value(std::ceil(*number * scale) / scale);
  if (method == "floor") return Value(std::floor(*number * scale) / scale);
  if (method != "common") return TypeError("method must be common, ceil or floor");
  if (self.AsInt().has_value()) return Value(*self.AsInt());
  // Correctly rounded to the nearest decimal, ties to even, as printf does.
  std::array<char, 512> buffer;
  const int bytes =
      std::snprintf(buffer.data(), buffer.size(), "%.*f", static_cast<int>(precision), *number);
  double rounded = 0;
  std::from_chars(buffer.data(), buffer.data() + bytes, rounded);
  return Value(rounded);
}

Result Default(Interpreter&, const Value& self, const Arguments& arguments) {
  const bool also_false = BoolArgument(arguments, 1, "boolean", false);
  if (!self.IsUndefined() && !(also_false && !self.Truthy())) return self;
  const Value* fallback = arguments.Find(0, "default_value");
  return fallback == nullptr ? Value(std::string()) : *fallback;
}

Result Center(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), self));
  ASSIGN_OR_RETURN(const int64_t width, IntArgument(arguments, 0, "width", 80));
  const auto length = static_cast<int64_t>(Utf8Length(text));
  if (width <= length) return MakeStringLike(interpreter.budget(), self, text);
  const auto pad = static_cast<size_t>(width - length);
  RETURN_IF_ERROR(interpreter.budget().Bytes(pad));
  // str.center puts the odd blank left if the width is odd too.
  const size_t left = pad / 2 + (pad & static_cast<size_t>(width) & 1);
  std::string out(left, ' ');
  out.append(text).append(pad - left, ' ');
  return MakeStringLike(interpreter.budget(), self, std::move(out));
}

Result Format(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value tuple,
                   MakeSequence(interpreter.budget(), arguments.positional, SequenceKind::kTuple));
  ASSIGN_OR_RETURN(const Value text, String(interpreter, self, {}));
  return BinaryOperator(interpreter, "%", text, tuple);
}

}  // namespace

const std::vector<Builtin>& StringFilters() {
  static const std::vector<Builtin> kTable = {
      {"upper", Mapped<Upper>},
      {"lower", Mapped<Lower>},
      {"capitalize", Mapped<Capitalize>},
      {"title", TitleFilter},
      {"string", String},
      {"safe", Safe},
      {"e", EscapeFilter},
      {"escape", EscapeFilter},
      {"forceescape", ForceEscape},
      {"trim", Trim},
      {"replace", Replace},
      {"indent", Indent},
      {"tojson", ToJsonFilter},
      {"int", IntFilter},
      {"float", FloatFilter},
      {"abs", Abs},
      {"round", Round},
      {"default", Default},
      {"d", Default},
      {"center", Center},
      {"format", Format},
  };
  return kTable;
}

}  // namespace trireme::jinja
