#include "coordinator/text/jinja/builtins.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "base/status_macros.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/text.h"
#include "coordinator/text/utf8.h"

namespace trireme::jinja {
namespace {

constexpr int64_t kRangeMax = 100'000;  // as in Jinja2's sandbox

Result Range(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  std::vector<int64_t> numbers;
  for (const Value& argument : arguments.positional) {
    if (!argument.AsInt().has_value()) return TypeError("range() wants integers");
    numbers.push_back(*argument.AsInt());
  }
  if (numbers.empty() || numbers.size() > 3) return TypeError("range() wants 1 to 3 arguments");
  int64_t i = numbers.size() > 1 ? numbers[0] : 0;
  const int64_t stop = numbers.size() > 1 ? numbers[1] : numbers[0];
  const int64_t step = numbers.size() > 2 ? numbers[2] : 1;
  if (step == 0) return TypeError("range() arg 3 must not be zero");
  std::vector<Value> items;
  while (step > 0 ? i < stop : i > stop) {
    if (static_cast<int64_t>(items.size()) >= kRangeMax) {
      return TypeError(StrCat("range too big: more than ", kRangeMax));
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return MakeSequence(interpreter.budget(), std::move(items), SequenceKind::kRange);
}

Result NamespaceFunction(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  Namespace space;
  for (const Value& argument : arguments.positional) {
    if (argument.AsDict() == nullptr) return TypeError("namespace() wants a dict");
    for (const auto& [key, value] : argument.AsDict()->entries) {
      if (key.AsString() != nullptr) space.attributes[*key.AsString()] = value;
    }
  }
  for (const auto& [name, value] : arguments.named) space.attributes[name] = value;
  for (const auto& [name, value] : space.attributes) {
    if (!name.empty() && name[0] == '_') {
      return TypeError("a namespace cannot store names that begin with _");
    }
  }
  RETURN_IF_ERROR(interpreter.budget().Bytes(256));
  return interpreter.MakeNamespace(std::move(space));
}

Result DictFunction(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  Dict dict;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.AsDict() != nullptr) {
      dict = *source.AsDict();
    } else {
      ASSIGN_OR_RETURN(const auto pairs, Iterate(interpreter.budget(), source));
      for (const Value& pair : pairs->items) {
        ASSIGN_OR_RETURN(const auto both, Iterate(interpreter.budget(), pair));
        if (both->items.size() != 2) return TypeError("dict() wants pairs");
        dict.Set(both->items[0], both->items[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) dict.Set(Value(name), value);
  return MakeDict(interpreter.budget(), std::move(dict));
}

Result RaiseException(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  if (arguments.positional.empty()) return TypeError("the template raised an exception");
  ASSIGN_OR_RETURN(const std::string text, ToString(interpreter.budget(), arguments.positional[0]));
  return TypeError(text);
}

Result StrftimeNow(Interpreter& interpreter, const Value&, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string format, StringArgument(arguments, 0, "format", ""));
  if (format.empty()) return MakeString(interpreter.budget(), "");
  if (format.size() > 256) return TypeError("strftime_now: the format is too long");
  const auto now = static_cast<time_t>(interpreter.now_unix_s());
  struct tm local {};
  localtime_r(&now, &local);
  std::array<char, 4096> buffer;
  const size_t bytes = strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  return MakeString(interpreter.budget(), ReplaceInvalidUtf8({buffer.data(), bytes}));
}

const std::vector<Builtin>& Globals() {
  static const std::vector<Builtin> kTable = {
      {"range", Range},
      {"namespace", NamespaceFunction},
      {"dict", DictFunction},
      {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  return kTable;
}

// ---- methods of dict, list and loop

Result DictGet(Interpreter&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return TypeError("get expected at least 1 argument");
  const Value* value = self.AsDict()->Find(arguments.positional[0]);
  if (value != nullptr) return *value;
  return arguments.positional.size() > 1 ? arguments.positional[1] : Value(None{});
}

Result DictItems(Interpreter& interpreter, const Value& self, const Arguments&) {
  std::vector<Value> items;
  for (const auto& [key, value] : self.AsDict()->entries) {
    ASSIGN_OR_RETURN(Value pair,
                     MakeSequence(interpreter.budget(), {key, value}, SequenceKind::kTuple));
    items.push_back(std::move(pair));
  }
  return MakeSequence(interpreter.budget(), std::move(items), SequenceKind::kView);
}

Result DictKeys(Interpreter& interpreter, const Value& self, const Arguments&) {
  std::vector<Value> items;
  for (const auto& entry : self.AsDict()->entries) items.push_back(entry.first);
  return MakeSequence(interpreter.budget(), std::move(items), SequenceKind::kView);
}

Result DictValues(Interpreter& interpreter, const Value& self, const Arguments&) {
  std::vector<Value> items;
  for (const auto& entry : self.AsDict()->entries) items.push_back(entry.second);
  return MakeSequence(interpreter.budget(), std::move(items), SequenceKind::kView);
}

Result Copy(Interpreter&, const Value& self, const Arguments&) { return self; }

Result ListCount(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return TypeError("count() takes one argument");
  int64_t count = 0;
  for (const Value& item : self.AsSequence()->items) {
    ASSIGN_OR_RETURN(const bool equal, Equals(interpreter.budget(), item, arguments.positional[0]));
    count += equal ? 1 : 0;
  }
  return Value(count);
}

Result ListIndex(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return TypeError("index() takes one argument");
  const std::vector<Value>& items = self.AsSequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal,
                     Equals(interpreter.budget(), items[i], arguments.positional[0]));
    if (equal) return Value(static_cast<int64_t>(i));
  }
  return TypeError("the value is not in the list");
}

Result LoopCycle(Interpreter&, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return TypeError("no items for cycling given");
  return arguments.positional[self.AsLoop()->index0 % arguments.positional.size()];
}

Result LoopChanged(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(Value now,
                   MakeSequence(interpreter.budget(), arguments.positional, SequenceKind::kTuple));
  Loop* loop = self.AsLoop();
  if (loop->last_changed.has_value()) {
    ASSIGN_OR_RETURN(const bool same, Equals(interpreter.budget(), *loop->last_changed, now));
    if (same) return Value(false);
  }
  loop->last_changed = std::move(now);
  return Value(true);
}

const std::vector<Builtin>& DictMethods() {
  static const std::vector<Builtin> kTable = {{"get", DictGet},
                                              {"items", DictItems},
                                              {"keys", DictKeys},
                                              {"values", DictValues},
                                              {"copy", Copy}};
  return kTable;
}

const std::vector<Builtin>& ListMethods() {
  static const std::vector<Builtin> kTable = {{"count", ListCount}, {"index", ListIndex}};
  return kTable;
}

const std::vector<Builtin>& LoopMethods() {
  static const std::vector<Builtin> kTable = {{"cycle", LoopCycle}, {"changed", LoopChanged}};
  return kTable;
}

// ---- tests

template <bool (*Holds)(const Value&)>
Result SimpleTest(Interpreter&, const Value& self, const Arguments&) {
  return Value(Holds(self));
}

bool Defined(const Value& value) { return !value.IsUndefined(); }
bool IsUndefinedTest(const Value& value) { return value.IsUndefined(); }
bool IsString(const Value& value) { return value.AsString() != nullptr; }
bool IsEscaped(const Value& value) { return value.IsMarkup(); }
bool IsMapping(const Value& value) { return value.AsDict() != nullptr; }
bool IsNone(const Value& value) { return value.IsNone(); }
bool IsBoolean(const Value& value) { return value.IsBool(); }
bool IsTrue(const Value& value) { return value.IsBool() && value.Truthy(); }
bool IsFalse(const Value& value) { return value.IsBool() && !value.Truthy(); }
bool IsNumber(const Value& value) { return value.IsNumber(); }
bool IsInteger(const Value& value) { return value.IsInt(); }
bool IsFloat(const Value& value) { return value.IsFloat(); }
bool IsCallable(const Value& value) { return value.AsCallable() != nullptr; }
bool IsIterable(const Value& value) {
  return value.IsUndefined() || value.AsString() != nullptr || value.AsDict() != nullptr ||
         value.AsSequence() != nullptr || value.AsLoop() != nullptr;
}
bool IsSequence(const Value& value) {
  const Sequence* sequence = value.AsSequence();
  if (sequence != nullptr) {
    return sequence->kind != SequenceKind::kView && sequence->kind != SequenceKind::kGenerator;
  }
  return value.IsUndefined() || value.AsString() != nullptr || value.AsDict() != nullptr;
}
bool IsLower(const Value& value) {
  return value.AsString() != nullptr && Lower(*value.AsString()) == *value.AsString() &&
         Upper(*value.AsString()) != *value.AsString();
}
bool IsUpper(const Value& value) {
  return value.AsString() != nullptr && Upper(*value.AsString()) == *value.AsString() &&
         Lower(*value.AsString()) != *value.AsString();
}

absl::StatusOr<Value> Operand(const Arguments& arguments) {
  if (arguments.positional.empty()) return TypeError("the test wants an argument");
  return arguments.positional[0];
}

enum class Comparison { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual };

template <Comparison kind>
Result CompareTest(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Operand(arguments));
  Budget& budget = interpreter.budget();
  absl::StatusOr<bool> holds = false;
  constexpr bool kNegate = kind == Comparison::kNotEqual || kind == Comparison::kLessEqual ||
                           kind == Comparison::kGreaterEqual;
  if constexpr (kind == Comparison::kEqual || kind == Comparison::kNotEqual) {
    holds = Equals(budget, self, other);
  } else if constexpr (kind == Comparison::kLess || kind == Comparison::kGreaterEqual) {
    holds = Less(budget, self, other);
  } else {
    holds = Less(budget, other, self);
  }
  RETURN_IF_ERROR(holds.status());
  return Value(*holds != kNegate);
}

Result InTest(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value container, Operand(arguments));
  ASSIGN_OR_RETURN(const bool holds, Contains(interpreter.budget(), container, self));
  return Value(holds);
}

Result SameAsTest(Interpreter&, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Operand(arguments));
  return Value(self.SameAs(other));
}

absl::StatusOr<bool> Divides(Interpreter& interpreter, const Value& self, int64_t by) {
  ASSIGN_OR_RETURN(const Value rest, BinaryOperator(interpreter, "%", self, Value(by)));
  return rest.AsNumber() == 0.0;
}

Result EvenTest(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const bool even, Divides(interpreter, self, 2));
  return Value(even);
}

Result OddTest(Interpreter& interpreter, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(const bool even, Divides(interpreter, self, 2));
  return Value(!even);
}

Result DivisibleTest(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const int64_t by, IntArgument(arguments, 0, "num", 0));
  ASSIGN_OR_RETURN(const bool holds, Divides(interpreter, self, by));
  return Value(holds);
}

const std::vector<Builtin>& Tests() {
  using C = Comparison;
  static const std::vector<Builtin> kTable = {
      {"defined", SimpleTest<Defined>},
      {"undefined", SimpleTest<IsUndefinedTest>},
      {"string", SimpleTest<IsString>},
      {"escaped", SimpleTest<IsEscaped>},
      {"mapping", SimpleTest<IsMapping>},
      {"none", SimpleTest<IsNone>},
      {"boolean", SimpleTest<IsBoolean>},
      {"true", SimpleTest<IsTrue>},
      {"false", SimpleTest<IsFalse>},
      {"number", SimpleTest<IsNumber>},
      {"integer", SimpleTest<IsInteger>},
      {"float", SimpleTest<IsFloat>},
      {"callable", SimpleTest<IsCallable>},
      {"iterable", SimpleTest<IsIterable>},
      {"sequence", SimpleTest<IsSequence>},
      {"lower", SimpleTest<IsLower>},
      {"upper", SimpleTest<IsUpper>},
      {"eq", CompareTest<C::kEqual>},
      {"==", CompareTest<C::kEqual>},
      {"equalto", CompareTest<C::kEqual>},
      {"ne", CompareTest<C::kNotEqual>},
      {"!=", CompareTest<C::kNotEqual>},
      {"lt", CompareTest<C::kLess>},
      {"<", CompareTest<C::kLess>},
      {"lessthan", CompareTest<C::kLess>},
      {"le", CompareTest<C::kLessEqual>},
      {"<=", CompareTest<C::kLessEqual>},
      {"gt", CompareTest<C::kGreater>},
      {">", CompareTest<C::kGreater>},
      {"greaterthan", CompareTest<C::kGreater>},
      {"ge", CompareTest<C::kGreaterEqual>},
      {">=", CompareTest<C::kGreaterEqual>},
      {"in", InTest},
      {"sameas", SameAsTest},
      {"even", EvenTest},
      {"odd", OddTest},
      {"divisibleby", DivisibleTest},
  };
  return kTable;
}

}  // namespace

BuiltinFunction FindIn(const std::vector<Builtin>& table, std::string_view name) {
  const auto it = std::find_if(table.begin(), table.end(),
                               [&](const Builtin& builtin) { return builtin.name == name; });
  return it == table.end() ? nullptr : it->function;
}

BuiltinFunction FindFilter(std::string_view name) {
  const BuiltinFunction filter = FindIn(StringFilters(), name);
  return filter != nullptr ? filter : FindIn(SequenceFilters(), name);
}

BuiltinFunction FindTest(std::string_view name) { return FindIn(Tests(), name); }

BuiltinFunction FindMethod(const Value& self, std::string_view name) {
  if (self.AsString() != nullptr) return FindIn(StringMethods(), name);
  if (self.AsDict() != nullptr) return FindIn(DictMethods(), name);
  if (self.AsLoop() != nullptr) return FindIn(LoopMethods(), name);
  const Sequence* sequence = self.AsSequence();
  if (sequence == nullptr || sequence->kind == SequenceKind::kView ||
      sequence->kind == SequenceKind::kGenerator) {
    return nullptr;
  }
  return FindIn(ListMethods(), name);
}

Value FindGlobal(std::string_view name) {
  const BuiltinFunction function = FindIn(Globals(), name);
  if (function == nullptr) return Value();
  Callable callable;
  callable.name = name;
  callable.call = [function](Interpreter& interpreter, const Arguments& arguments) {
    return function(interpreter, Value(), arguments);
  };
  return Value(std::make_shared<const Callable>(std::move(callable)));
}

absl::StatusOr<int64_t> IntArgument(const Arguments& arguments, size_t index, std::string_view name,
                                    int64_t fallback) {
  const Value* value = arguments.Find(index, name);
  if (value == nullptr || value->IsNone()) return fallback;
  if (!value->AsInt().has_value()) return TypeError(StrCat("'", name, "' must be an integer"));
  return *value->AsInt();
}

absl::StatusOr<std::string> StringArgument(const Arguments& arguments, size_t index,
                                           std::string_view name, std::string_view fallback) {
  const Value* value = arguments.Find(index, name);
  if (value == nullptr || value->IsNone()) return std::string(fallback);
  if (value->AsString() == nullptr) return TypeError(StrCat("'", name, "' must be a string"));
  return *value->AsString();
}

bool BoolArgument(const Arguments& arguments, size_t index, std::string_view name, bool fallback) {
  const Value* value = arguments.Find(index, name);
  return value == nullptr ? fallback : value->Truthy();
}

}  // namespace trireme::jinja
