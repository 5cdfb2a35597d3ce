#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/jinja/interpreter.h"
#include "coordinator/text/jinja/value.h"

namespace trireme::jinja {

// What templates can call. Each function reads its arguments as the Python one of that name does;
// errors are InvalidArgument without the line, which the interpreter adds.

using BuiltinFunction = Result (*)(Interpreter&, const Value& self, const Arguments&);

struct Builtin {
  std::string_view name;
  BuiltinFunction function;
};

// Null if there is none of that name.
BuiltinFunction FindFilter(std::string_view name);
BuiltinFunction FindTest(std::string_view name);
// A method of the type of `self`: str, list, tuple, dict or the loop variable.
BuiltinFunction FindMethod(const Value& self, std::string_view name);
// A function every template can call: range, namespace, …; undefined if there is none.
Value FindGlobal(std::string_view name);

// a + b, a % b and so on.
Result BinaryOperator(Interpreter& interpreter, std::string_view op, const Value& a,
                      const Value& b);
// Whether `item in container`.
absl::StatusOr<bool> Contains(Budget& budget, const Value& container, const Value& item);
// value[start:stop:step]; bounds none or integers.
Result SliceValue(Budget& budget, const Value& value, const Value& start, const Value& stop,
                  const Value& step);

// Reading arguments: the value, or `fallback` if it is not given.
absl::StatusOr<int64_t> IntArgument(const Arguments& arguments, size_t index, std::string_view name,
                                    int64_t fallback);
absl::StatusOr<std::string> StringArgument(const Arguments& arguments, size_t index,
                                           std::string_view name, std::string_view fallback);
bool BoolArgument(const Arguments& arguments, size_t index, std::string_view name, bool fallback);

// The tables, one for each file.
const std::vector<Builtin>& StringFilters();
const std::vector<Builtin>& SequenceFilters();
const std::vector<Builtin>& StringMethods();
BuiltinFunction FindIn(const std::vector<Builtin>& table, std::string_view name);

}  // namespace trireme::jinja
