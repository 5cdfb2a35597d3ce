// The methods of str that templates use.

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/text.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

const std::string& Self(const Value& self) { return *self.AsString(); }

template <std::string (*Map)(std::string_view)>
Result Mapped(Interpreter& interpreter, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(interpreter.budget().Bytes(Self(self).size() * 4));
  return MakeString(interpreter.budget(), Map(Self(self)));
}

template <bool left, bool right>
Result StripMethod(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value* chars = arguments.Find(0, "chars");
  const bool given = chars != nullptr && !chars->IsNone();
  if (given && chars->AsString() == nullptr) return TypeError("strip arg must be None or str");
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + Self(self).size() / 64));
  return MakeString(
      interpreter.budget(),
      std::string(Strip(Self(self), given ? chars->AsString() : nullptr, left, right)));
}

Result StringList(Budget& budget, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  for (const std::string_view part : parts) {
    ASSIGN_OR_RETURN(Value item, MakeString(budget, std::string(part)));
    items.push_back(std::move(item));
  }
  return MakeSequence(budget, std::move(items));
}

// Words between runs of white space, at most `cuts` cuts; -1: any number.
std::vector<std::string_view> SplitSpace(std::string_view text, int64_t cuts) {
  std::vector<std::string_view> parts;
  text.remove_prefix(LeadingSpace(text));
  while (!text.empty()) {
    if (cuts == 0) {
      parts.push_back(text.substr(0, text.size() - TrailingSpace(text)));
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Step step = NextUtf8(text.substr(end));
      if (IsPythonSpace(step.code_point)) break;
      end += step.bytes;
    }
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
    text.remove_prefix(LeadingSpace(text));
    --cuts;
  }
  return parts;
}

// The value of a replacement field: the next one for "", by number, or by name.
absl::StatusOr<const Value*> FieldValue(const Arguments& arguments, std::string_view field,
                                        size_t& next) {
  if (field.find_first_of("!:.[{") != std::string_view::npos) {
    return TypeError(StrCat("unsupported: format field {", field, "}"));
  }
  size_t index = 0;
  if (field.empty()) {
    index = next++;
  } else if (field.size() <= 4 &&
             std::all_of(field.begin(), field.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    for (const char c : field) index = index * 10 + static_cast<size_t>(c - '0');
  } else {
    for (const auto& [name, value] : arguments.named) {
      if (name == field) return &value;
    }
    return TypeError(StrCat("no format argument ", field));
  }
  if (index >= arguments.positional.size()) {
    return TypeError("Replacement index out of range for positional args tuple");
  }
  return &arguments.positional[index];
}

Result Format(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  std::string_view rest = Self(self);
  std::string out;
  size_t next = 0;
  bool numbered = false;
  while (!rest.empty()) {
    const size_t brace = std::min(rest.find_first_of("{}"), rest.size());
    out.append(rest.substr(0, brace));
    rest.remove_prefix(brace);
    if (rest.empty()) break;
    if (rest.size() > 1 && rest[0] == rest[1]) {
      out.push_back(rest[0]);
      rest.remove_prefix(2);
      continue;
    }
    const size_t close = rest.find('}');
    if (rest[0] == '}' || close == std::string_view::npos) {
      return TypeError(StrCat("Single '", rest.substr(0, 1), "' encountered in format string"));
    }
    const std::string_view field = rest.substr(1, close - 1);
    numbered |= !field.empty() && field[0] >= '0' && field[0] <= '9';
    ASSIGN_OR_RETURN(const Value* value, FieldValue(arguments, field, next));
    if (numbered && next > 0) return TypeError("cannot switch between field numberings");
    ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), *value));
    RETURN_IF_ERROR(interpreter.budget().Bytes(text.size()));
    out.append(text);
    rest.remove_prefix(close + 1);
  }
  return MakeString(interpreter.budget(), std::move(out));
}

Result Split(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(int64_t cuts, IntArgument(arguments, 1, "maxsplit", -1));
  const Value* given = arguments.Find(0, "sep");
  std::string_view text = Self(self);
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + text.size() / 16));
  if (given == nullptr || given->IsNone()) {
    return StringList(interpreter.budget(), SplitSpace(text, cuts));
  }
  ASSIGN_OR_RETURN(const std::string separator, StringArgument(arguments, 0, "sep", ""));
  if (separator.empty()) return TypeError("empty separator");
  std::vector<std::string_view> parts;
  for (; cuts != 0; --cuts) {
    const size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return StringList(interpreter.budget(), parts);
}

Result RightSplit(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(int64_t cuts, IntArgument(arguments, 1, "maxsplit", -1));
  const Value* given = arguments.Find(0, "sep");
  std::string_view text = Self(self);
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + text.size() / 16));
  if (given == nullptr || given->IsNone()) {
    if (cuts >= 0) return TypeError("unsupported: rsplit without separator, with maxsplit");
    return StringList(interpreter.budget(), SplitSpace(text, cuts));
  }
  ASSIGN_OR_RETURN(const std::string separator, StringArgument(arguments, 0, "sep", ""));
  if (separator.empty()) return TypeError("empty separator");
  std::vector<std::string_view> parts;
  for (; cuts != 0; --cuts) {
    const size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.insert(parts.begin(), text.substr(at + separator.size()));
    text = text.substr(0, at);
    RETURN_IF_ERROR(interpreter.budget().Steps(1 + parts.size() / 64));
  }
  parts.insert(parts.begin(), text);
  return StringList(interpreter.budget(), parts);
}

Result SplitLinesMethod(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + Self(self).size() / 16));
  return StringList(interpreter.budget(),
                    SplitLines(Self(self), BoolArgument(arguments, 0, "keepends", false)));
}

template <bool start>
Result Affix(Interpreter&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.size() != 1) return TypeError("one argument wanted");
  const Value& argument = arguments.positional[0];
  std::vector<Value> options = {argument};
  if (argument.AsSequence() != nullptr) options = argument.AsSequence()->items;
  for (const Value& option : options) {
    if (option.AsString() == nullptr) return TypeError("arg must be str or a tuple of str");
    const bool holds = start ? Self(self).starts_with(*option.AsString())
                             : Self(self).ends_with(*option.AsString());
    if (holds) return Value(true);
  }
  return Value(false);
}

template <bool prefix>
Result RemoveAffix(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string affix, StringArgument(arguments, 0, "affix", ""));
  std::string_view text = Self(self);
  if (prefix && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!prefix && text.ends_with(affix)) text.remove_suffix(affix.size());
  return MakeString(interpreter.budget(), std::string(text));
}

template <bool from_right, bool must>
Result FindText(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (arguments.positional.size() != 1) return TypeError("unsupported: find with bounds");
  ASSIGN_OR_RETURN(const std::string part, StringArgument(arguments, 0, "sub", ""));
  const std::string_view text = Self(self);
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + text.size() / 16));
  const size_t at = from_right ? text.rfind(part) : text.find(part);
  if (at == std::string_view::npos) {
    if (must) return TypeError("substring not found");
    return Value(int64_t{-1});
  }
  return Value(static_cast<int64_t>(Utf8Length(text.substr(0, at))));
}

Result CountText(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string part, StringArgument(arguments, 0, "sub", ""));
  const std::string& text = Self(self);
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + text.size() / 16));
  if (part.empty()) return Value(static_cast<int64_t>(Utf8Length(text)) + 1);
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return Value(count);
}

Result ReplaceText(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const BuiltinFunction filter = FindFilter("replace");
  return filter(interpreter, self, arguments);
}

Result JoinMethod(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (arguments.positional.size() != 1) return TypeError("join() takes exactly one argument");
  ASSIGN_OR_RETURN(const auto items, Iterate(interpreter.budget(), arguments.positional[0]));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    const std::string* item = items->items[i].AsString();
    if (item == nullptr) return TypeError("join() wants strings");
    RETURN_IF_ERROR(interpreter.budget().Bytes(item->size() + Self(self).size()));
    if (i > 0) out += Self(self);
    out += *item;
  }
  return Value(std::move(out));
}

// Whether every character is of a kind, and there is one.
template <bool (*Kind)(char32_t)>
Result AllAre(Interpreter& interpreter, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(interpreter.budget().Steps(1 + Self(self).size() / 16));
  std::string_view text = Self(self);
  if (text.empty()) return Value(false);
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (!Kind(step.code_point)) return Value(false);
    text.remove_prefix(step.bytes);
  }
  return Value(true);
}

bool IsAsciiDigit(char32_t c) { return c >= '0' && c <= '9'; }
bool IsLetterOrDigit(char32_t c) { return IsLetter(c) || IsAsciiDigit(c); }

template <bool upper>
Result CaseTest(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return FindTest(upper ? "upper" : "lower")(interpreter, self, arguments);
}

Result Partition(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string separator, StringArgument(arguments, 0, "sep", ""));
  if (separator.empty()) return TypeError("empty separator");
  const std::string& text = Self(self);
  const size_t at = text.find(separator);
  const bool found = at != std::string::npos;
  std::vector<Value> parts;
  for (const std::string& part : {text.substr(0, at), found ? separator : std::string(),
                                  found ? text.substr(at + separator.size()) : std::string()}) {
    ASSIGN_OR_RETURN(Value value, MakeString(interpreter.budget(), part));
    parts.push_back(std::move(value));
  }
  return MakeSequence(interpreter.budget(), std::move(parts), SequenceKind::kTuple);
}

}  // namespace

const std::vector<Builtin>& StringMethods() {
  static const std::vector<Builtin> kTable = {
      {"upper", Mapped<Upper>},
      {"lower", Mapped<Lower>},
      {"title", Mapped<Title>},
      {"capitalize", Mapped<Capitalize>},
      {"strip", StripMethod<true, true>},
      {"lstrip", StripMethod<true, false>},
      {"rstrip", StripMethod<false, true>},
      {"split", Split},
      {"rsplit", RightSplit},
      {"splitlines", SplitLinesMethod},
      {"startswith", Affix<true>},
      {"endswith", Affix<false>},
      {"removeprefix", RemoveAffix<true>},
      {"removesuffix", RemoveAffix<false>},
      {"find", FindText<false, false>},
      {"rfind", FindText<true, false>},
      {"index", FindText<false, true>},
      {"count", CountText},
      {"replace", ReplaceText},
      {"join", JoinMethod},
      {"isspace", AllAre<IsPythonSpace>},
      {"isdigit", AllAre<IsAsciiDigit>},
      {"isalpha", AllAre<IsLetter>},
      {"isalnum", AllAre<IsLetterOrDigit>},
      {"isupper", CaseTest<true>},
      {"islower", CaseTest<false>},
      {"format", Format},
      {"partition", Partition},
  };
  return kTable;
}

}  // namespace trireme::jinja
